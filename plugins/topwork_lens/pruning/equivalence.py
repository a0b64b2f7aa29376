"""Comparison of the masked and the pruned model: both must give the same numbers, and masking must change them.

Entry points: `record` (inputs of each layer in a run of the model, as `Replay`), `run_outputs`, `compare`. `job`
decides what is compared with what.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from topwork import AttentionLayer, Refused, map_tensors
from topwork_lens.capture.undescribed import all_described
from topwork_lens.layers.context import module_at
from topwork_lens.model_state import quiet, seed_for, with_forward
from topwork_lens.refusals import refuse


@dataclass
class Comparison:
    """Comparison of two runs.

    Args:
        difference: max|masked - pruned| / max|masked|, the worst over the outputs.
        effect: max|masked - unpruned| / max|masked|, the largest over the outputs.
        tolerance: the largest `difference` that passes.
    """

    difference: float
    effect: float
    tolerance: float

    @property
    def proves(self) -> bool:
        """Whether masking changed the output by at least 100 tolerances: equality then means something."""
        return self.effect >= 100 * self.tolerance

    def json(self) -> dict[str, Any]:
        """Return the form that a stage's result has."""
        return {
            "difference": self.difference,
            "tolerance": self.tolerance,
            "effect": self.effect,
            "proves": self.proves,
        }


def tolerance_of(dtype: torch.dtype) -> float:
    """Return the tolerance relative to max|output|: 1e-5 in float32, 1e-10 in float64, 64 eps in half precision."""
    if dtype == torch.float64:
        return 1e-10
    return 1e-5 if dtype == torch.float32 else 64 * torch.finfo(dtype).eps


