"""Layers that have lost all of their attention heads, when a model is exported.

What such a layer puts out is the bias of its output projection. Eager code and compilers compute that from a context
that has no columns; ONNX has no such products (a size of 0 in a Reshape means "as it was" there). So while a model is
exported the projection answers its bias, and what leads to it drops out of the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from topwork_lens.layers.projections import is_pointwise


class AnswerBias:
    """A forward hook of an output projection without input features; it does nothing but in an export."""

    def __call__(self, module: nn.Module, args: Any, output: Any) -> torch.Tensor | None:
        if not (torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()):
            return None
        bias = getattr(module, "bias", None)
        return output.new_zeros(output.shape) if bias is None else bias.expand(output.shape)


def answer_bias(projection: nn.Module) -> Callable[[], None]:
    """Put the hook on an output projection; answers how to take it away."""
    if is_pointwise(projection):  # its bias does not lie along the last dimension
        return lambda: None
    return projection.register_forward_hook(AnswerBias()).remove
