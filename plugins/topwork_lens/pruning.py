"""Pruning: really smaller weights, with the proof that the pruned model computes what the masked one computes.

Per layer: run it masked on the inputs that it has in the model, cut it, run it again, compare, and commit or put it
back. At the end the whole model once. Where a hard cut fails, the soft form is tried, with the failure as its reason.
What is kept is noted in the model's alterations by original numbers, never in the caller's config.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from topwork import AttentionLayer, Json, Refused, TopworkError, alterations
from topwork_lens.discovery import describe_one, find_layers, heads_by_layer, numbered
from topwork_lens.flops import Flops, count_flops
from topwork_lens.gates import factors_of, gated, refresh_gates
from topwork_lens.layout import is_projection, resolve
from topwork_lens.refusals import refuse
from topwork_lens.selfcheck import Comparison, Replay, compare, record, run_outputs
from topwork_lens.slicing import Undo, by_parameter, cut, groups_of, shared_elsewhere
from topwork_lens.soft import living_layers, soft_entry, soften, surviving, tidy

Call = Callable[[], Any]


@dataclass
class Pruned:
    """What was pruned.

    Args:
        removed: original numbers of the attention heads that went, by module path.
        layers: of every layer of the model: group, number, side, kind, path, form ("whole", "hard", "soft", or "hard
            and soft": all but one attention head cut, the last one soft), why it is soft, kept numbers, heads.
        check: how masked and pruned model compare; None when nothing was removed.
        by_layer: the same for each layer alone.
        flops: floating-point operations on the batch that it was checked with, before and after.
    """

    removed: dict[str, list[int]]
    heads_before: int
    heads_after: int
    parameters_before: int
    parameters_after: int
    layers: list[dict[str, Json]]
    check: Comparison | None
    flops: tuple[Flops, Flops]
    by_layer: dict[str, Comparison] = field(default_factory=dict)

    def json(self) -> dict[str, Json]:
        """For a stage's result."""
        counts = ("heads_before", "heads_after", "parameters_before", "parameters_after")
        check = self.check.json() if self.check else None
        if check is not None:
            check["layers"] = {path: found.json() for path, found in self.by_layer.items()}
        before, after = self.flops
        return {
            **{name: getattr(self, name) for name in counts},
            "flops_before": before.total,
            "flops_after": after.total,
            "attention_share": before.share,
            "speed_limit": before.limit(after),
            "flops": {"before": before.json(), "after": after.json()},
            "removed": self.removed,
            "layers": self.layers,
            "check": check,
        }


def prune(model: nn.Module, heads: Mapping[Any, Sequence[int]], call: Call, plugins: Any = None) -> Pruned:
    """Remove attention heads by original numbers; those that are gone already are passed over.

    Args:
        call: runs the model on the batch that pruning is checked with.

    Raises:
        Refused: something would be wrong; the model is then as it was.
    """
    layers = living_layers(model, plugins)
    asked = heads_by_layer(layers, heads)
    removed = {path: [n for n in numbers if n in (layer.kept or ())] for path, (layer, numbers) in asked.items()}
    removed = {path: numbers for path, numbers in removed.items() if numbers}
    chosen = [asked[path][0] for path in removed]
    for layer in chosen:
        _permit(model, layer)
    before = count_heads(layers), count_parameters(model), count_flops(model, layers, call)
    work = _Work(model, removed, call, plugins)
    found = work.all(chosen) if chosen else (None, {})
    layers = living_layers(model, plugins)
    flops = (before[2], count_flops(model, layers, call) if chosen else before[2])
    counts = (before[0], count_heads(layers), before[1], count_parameters(model))
    return Pruned(removed, *counts, lines(model, layers), found[0], flops, found[1])


def count_heads(layers: Sequence[AttentionLayer]) -> int:
    """Attention heads that a model has now."""
    return sum(len(layer.kept or ()) for layer in layers)


def count_parameters(model: nn.Module) -> int:
    """Parameters of a model, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def lines(model: nn.Module, layers: Sequence[AttentionLayer]) -> list[dict[str, Json]]:
    """The layers in a result."""
    found = []
    for (group, number), layer in numbered(layers).items():
        where = {"group": group, "number": number, "side": layer.side, "kind": layer.kind, "path": layer.path}
        soft = soft_entry(model, layer.path)
        form = "soft" if soft else "hard" if layer.removed else "whole"
        if soft and len(soft["gone"]) < len(layer.removed):
            form = "hard and soft"
        found.append(
            {
                **where,
                "form": form,
                "form_reason": soft["why"] if soft else "",
                "kept": list(layer.kept or ()),
                "heads": layer.heads,
            }
        )
    return found


def _permit(model: nn.Module, layer: AttentionLayer) -> None:
    if not layer.prunable:
        raise refuse("not_a_head", layer.why or "this layer cannot be pruned", place=layer.path, mend="mask it instead")
    other = shared_elsewhere(model, layer)
    if other is not None:
        raise refuse(
            "shared_parameter", f"its weights are also those of {other}", place=layer.path, mend="mask it instead"
        )


@dataclass
class _Step:
    """One layer that was pruned, and how to take that back."""

    layer: AttentionLayer
    undos: list[Undo] = field(default_factory=list)

    def restore(self, model: nn.Module) -> None:
        for undo in reversed(self.undos):
            undo.restore()
        self.undos.clear()
        _note(model, self.layer)
        refresh_gates(model, self.layer)


class _Work:
    """Pruning the chosen layers of one model, with everything put back when it fails."""

    def __init__(self, model: nn.Module, removed: Mapping[str, list[int]], call: Call, plugins: Any) -> None:
        self.model, self.removed, self.call, self.plugins = model, removed, call, plugins
        self.steps: list[_Step] = []

    def all(self, layers: Sequence[AttentionLayer]) -> tuple[Comparison, dict[str, Comparison]]:
        """Hard where that works; all soft when every layer agrees but the whole model does not."""
        try:
            return self._once(layers)
        except Refused as refused:
            if refused.reason != "check_failed" or all(layer.prunable == "soft" for layer in layers):
                raise
            if not refused.place or not refused.place.startswith("the "):
                raise
            why = f"cut, {refused.place} failed: {refused.cause}"
            return self._once([replace(layer, prunable="soft", why=layer.why or why) for layer in layers])

    def _once(self, layers: Sequence[AttentionLayer]) -> tuple[Comparison, dict[str, Comparison]]:
        gates = {layer.path: (layer, factors_of(layer, self.removed[layer.path])) for layer in layers}
        replays, plain = record(self.model, layers, find_layers(self.model, self.plugins), self.call)
        with gated(self.model, gates):
            masked = run_outputs(self.model, self.call)
        by_layer: dict[str, Comparison] = {}
        try:
            for layer in layers:
                by_layer[layer.path] = self._layer(layer, replays.pop(layer.path), gates[layer.path])
            pruned = _running(lambda: run_outputs(self.model, self.call), "the pruned model")
            return _agree(masked, pruned, plain, "the whole model"), by_layer
        except BaseException:
            while self.steps:
                self.steps.pop().restore(self.model)
            raise

    def _layer(self, layer: AttentionLayer, replay: Replay, gate: tuple[AttentionLayer, Any]) -> Comparison:
        """Prune one layer in the first form in which it computes what it computes masked."""
        plain = replay()
        with gated(self.model, {layer.path: gate}):
            masked = replay()

        def agrees() -> Comparison:
            return _agree(masked, _running(replay, layer.path), plain, layer.path)

        refused: Refused | None = None
        for attempt in self._attempts(layer):
            step = _Step(layer)
            self.steps.append(step)
            try:
                attempt(step, refused.cause if refused else "", agrees)
                return agrees()
            except Exception as error:
                self.steps.pop().restore(self.model)
                if isinstance(error, TopworkError) and not isinstance(error, Refused):
                    raise
                if isinstance(error, Refused) and error.reason == "not_a_head":
                    raise
                refused = refused or (error if isinstance(error, Refused) else _does_not_run(error, layer.path))
        assert refused is not None
        raise refused

    def _attempts(self, layer: AttentionLayer) -> Iterator[Callable[[_Step, str, Callable[[], Comparison]], None]]:
        """The forms of pruning, the best first; each is given why the first one failed."""
        gone = set(self.removed[layer.path])
        kept = list(layer.kept or ())

        def hard(step: _Step, why: str, agrees: Any, leave: Sequence[int] = ()) -> None:
            positions, groups, left = plan(layer, gone - set(leave))
            step.undos.append(cut(self.model, layer, positions, groups))
            note(self.model, layer, [kept[position] for position in positions], left)
            self._described(layer)

        def soft(step: _Step, why: str, agrees: Any, only: Sequence[str] | None = None) -> None:
            stands = next(one for one in find_layers(self.model, self.plugins) if one.path == layer.path)
            entry = soft_entry(self.model, layer.path) or {"gone": [], "only": only}
            everything = sorted(gone & set(stands.kept or ()) | set(entry["gone"]))
            reason = layer.why or why or "asked for"
            step.undos.append(soften(self.model, stands, everything, reason, only or entry["only"]))
            self._described(layer)

        def nearly_all(step: _Step, why: str, agrees: Any) -> None:
            hard(step, why, agrees, leave=kept[:1])
            soft(step, why, agrees)

        def piecewise(step: _Step, why: str, agrees: Callable[[], Comparison]) -> None:
            """Only those parameters that nothing else depends on, such as a norm over all attention heads.

            An output projection alone always agrees. When nothing before it can go, what one attention head computes
            reaches the output through the slices of others.
            """
            names = [parameter for parameter, _ in by_parameter(layer)]
            chosen = [name for name in names if name.rpartition(".")[0] == layer.output]
            soft(step, why, agrees, chosen)
            for name in reversed([name for name in names if name not in chosen]):
                soft(step, why, agrees, [*chosen, name])
                try:
                    agrees()
                    chosen.append(name)
                except Refused:
                    step.undos.pop().restore()
            if not any(is_projection(_owner(self.model, layer, name)) for name in chosen[1:]):
                cause = "a slice of the context is not the output of one attention head"
                raise refuse("not_a_head", cause, place=layer.path, mend="mask it instead")

        if layer.prunable == "hard":
            yield hard
            if set(kept) <= gone and len(kept) > 1:
                yield nearly_all
        yield soft
        if soft_entry(self.model, layer.path) is None:
            yield piecewise

    def _described(self, layer: AttentionLayer) -> None:
        """The kept gates of a layer that has just changed fit it again."""
        now = describe_one(layer.path, self.model.get_submodule(layer.path), self.model, self.plugins)
        refresh_gates(self.model, surviving(self.model, now or layer))


def _owner(model: nn.Module, layer: AttentionLayer, parameter: str) -> Any:
    """What a parameter belongs to, when it is a weight; else None."""
    owner, _, name = parameter.rpartition(".")
    return resolve(model.get_submodule(layer.path), owner) if name == "weight" else None


def _running(run: Callable[[], Any], place: str) -> Any:
    try:
        return run()
    except TopworkError:
        raise
    except Exception as error:
        raise _does_not_run(error, place) from error


def _does_not_run(error: Exception, place: str) -> Refused:
    return refuse("check_failed", f"it does not run any more: {error}", place=place, mend="mask it instead")


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
    left = groups_of(layer)
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
    if soft_entry(model, layer.path):
        return
    if layer.removed:
        note(model, layer, layer.kept or (), groups_of(layer))
        return
    alterations(model).get("lens", {}).get("layers", {}).pop(layer.path, None)
    tidy(model)
