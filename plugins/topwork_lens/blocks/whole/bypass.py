"""The masked reference of leaving out a layer: a bypass, which gives what the layer is given; and block influence.

Entry points: `bypassed` and `block_influence`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from topwork_lens.blocks.whole.whole_layer import WholeLayer, first_tensor
from topwork_lens.model_state import quiet
from topwork_lens.scope import Scope


@contextmanager
def bypassed(model: nn.Module, layers: Sequence[WholeLayer]) -> Iterator[None]:
    """Make layers give what they are given for the time of the block; in force in this thread or task."""
    with ExitStack() as stack:
        scope = stack.enter_context(Scope())

        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
            if not scope.active:
                return output
            given = first_tensor(args)
            return with_first_tensor(output, first_tensor(kwargs) if given is None else given)

        for layer in layers:
            module = model.get_submodule(f"{layer.list_path}.{layer.position}")
            stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        yield


def with_first_tensor(output: Any, value: Any) -> Any:
    """Return an output whose first floating tensor is another."""
    if isinstance(output, torch.Tensor):
        return value
    if isinstance(output, tuple | list):
        parts = list(output)
        for index, part in enumerate(parts):
            if first_tensor(part) is not None:
                parts[index] = with_first_tensor(part, value)
                return type(output)(parts) if type(output) in (tuple, list) else tuple(parts)
        return output
    name = next(name for name, part in output.items() if first_tensor(part) is not None)
    return type(output)(**{**output, name: with_first_tensor(output[name], value)})


def block_influence(model: nn.Module, layers: Sequence[WholeLayer], runs: Sequence[Callable[[], Any]]) -> list[float]:
    """Return 1 - mean cosine of what each layer is given and gives, over all positions (Men et al. 2024, equation 1).

    Args:
        model: the model.
        layers: its whole layers.
        runs: each runs the model on a batch.
    """
    sums, counts = [0.0] * len(layers), [0] * len(layers)

    def watch(index: int) -> Any:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            given, made = first_tensor(args), first_tensor(output)
            given = first_tensor(kwargs) if given is None else given
            if given is not None and made is not None and given.shape == made.shape:
                cosines = torch.cosine_similarity(given.double(), made.double(), dim=-1)
                sums[index] += float(cosines.sum())
                counts[index] += cosines.numel()

        return hook

    with ExitStack() as stack:
        for index, layer in enumerate(layers):
            module = model.get_submodule(f"{layer.list_path}.{layer.position}")
            stack.callback(module.register_forward_hook(watch(index), with_kwargs=True).remove)
        with quiet(model):
            for run in runs:
                run()
    return [1 - total / count if count else float("nan") for total, count in zip(sums, counts, strict=True)]
