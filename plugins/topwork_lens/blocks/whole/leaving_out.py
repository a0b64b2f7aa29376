"""Leaving out whole layers: lists become shorter, what is left is renumbered, and the outputs are proved equal.

Entry points: `leave_out` and `rebuild_whole`. Caches of keys and values are found by the number that a layer remembers
of itself, so that number follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from topwork import CheckpointError, Json
from topwork_lens.blocks.whole.bypass import bypassed
from topwork_lens.blocks.whole.whole_layer import WholeLayer
from topwork_lens.layers.state import note_module, noted
from topwork_lens.pruning.equivalence import Comparison, agree, doubled, is_rounding, run_outputs
from topwork_lens.pruning.references import running
from topwork_lens.refusals import refuse

#: names under which modules of a layer remember its number
_NUMBERS = ("layer_idx", "layer_id", "layer_number", "layer_index", "idx")


def leave_out(
    model: nn.Module, layers: Sequence[WholeLayer], call: Callable[[], Any]
) -> tuple[Comparison, Callable[[], None]]:
    """Leave out layers.

    Args:
        model: the model.
        layers: those that go.
        call: runs the model on the batch that it is checked with.

    Returns:
        How the model compares with the one whose layers are bypassed, and what takes it back.

    Raises:
        Refused: a layer cannot be left out, or the models differ; the model is then as it was.
    """
    for layer in layers:
        if layer.why:
            raise refuse("check_failed", layer.why, place=layer.path, hint="it stays; leave out another layer")
    plain = run_outputs(model, call)
    with bypassed(model, layers):
        masked = run_outputs(model, call)
    restore = _shorten(model, layers)
    try:
        try:
            pruned = running(lambda: run_outputs(model, call), "the model without whole layers")
            if len(pruned) != len(masked):
                cause = (
                    f"the model gives {len(pruned)} outputs without it, not {len(masked)}: states of layers by number"
                )
                raise refuse("check_failed", cause, place=layers[0].path)
            comparison = agree(masked, pruned, plain, "the model without whole layers")
        except Exception as error:
            if not is_rounding(error):
                raise
            comparison = _in_double(model, layers, call, restore)
            restore = _shorten(model, layers)
        return comparison, restore
    except BaseException:
        restore()
        raise


def _in_double(
    model: nn.Module, layers: Sequence[WholeLayer], call: Callable[[], Any], restore: Callable[[], None]
) -> Comparison:
    """Repeat the comparison in float64; the model is whole afterwards."""
    with doubled(model):
        pruned = run_outputs(model, call)
    restore()
    with doubled(model):
        plain = run_outputs(model, call)
        with bypassed(model, layers):
            masked = run_outputs(model, call)
    return agree(masked, pruned, plain, "the model without whole layers")


def _shorten(model: nn.Module, layers: Sequence[WholeLayer]) -> Callable[[], None]:
    """Take layers out of their lists; return what puts them back."""
    before: list[tuple[nn.ModuleList, list[nn.Module], Any, str]] = []
    for path in dict.fromkeys(layer.list_path for layer in layers):
        entries: Any = model.get_submodule(path)
        whole, note = list(entries), noted(model, "left_out", path)
        before.append((entries, whole, note, path))
        out = {layer.position for layer in layers if layer.list_path == path}
        original = list((note or {}).get("kept", range(len(whole))))
        kept = [position for position in range(len(whole)) if position not in out]
        _fill(entries, [whole[position] for position in kept])
        count = (note or {}).get("count", len(whole))
        note_module(model, "left_out", path, {"count": count, "kept": [original[position] for position in kept]})

    def restore() -> None:
        for entries, whole, note, path in before:
            _fill(entries, whole)
            note_module(model, "left_out", path, note)

    return restore


def _fill(entries: nn.ModuleList, modules: Sequence[nn.Module]) -> None:
    """Replace the entries of a list, and renumber what remembers its number."""
    numbers = {id(module): position for position, module in enumerate(entries)}
    entries._modules.clear()
    for position, module in enumerate(modules):
        entries.append(module)
        old = numbers.get(id(module), _number_of(module))
        for below in module.modules():
            for name in _NUMBERS:
                if type(vars(below).get(name)) is int and vars(below)[name] == old:
                    setattr(below, name, position)


def _number_of(module: nn.Module) -> int | None:
    """Return the number that a layer outside of the list remembers of itself."""
    numbers = (vars(below).get(name) for below in module.modules() for name in _NUMBERS)
    return next((number for number in numbers if type(number) is int), None)


def rebuild_whole(model: nn.Module, manifest: Mapping[str, Json]) -> None:
    """Leave out the layers that the lens's section of a manifest names, in a freshly built model.

    Raises:
        CheckpointError: the model has no such list, or one of another length.
    """
    for path, note in manifest.get("left_out", {}).items():
        try:
            entries = model.get_submodule(path)
            kept, count = list(note["kept"]), note["count"]
            right = sorted(set(kept) & set(range(count))) == kept and bool(kept)
        except (AttributeError, KeyError, TypeError) as error:
            raise CheckpointError(f"the manifest does not fit this model: {error!r}", place=path) from error
        if not right or not isinstance(entries, nn.ModuleList) or len(entries) != count:
            raise CheckpointError(f"the manifest has {count} layers, {len(kept)} of them left", place=path)
        modules = list(entries)
        _fill(entries, [modules[index] for index in kept])
        note_module(model, "left_out", path, dict(note))
