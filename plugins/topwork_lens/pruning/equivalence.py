"""The self-check of pruning: the masked and the pruned model must give the same numbers, layer by layer and once for
the whole model; and masking must change the numbers, or the check says that it proves nothing."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from topwork import AttentionLayer, map_tensors
from topwork_lens.capture.undescribed import all_described
from topwork_lens.gates import module_at
from topwork_lens.model_state import quiet
from topwork_lens.refusals import refuse


@dataclass
class Comparison:
    """Two runs of one thing compared.

    Args:
        difference: max|masked - pruned| / max|masked|, the worst over the outputs.
        effect: max|masked - unpruned| / max|masked|, the largest over the outputs.
        tolerance: what `difference` may be.
    """

    difference: float
    effect: float
    tolerance: float

    @property
    def proves(self) -> bool:
        """Masking changed the output by at least 100 tolerances: equality then means something."""
        return self.effect >= 100 * self.tolerance

    def json(self) -> dict[str, Any]:
        """For a stage's result."""
        return {
            "difference": self.difference,
            "tolerance": self.tolerance,
            "effect": self.effect,
            "proves": self.proves,
        }


def tolerance_of(dtype: torch.dtype) -> float:
    """Relative to max|output|: 1e-5 in float32, 1e-10 in float64, 64 eps in half precision."""
    if dtype == torch.float64:
        return 1e-10
    return 1e-5 if dtype == torch.float32 else 64 * torch.finfo(dtype).eps


def tensors(value: Any) -> list[torch.Tensor]:
    """All floating tensors in an output, in order; looks into model outputs, dicts, lists, tuples and dataclasses."""
    if isinstance(value, torch.Tensor):
        return [value.detach()] if value.is_floating_point() else []
    if isinstance(value, Mapping):
        return [found for key, entry in value.items() if "attention" not in str(key) for found in tensors(entry)]
    if isinstance(value, list | tuple):
        return [found for entry in value for found in tensors(entry)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return tensors({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    return []


def compare(
    masked: Sequence[torch.Tensor], pruned: Sequence[torch.Tensor], plain: Sequence[torch.Tensor]
) -> Comparison:
    """Compare outputs pairwise; an output that is infinite in the same places is equal there."""
    if not masked or len(masked) != len(pruned) or masked[0].shape != pruned[0].shape:
        raise refuse("check_failed", "the masked and the pruned model give outputs of different shapes")
    worst, effect = 0.0, 0.0
    for one, other, original in zip(masked, pruned, plain, strict=True):
        if one.shape != other.shape:
            raise refuse("check_failed", f"an output has shape {tuple(one.shape)} masked, {tuple(other.shape)} pruned")
        finite = one.double()[one.isfinite()].abs()
        scale = float(finite.max()) if finite.numel() else 1.0
        worst = max(worst, _gap(one, other) / (scale or 1.0))
        # an output whose very length depends on the attention head has changed as much as it can
        same = one.shape == original.shape
        effect = max(effect, _gap(one, original) / (scale or 1.0) if same else float("inf"))
    return Comparison(worst, effect, tolerance_of(masked[0].dtype))


def _gap(one: torch.Tensor, other: torch.Tensor) -> float:
    one, other = one.double(), other.double()
    gap = (one - other).abs().masked_fill(one == other, 0)
    return float(gap.max().nan_to_num(nan=float("inf"))) if gap.numel() else 0.0


def run_outputs(model: nn.Module, call: Callable[[], Any]) -> list[torch.Tensor]:
    """Everything that the model put out during `call`, and what `call` answered."""
    seen: list[torch.Tensor] = []
    handle = model.register_forward_hook(lambda module, args, output: seen.extend(tensors(output)))
    try:
        with quiet(model):
            answer = call()
    finally:
        handle.remove()
    return seen or tensors(answer)


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

    def __call__(self) -> list[torch.Tensor]:
        """Outputs of the layer alone; of several, those that are no attention weights: the first."""
        if self.wide is None:
            try:
                found = self._run(wide=True)
                self.wide = found[0].dtype == torch.float32
            except Exception:  # kernels and casts that know half precision alone
                self.wide = False
        return self._run(self.wide)

    def _run(self, wide: bool) -> list[torch.Tensor]:
        with quiet(self.module), _widened(self.module) if wide else nullcontext():
            # Caches and the like are changed by a call, so every call gets its own.
            args, kwargs = copy.deepcopy((self.args, self.kwargs))
            if wide:
                args, kwargs = map_tensors((args, kwargs), _wide)
            output = self.module(*args, **kwargs)
        return tensors(output)[:1]


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in _HALF else tensor


@contextmanager
def _widened(module: nn.Module) -> Iterator[None]:
    """Parameters and buffers in float32 for the time of the block; afterwards the very tensors that there were."""
    changed = [(own, own.data) for own in (*module.parameters(), *module.buffers()) if own.dtype in _HALF]
    try:
        for own, data in changed:
            own.data = data.float()
        yield
    finally:
        for own, data in changed:
            own.data = data


@contextmanager
def _called_directly(module: nn.Module, remember: Callable[..., None]) -> Iterator[None]:
    """Some models call a layer's `forward`, which no hook sees; what a hook has seen already is passed over."""
    own, forward = module.__dict__.get("forward"), module.forward

    def called(*args: Any, **kwargs: Any) -> Any:
        remember(module, args, kwargs)
        return forward(*args, **kwargs)

    module.forward = called
    try:
        yield
    finally:
        module.__dict__.pop("forward")
        if own is not None:
            module.__dict__["forward"] = own


def record(
    model: nn.Module, layers: Sequence[AttentionLayer], everything: Sequence[AttentionLayer], call: Callable[[], Any]
) -> tuple[dict[str, Replay], list[torch.Tensor]]:
    """Run the model once; remember the first inputs of each layer, and the model's outputs.

    Args:
        everything: all layers that were found: nothing else may compute attention.

    Raises:
        Refused: a layer did not run, or attention runs where no layer is known.
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
            module = module_at(model, layer.path)
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True, prepend=True).remove)
            stack.enter_context(_called_directly(module, hook))
        stack.enter_context(all_described(model, everything))
        outputs = run_outputs(model, call)
    for layer in layers:
        if layer.path not in replays:
            raise refuse(
                "not_run",
                "the attention layer did not run on the batch that pruning is checked with",
                place=layer.path,
                hint="give a batch that uses it: check=batch",
            )
    return replays, outputs
