"""Pruning: really smaller weights, with the proof that the pruned model computes what the masked one computes.

Per layer: run it masked on the inputs that it has in the model, cut it, run it again, compare, and commit or put it
back. At the end the whole model once. What is kept is noted in the model's alterations by original numbers, never in
the caller's config.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from topwork import AttentionLayer, Json, TopworkError, alterations
from topwork_lens.discovery import describe_one, find_layers, heads_by_layer
from topwork_lens.gates import factors_of, gated, refresh_gates
from topwork_lens.refusals import refuse
from topwork_lens.selfcheck import Comparison, Replay, compare, record, run_outputs
from topwork_lens.slicing import Undo, cut, shared_elsewhere

Call = Callable[[], Any]


@dataclass
class Pruned:
    """What was pruned.

    Args:
        removed: original numbers of the attention heads that went, by module path.
        layers: path, form, kept numbers and original count of every layer of the model.
        check: how masked and pruned model compare; None when nothing was removed.
        by_layer: the same for each layer alone.
    """

    removed: dict[str, list[int]]
    heads_before: int
    heads_after: int
    parameters_before: int
    parameters_after: int
    layers: list[dict[str, Json]]
    check: Comparison | None
    by_layer: dict[str, Comparison] = field(default_factory=dict)

    def json(self) -> dict[str, Json]:
        """For a stage's result."""
        plain = ("removed", "heads_before", "heads_after", "parameters_before", "parameters_after", "layers")
        check = self.check.json() if self.check else None
        if check is not None:
            check["layers"] = {path: found.json() for path, found in self.by_layer.items()}
        return {**{name: getattr(self, name) for name in plain}, "check": check}


def prune(model: nn.Module, heads: Mapping[Any, Sequence[int]], call: Call, plugins: Any = None) -> Pruned:
    """Remove attention heads by original numbers; those that are gone already are passed over.

    Args:
        call: runs the model on the batch that pruning is checked with.

    Raises:
        Refused: something would be wrong; the model is then as it was.
    """
    layers = find_layers(model, plugins)
    asked = heads_by_layer(layers, heads)
    removed = {path: [n for n in numbers if n in (layer.kept or ())] for path, (layer, numbers) in asked.items()}
    removed = {path: numbers for path, numbers in removed.items() if numbers}
    chosen = [asked[path][0] for path in removed]
    before = count_heads(layers), count_parameters(model)
    found: tuple[Comparison | None, dict[str, Comparison]] = (None, {})
    if chosen:
        for layer in chosen:
            _permit(model, layer)
        found = _checked(model, chosen, removed, call, plugins)
    layers = find_layers(model, plugins)
    after = count_heads(layers), count_parameters(model)
    return Pruned(removed, before[0], after[0], before[1], after[1], [line(layer) for layer in layers], *found)


def count_heads(layers: Sequence[AttentionLayer]) -> int:
    """Attention heads that a model has now."""
    return sum(len(layer.kept or ()) for layer in layers)


