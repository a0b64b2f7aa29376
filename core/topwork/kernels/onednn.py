"""Linear layers and convolutions of single pixels on AMD's CPUs with AVX-512, where torch's matrix library (MKL) leaves
half of the speed unused: there they go through oneDNN, which torch brings along too, forward and backward.

Measured on an EPYC, float32, one thread, 384 x 1536 weights: 111 GFLOP/s with MKL, 243 with oneDNN. The numbers are
float32 either way and differ in the last digits, as they do between two sizes of a batch. Elsewhere nothing changes.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import Parameter
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from topwork.kernels.bf16 import Narrow

#: fewer rows than this, or products than that: calling oneDNN costs more (15 microseconds) than it wins
LEAST_ROWS = 8
LEAST_PRODUCTS = 2**20


class OneDnn(TorchFunctionMode):
    """While it is entered, `torch.nn.functional.linear`, `torch.addmm` and `torch.conv2d` with kernels of one pixel go
    through oneDNN, if their tensors are float32 on the CPU. Gradients are right, but those of gradients are refused."""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if not kwargs and function is linear and _fits(*args[:2]):
            return _linear(args[0], args[1], args[2] if len(args) > 2 else None)
        # a layer whose weight is stored the other way round: [inputs, outputs]
        if not kwargs and function is torch.addmm and len(args) == 3 and args[0].dim() == 1:
            weight = args[2].t()
            if _fits(args[1], weight):
                return _linear(args[1], weight, args[0])
        # other kernels go there already
        if not kwargs and function is torch.conv2d and len(args) == 7 and _fits_pixels(*args):
            values, weight, bias, stride, padding, dilation, groups = args
            return torch.mkldnn_convolution(values, weight, bias, padding, stride, dilation, groups)
        return function(*args, **(kwargs or {}))


def _fits_pixels(values: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: Any) -> bool:
    if weight.dim() != 4 or tuple(weight.shape[2:]) != (1, 1) or groups != 1 or values.dim() != 4:
        return False
    simple = all(isinstance(entry, tuple) for entry in (stride, padding, dilation))
    return simple and _float32(values, weight) and values.numel() * weight.shape[0] >= LEAST_PRODUCTS


def _fits(values: Any, weight: Any) -> bool:
    """Whether oneDNN takes these tensors and is the faster one: [..., inputs] by [outputs, inputs]."""
    if not _float32(values, weight) or weight.dim() != 2 or values.dim() < 2:
        return False
    if not weight.shape[1] or values.shape[-1] != weight.shape[1]:
        return False
    rows = values.numel() // weight.shape[1]
    return rows >= LEAST_ROWS and rows * weight.numel() >= LEAST_PRODUCTS


def _float32(values: Any, weight: Any) -> bool:
    """Whether these are plain float32 tensors on the CPU, and stay so."""
    if torch.is_autocast_enabled("cpu"):
        return False
    if type(values) is not torch.Tensor or type(weight) not in (torch.Tensor, Parameter):
        return False
    return all(tensor.dtype is torch.float32 and tensor.device.type == "cpu" for tensor in (values, weight))


def _linear(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    known = [tensor for tensor in (values, weight, bias) if tensor is not None]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in known):
        # as a matrix: a function of one's own must not answer a view, which models may then change in place
        return _Linear.apply(values.flatten(0, -2), weight, bias).unflatten(0, values.shape[:-1])
    return _product(values, weight, bias)


def _product(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """[..., inputs] x [outputs, inputs] -> [..., outputs]"""
    return torch.ops.mkldnn._linear_pointwise(values, weight, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    """y = x W' + b, with dx = dy W, dW = dy' x, db = the sum of dy."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        # what stays frozen needs no inputs kept
        values_wanted, weight_wanted, _ = ctx.needs_input_grad
        ctx.save_for_backward(values if weight_wanted else None, weight if values_wanted else None)
        return _product(values, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, change: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        flat = change.reshape(-1, change.shape[-1])
        return (
            _product(change, weight.t()) if wanted[0] else None,
            _product(flat.t(), values.reshape(-1, values.shape[-1]).t()) if wanted[1] else None,
            flat.sum(0) if wanted[2] else None,
        )


def fast_products(device: Any, precision: str = "float32", *, frozen: bool = False) -> AbstractContextManager:
    """The mode where it helps: float32 on such a CPU; else a context that does nothing. Whoever runs a model for long
    may enter it: numbers stay right, in training and without, and memory is no other.

    Args:
        frozen: no parameter needs a gradient, but something else does: then there is a mode for "bf16" as well (see
            `narrow.py`), which keeps the weights in bf16.
    """
    if device.type != "cpu" or not (precision == "float32" or (precision == "bf16" and frozen)) or not _helps():
        return nullcontext()
    return OneDnn() if precision == "float32" else Narrow()


@cache
def _helps() -> bool:
    """By the kind of the CPU and not by measuring: two runs on one machine must take the same way."""
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        return False
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    told = Path("/proc/cpuinfo")
    return told.is_file() and "AuthenticAMD" in told.read_text(encoding="utf-8", errors="replace")
