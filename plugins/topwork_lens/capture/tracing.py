"""Tracing of attention that a module computes itself: from scores through a softmax into the product with values.

Entry point: `SoftmaxTracer`. Whose module runs, and what the tensors mean, its caller decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

SOFTMAX = (torch.softmax, functional.softmax, torch.Tensor.softmax)
#: a softmax may be written as exp(scores - logsumexp(scores))
EXPONENTIALS = (torch.exp, torch.Tensor.exp)
KERNELS = (functional.scaled_dot_product_attention, functional.multi_head_attention_forward)
PRODUCTS = (
    torch.matmul,
    torch.bmm,
    torch.einsum,
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
    torch.Tensor.bmm,
    torch.baddbmm,
    torch.Tensor.baddbmm,
    torch.Tensor.__rmatmul__,
    torch.mm,
)


@dataclass(frozen=True)
class Computation:
    """Call of a function of torch."""

    function: Any
    args: tuple
    kwargs: dict[str, Any]


_REPLACED: ContextVar[Computation | None] = ContextVar("topwork_lens_replaced", default=None)


class SoftmaxTracer(TorchFunctionMode):
    """Mode that traces the product of two computed tensors (scores) into a softmax, and that into the next product.

    Tensors are marked by an attribute, so that nothing is kept alive longer than the model keeps it.

    Args:
        report: called as `report(how, function, args, kwargs, output, weights)`. `how` is "kernel" (one of torch's
            attention functions), "softmax", "points" (a softmax of something that is no product) or "samples" (values
            are taken at points); `weights` are the softmax's result and what was multiplied, or None. What `report`
            returns for a kernel replaces its output, unless it is None.
    """

    def __init__(self, report: Callable[..., Any]) -> None:
        super().__init__()
        self.report = report
        self._changed: Any = None

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        _REPLACED.set(None)
        output = self.compute(function, args, kwargs or {})
        # The computation that ran may differ from the one that was requested.
        replaced = _REPLACED.get()
        self._trace(replaced or Computation(function, args, kwargs or {}), output)
        _REPLACED.set(replaced)
        return self._answer(output)

    def compute(self, function: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Return what a function of torch returns."""
        return function(*args, **kwargs)

    def _answer(self, output: Any) -> Any:
        changed, self._changed = self._changed, None
        return output if changed is None else changed

    def _trace(self, computation: Computation, output: Any) -> None:
        function, args, kwargs = computation.function, computation.args, computation.kwargs
        if function in KERNELS:
            self._changed = self.report("kernel", function, args, kwargs, output, None)
            return
        if function is functional.grid_sample:
            self.report("samples", function, args, kwargs, output, None)
        operands = [operand for operand in (*_flat(args), *kwargs.values()) if isinstance(operand, torch.Tensor)]
        marked = [operand for operand in operands if hasattr(operand, _MARK)]
        if function in PRODUCTS:
            weights = [operand for operand in marked if _origin(operand) is not _SCORES]
            if weights and len(operands) > 1:
                self.report("softmax", function, args, kwargs, output, (_origin(weights[0]), weights[0]))
            elif is_computed_product(function, operands):
                _mark(output, _SCORES)
        elif function in SOFTMAX:
            if marked:
                _mark(output, output)
            else:
                self.report("points", function, args, kwargs, output, (output, output))
        elif function in EXPONENTIALS and marked and _sums_to_one(output):
            _mark(output, output)
        elif marked and _is_new(output, marked):
            origins = (_origin(operand) for operand in marked)
            _mark(output, next((origin for origin in origins if origin is not _SCORES), _SCORES))


def is_computed_product(function: Any, operands: Sequence[torch.Tensor]) -> bool:
    """Return whether a function multiplies two computed tensors: parameters are none."""
    several = function in PRODUCTS and len(operands) > 1
    return several and not any(isinstance(operand, nn.Parameter) for operand in operands)


def weighing_operand(operands: Sequence[Any]) -> torch.Tensor | None:
    """Return the operand that was made of a softmax of scores; None when there is none."""
    marked = [each for each in operands if isinstance(each, torch.Tensor) and hasattr(each, _MARK)]
    return next((each for each in marked if _origin(each) is not _SCORES), None)


def mark_weights(weights: torch.Tensor) -> None:
    """Mark a tensor as the result of a softmax of scores."""
    _mark(weights, weights)


def is_scored(operand: Any) -> bool:
    """Return whether a tensor was made of a product of computed tensors."""
    return isinstance(operand, torch.Tensor) and hasattr(operand, _MARK)


def replace_computation(function: Any, args: tuple, kwargs: dict[str, Any]) -> None:
    """Report to the tracer above the running mode the computation that replaces the requested one."""
    _REPLACED.set(Computation(function, args, kwargs))


def _sums_to_one(output: torch.Tensor) -> bool:
    """Return whether these are attention weights: what a router gives each token has fewer dimensions."""
    if output.dim() < 4:
        return False
    sums = output.detach().float().sum(-1)
    return bool(((sums - 1).abs() < 1e-3).all())


def _is_new(output: Any, operands: Sequence[torch.Tensor]) -> bool:
    floating = isinstance(output, torch.Tensor) and output.is_floating_point()
    return floating and not any(operand is output for operand in operands)


_MARK = "_topwork_mark"
_SCORES = "scores"


def _mark(output: Any, mark: Any) -> None:
    if isinstance(output, torch.Tensor) and output.dim() > 1:
        # A tensor that marks itself would keep itself alive.
        setattr(output, _MARK, _Itself if mark is output else mark)


def unmark(tensor: torch.Tensor) -> None:
    """Take the mark off a tensor that is kept: it would keep the weights alive that it was made of."""
    vars(tensor).pop(_MARK, None)


def _origin(tensor: torch.Tensor) -> Any:
    """Return the softmax's result that a tensor was made of, or `_SCORES`."""
    mark = getattr(tensor, _MARK)
    return tensor if mark is _Itself else mark


class _Itself:
    """Mark of a softmax's own result."""


def _flat(args: tuple) -> Iterator[Any]:
    for argument in args:
        if isinstance(argument, tuple | list):
            yield from argument
        else:
            yield argument