def tensors(value: Any) -> list[torch.Tensor]:
    """Return all floating tensors in an output, in order: of model outputs, dicts, lists, tuples and dataclasses."""
    if isinstance(value, torch.Tensor):
        return [value.detach()] if value.is_floating_point() else []
    if isinstance(value, Mapping):
        return [tensor for key, part in value.items() if "attention" not in str(key) for tensor in tensors(part)]
    if isinstance(value, list | tuple):
        return [tensor for part in value for tensor in tensors(part)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return tensors({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    return []


def compare(
    masked: Sequence[torch.Tensor], pruned: Sequence[torch.Tensor], plain: Sequence[torch.Tensor]
) -> Comparison:
    """Compare outputs pairwise; elements that are infinite in both are equal.

    Raises:
        Refused: they have different shapes, or the model as it is puts out what is no number.
    """
    if any(original.isnan().any() for original in plain):
        cause = "the model as it is puts out values that are no numbers (nan), which can be compared with nothing"
        raise refuse("check_failed", cause, hint="give a batch on which it puts out numbers: `check=`")
    if not masked or len(masked) != len(pruned) or masked[0].shape != pruned[0].shape:
        raise refuse("check_failed", "the masked and the pruned model give outputs of different shapes")
    worst, effect = 0.0, 0.0
    for expected, actual, original in zip(masked, pruned, plain, strict=True):
        if expected.shape != actual.shape:
            shapes = f"{tuple(expected.shape)} masked, {tuple(actual.shape)} pruned"
            raise refuse("check_failed", f"an output has shape {shapes}")
        finite = expected.double()[expected.isfinite()].abs()
        scale = (float(finite.max()) if finite.numel() else 1.0) or 1.0
        worst = max(worst, _largest_gap(expected, actual) / scale)
        # an output whose very length depends on the attention head has changed as much as it can
        same = expected.shape == original.shape
        effect = max(effect, _largest_gap(expected, original) / scale if same else float("inf"))
    return Comparison(worst, effect, tolerance_of(masked[0].dtype))


def _largest_gap(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.double(), b.double()
    gap = (a - b).abs().masked_fill(a == b, 0)
    return float(gap.max().nan_to_num(nan=float("inf"))) if gap.numel() else 0.0


#: differences below may be rounding that grew over layers
_ROUNDING = 1e-2


class Rounding(ArithmeticError):
    """Cause of a refusal whose difference is so small that it may be rounding."""


def agree(
    masked: Sequence[torch.Tensor], pruned: Sequence[torch.Tensor], plain: Sequence[torch.Tensor], location: str
) -> Comparison:
    """Compare outputs, and refuse when they differ.

    Raises:
        Refused: "check_failed"; `is_rounding` says whether a repetition in float64 may show that nothing is wrong.
    """
    comparison = compare(masked, pruned, plain)
    if comparison.difference <= comparison.tolerance:
        return comparison
    error = refuse(
        "check_failed",
        f"masked and pruned differ by {comparison.difference:.3g} of max|output| "
        f"(tolerance {comparison.tolerance:.3g})",
        place=location,
        hint="mask these attention heads instead",
    )
    error.__cause__ = Rounding(comparison) if comparison.difference < _ROUNDING else None
    raise error


def is_rounding(error: BaseException) -> bool:
    """Return whether a check failed by so little that it may be rounding."""
    return isinstance(error, Refused) and isinstance(error.__cause__, Rounding)


def run_outputs(model: nn.Module, call: Callable[[], Any]) -> list[torch.Tensor]:
    """Return everything that the model put out during `call`; when it was not called, what `call` returned."""
    outputs: list[torch.Tensor] = []
    handle = model.register_forward_hook(lambda module, args, output: outputs.extend(tensors(output)))
    try:
        with quiet(model):
            result = call()
    finally:
        handle.remove()
    return outputs or tensors(result)


_HALF = (torch.float16, torch.bfloat16)


@dataclass
class Replay:
    """A layer with the inputs that it had in a run of the whole model.

    A layer in half precision is replayed in float32 where its code can: 64 eps of bfloat16 are half of max|output|, and
    prove nothing of a cut.

    Args:
        wide: whether it is replayed in float32; None until that was tried.
    """

    module: nn.Module
    args: tuple
    kwargs: dict[str, Any]
    wide: bool | None = None
    _steady: Collection[torch.device] | None = None

    @contextmanager
    def steady(self) -> Iterator[None]:
        """Keep the module in evaluation mode between runs for the block: in deep modules the change takes time."""
        with quiet(self.module):
            self._steady = {parameter.device for parameter in self.module.parameters()}
            try:
                yield
            finally:
                self._steady = None

    def __call__(self) -> list[torch.Tensor]:
        """Return the outputs of the layer alone; of several, the first: the others are attention weights."""
        return self.all_outputs()[:1]

    def all_outputs(self) -> list[torch.Tensor]:
        """Return all outputs of the module alone."""
        if self.wide is None:
            try:
                self.wide = any(parameter.dtype in _HALF for parameter in self.module.parameters())
                self.wide = self.wide and self._run(torch.float32)[0].dtype == torch.float32
            except Exception:  # kernels and casts that know half precision alone
                self.wide = False
        return self._run(torch.float32 if self.wide else None)

    def in_double(self) -> list[torch.Tensor]:
        """Return what a call returns, computed in float64."""
        return self._run(torch.float64)[:1]

    def _run(self, dtype: torch.dtype | None) -> list[torch.Tensor]:
        if self._steady is not None:
            seed_for(self._steady)
        state = quiet(self.module) if self._steady is None else nullcontext()
        with state, widened(self.module, dtype) if dtype else nullcontext():
            # Caches and the like are changed by a call, so every call gets its own.
            args, kwargs = copy.deepcopy((self.args, self.kwargs))
            if dtype:
                args, kwargs = map_tensors((args, kwargs), lambda tensor: _widen(tensor, dtype))
            output = self.module(*args, **kwargs)
        return tensors(output)


def _is_narrower(tensor: torch.Tensor, dtype: torch.dtype) -> bool:
    return tensor.is_floating_point() and tensor.element_size() < dtype.itemsize


def _widen(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(dtype) if _is_narrower(tensor, dtype) else tensor


@contextmanager
def widened(module: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Give narrower parameters and buffers a dtype for the block; afterwards they are the very tensors as before."""
    state = (*module.parameters(), *module.buffers())
    changed = [(tensor, tensor.data) for tensor in state if _is_narrower(tensor, dtype)]
    try:
        for tensor, data in changed:
            tensor.data = data.to(dtype)
        yield
    finally:
        for tensor, data in changed:
            tensor.data = data


class _PromotingMode(TorchFunctionMode):
    """Casts float32 tensors that meet float64 ones: models make some of their own, whatever dtype they have."""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        try:
            return function(*args, **kwargs)
        except RuntimeError:
            args, kwargs = map_tensors((args, kwargs), lambda tensor: _widen(tensor, torch.float64))
            return function(*args, **kwargs)


@contextmanager
def doubled(model: nn.Module) -> Iterator[None]:
    """Run a model in float64 for the block, floating inputs included."""

    def widen_inputs(module: nn.Module, args: Any, kwargs: Any) -> Any:
        return map_tensors((args, kwargs), lambda tensor: _widen(tensor, torch.float64))

    handle = model.register_forward_pre_hook(widen_inputs, with_kwargs=True, prepend=True)
    try:
        with widened(model, torch.float64), _PromotingMode():
            yield
    finally:
        handle.remove()


@contextmanager
def _observing_direct_calls(module: nn.Module, remember: Callable[..., None]) -> Iterator[None]:
    """Observe calls of a layer's `forward`, which no hook sees."""
    forward = module.forward

    def observed(*args: Any, **kwargs: Any) -> Any:
        remember(module, args, kwargs)
        return forward(*args, **kwargs)

    with with_forward(module, observed):
        yield


class Observed(Protocol):
    """Module whose inputs are recorded: it lies at `inside` and is named `path`."""

    @property
    def path(self) -> str:
        """Key of the record."""

    @property
    def inside(self) -> str:
        """Module path."""


def record(
    model: nn.Module, layers: Sequence[Observed], known: Sequence[AttentionLayer] | None, call: Callable[[], Any]
) -> tuple[dict[str, Replay], list[torch.Tensor]]:
    """Run the model once.

    Args:
        model: the model.
        layers: the layers whose inputs are recorded.
        known: all layers of the model: nothing else may compute attention; None: that is not checked.
        call: runs the model.

    Returns:
        The first inputs of each layer that ran, by path, and the model's outputs.

    Raises:
        Refused: attention runs where no layer is known.
    """
    replays: dict[str, Replay] = {}

    def remember(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            if path not in replays:
                replays[path] = Replay(module, *copy.deepcopy((args, kwargs)))

        return hook

    with ExitStack() as stack:
        for layer in layers:
            hook = remember(layer.path)
            module = module_at(model, layer.inside)
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True, prepend=True).remove)
            stack.enter_context(_observing_direct_calls(module, hook))
        if known is not None:
            stack.enter_context(all_described(model, known))
        outputs = run_outputs(model, call)
    return replays, outputs
