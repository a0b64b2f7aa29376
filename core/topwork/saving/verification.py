"""Proof that a model folder loads: `verify_folder` opens what was just written and compares it with the model.

A model may be something that no folder can hold: wrapped (adapters of peft, `torch.compile`, data parallel), quantised,
or changed in a way that no plugin writes down as `alterations`. Then saving fails, and not the loading weeks later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from topwork.data.loop import cast_to_model_dtype
from topwork.errors import CheckpointError, DataError, TopworkError
from topwork.items import Row
from topwork.system.errors import translate_system_error

if TYPE_CHECKING:
    from torch import nn

    from topwork.task import Task

#: marks in the names of a state dict -> what wraps the model, and what to do
_WRAPPERS = {
    "_orig_mod.": ("torch.compile", "save the module inside it: `run.model = run.model._orig_mod`"),
    "lora_": ("adapters", "merge them first: `run.model = run.model.merge_and_unload()`"),
    "base_layer.": ("adapters", "merge them first: `run.model = run.model.merge_and_unload()`"),
    "base_model.model.": ("adapters", "merge them first: `run.model = run.model.merge_and_unload()`"),
    "module.": ("data parallel", "save the module inside it: `run.model = run.model.module`"),
}
_ALTERED = "undo the change, or write it down with `alterations` and put it back in the hook `model_rebuilt`"
#: largest difference of row losses, relative to the larger of 1 and the loss, by dtype
_TOLERANCES = {"float64": 1e-9, "float32": 1e-5}
_COARSE = 5e-2


def verify_model(live: nn.Module, stored: nn.Module) -> None:
    """Compare a model with what was loaded from its folder: names, shapes and values of all tensors.

    Raises:
        CheckpointError: names what differs.
    """
    import torch

    before, after = live.state_dict(), stored.state_dict()
    missing = [name for name in before if name not in after]
    added = [name for name in after if name not in before]
    if missing or added:
        what = f"nothing puts back `{missing[0]}`" if missing else f"`{added[0]}` would be made up"
        raise unloadable(what, live)
    for name, tensor in before.items():
        loaded = after[name]
        if tensor.shape != loaded.shape:
            raise unloadable(f"`{name}` is {tuple(tensor.shape)}, and {tuple(loaded.shape)} when it is loaded", live)
        here = tensor.detach().to(device="cpu", dtype=loaded.dtype)
        there = loaded.detach().cpu()
        if not torch.equal(here, there) and not bool(((here == there) | ((here != here) & (there != there))).all()):
            raise unloadable(f"`{name}` has other values when it is loaded", live)


def verify_losses(task: Task, live: nn.Module, again: Task, stored: nn.Module, rows: Sequence[Row]) -> None:
    """Compare the losses of a few rows, computed by a model and by what was loaded from its folder.

    Args:
        task: of the model.
        live: the model.
        again: the task that was loaded.
        stored: the model that was loaded.
        rows: rows with targets; rows that the task refuses are left out.

    Raises:
        CheckpointError: the losses differ, so something of the model is not in its tensors.
    """
    import torch

    first = next(live.parameters(), None)
    if not rows or first is None:
        return
    stored.to(first.device)
    modes = [(module, module.training) for module in live.modules()]
    live.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng():
            losses = []
            for owner, model in ((task, live), (again, stored)):
                batch = owner.collate(owner.encode(rows, "loss", 0), "loss").to(first.device)
                torch.manual_seed(0)
                losses.append(owner.row_losses(model, cast_to_model_dtype(batch, model)).double().cpu())
    except DataError:
        return
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        if translate_system_error(error) is not None:
            raise
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise unloadable(f"it cannot compute the losses of its rows ({text})", live) from error
    finally:
        for module, mode in modes:
            module.training = mode
    difference = float(((losses[0] - losses[1]).abs() / losses[0].abs().clamp(min=1)).max())
    if difference > _TOLERANCES.get(str(first.dtype).removeprefix("torch."), _COARSE):
        raise unloadable(f"the losses of the same rows differ by {difference:.2g} when it is loaded", live)


@contextmanager
def silenced() -> Iterator[None]:
    """Turn off transformers' progress bars during the block: who saves does not ask for loading."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def unloadable(what: str, model: nn.Module, error: TopworkError | None = None) -> CheckpointError:
    """Return the error for a model whose folder does not give the same model again."""
    names = list(model.state_dict())
    marks = [mark for mark in _WRAPPERS if any(_has_mark(name, mark) for name in names)]
    wrapper, wrapper_hint = _WRAPPERS[marks[0]] if marks else ("", "")
    wrapped = f" (it is wrapped: {wrapper})" if wrapper else ""
    hint = wrapper_hint or (error.hint if error is not None and error.code != "misfit" else None) or _ALTERED
    return CheckpointError(
        f"the {type(model).__name__} cannot be saved so that it loads again{wrapped}: {what}",
        code="unloadable",
        hint=hint,
    )


def _has_mark(name: str, mark: str) -> bool:
    return name.startswith(mark) or (f".{mark}" in f".{name}" and mark != "module.")