def count_parameters(model: nn.Module) -> int:
    """Parameters of a model, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def line(layer: AttentionLayer) -> dict[str, Json]:
    """A layer in a result."""
    form = "hard" if layer.removed else "whole"
    return {"path": layer.path, "form": form, "kept": list(layer.kept or ()), "heads": layer.heads}


def _permit(model: nn.Module, layer: AttentionLayer) -> None:
    if layer.prunable != "hard":
        raise refuse("not_a_head", layer.why or "this layer cannot be pruned", place=layer.path, mend="mask it instead")
    other = shared_elsewhere(model, layer)
    if other is not None:
        raise refuse(
            "shared_parameter", f"its weights are also those of {other}", place=layer.path, mend="mask it instead"
        )


def _checked(
    model: nn.Module, layers: Sequence[AttentionLayer], removed: Mapping[str, list[int]], call: Call, plugins: Any
) -> tuple[Comparison, dict[str, Comparison]]:
    gates = {layer.path: (layer, factors_of(layer, removed[layer.path])) for layer in layers}
    replays, plain = record(model, layers, find_layers(model, plugins), call)
    with gated(model, gates):
        masked = run_outputs(model, call)
    undone: list[tuple[AttentionLayer, Undo]] = []
    by_layer: dict[str, Comparison] = {}
    try:
        for layer in layers:
            replay = replays.pop(layer.path)
            by_layer[layer.path] = _one(model, layer, removed[layer.path], replay, gates[layer.path], undone, plugins)
        whole = _agree(masked, _running(lambda: run_outputs(model, call), "the pruned model"), plain, "the whole model")
    except BaseException:
        for layer, undo in reversed(undone):
            undo.restore()
            _note(model, layer)
            refresh_gates(model, layer)
        raise
    return whole, by_layer


def _one(
    model: nn.Module,
    layer: AttentionLayer,
    gone: Sequence[int],
    replay: Replay,
    gate: tuple[AttentionLayer, Any],
    undone: list[tuple[AttentionLayer, Undo]],
    plugins: Any,
) -> Comparison:
    """Cut one layer and compare it with itself masked."""
    plain = replay()
    with gated(model, {layer.path: gate}):
        masked = replay()
    kept, groups, left = plan(layer, gone)
    undone.append((layer, cut(model, layer, kept, groups)))
    note(model, layer, [(layer.kept or ())[position] for position in kept], left)
    now = describe_one(layer.path, model.get_submodule(layer.path), model, plugins)
    refresh_gates(model, now or layer)
    return _agree(masked, _running(replay, layer.path), plain, layer.path)


def _running(run: Callable[[], Any], place: str) -> Any:
    try:
        return run()
    except TopworkError:
        raise
    except Exception as error:
        raise refuse(
            "check_failed", f"it does not run any more: {error}", place=place, mend="mask it instead"
        ) from error


def _agree(masked: Any, pruned: Any, plain: Any, place: str) -> Comparison:
    found = compare(masked, pruned, plain)
    if not found.difference <= found.tolerance:
        raise refuse(
            "check_failed",
            f"masked and pruned differ by {found.difference:.3g} of max|output| (tolerance {found.tolerance:.3g})",
            place=place,
            mend="mask these attention heads instead",
        )
    return found


def plan(layer: AttentionLayer, gone: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Positions to keep of attention heads and of key/value groups, and the original groups that are then left.

    With grouped-query attention the groups stay shared when every group that is left loses equally many attention
    heads; otherwise each kept attention head gets a copy of its group's keys and values.
    """
    numbers = list(layer.kept or ())
    left = list(layer.notes.get("groups_left", range(layer.groups)))
    kept = [position for position, number in enumerate(numbers) if number not in set(gone)]
    ratio = len(numbers) // len(left) if left else 1
    of_head = [position // ratio for position in kept]
    counts = {group: of_head.count(group) for group in of_head}
    groups = sorted(counts) if len(set(counts.values())) <= 1 else of_head
    return kept, groups, [left[group] for group in groups]


def note(model: nn.Module, layer: AttentionLayer, kept: Sequence[int], left: Sequence[int]) -> None:
    """Write into the model's alterations which attention heads a layer still has."""
    entry = {
        "kept": list(kept),
        "heads": layer.heads,
        "form": "hard",
        "width": layer.width,
        "groups": layer.groups,
        "groups_left": list(left),
    }
    alterations(model).setdefault("lens", {}).setdefault("layers", {})[layer.path] = entry


def _note(model: nn.Module, layer: AttentionLayer) -> None:
    """Put a layer's note back to what the description of it says."""
    if layer.removed:
        note(model, layer, layer.kept or (), layer.notes.get("groups_left", ()))
        return
    section = alterations(model)["lens"]
    section["layers"].pop(layer.path, None)
    for name in [name for name, entry in section.items() if not entry]:
        section.pop(name)
    if not section:
        alterations(model).pop("lens")
