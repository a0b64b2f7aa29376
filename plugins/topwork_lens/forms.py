"""The work of pruning: layer by layer in the best form that passes its check, everything put back when one fails.

The forms are tried in this order: hard; hard but for the last attention head, which is soft (when a whole layer goes
and its module cannot be empty); soft; soft for those parameters alone that nothing else depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

from torch import nn
from torch.nn.utils import parametrize

from topwork import AttentionLayer, Refused, TopworkError, alterations
from topwork_lens.discovery import describe_one, find_layers
from topwork_lens.fused import candidates
from topwork_lens.gates import factors_of, gated, refresh_gates
from topwork_lens.layout import resolve
from topwork_lens.refusals import refuse
from topwork_lens.selfcheck import Comparison, Replay, compare, record, run_outputs
from topwork_lens.slicing import Undo, by_parameter, cut, groups_of
from topwork_lens.soft import soft_entry, soften, surviving, tidy

Call = Callable[[], Any]


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


class Work:
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

        def soft(step: _Step, why: str, agrees: Any, only: Sequence[str] | None = None, fused: Any = None) -> None:
            stands = self._standing(layer)
            entry = soft_entry(self.model, layer.path) or {"gone": [], "only": only, "fused": fused}
            everything = sorted(gone & set(stands.kept or ()) | set(entry["gone"]))
            reason = layer.why or why or "asked for"
            step.undos.append(
                soften(self.model, stands, everything, reason, only or entry["only"], fused or entry["fused"])
            )
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
            agrees()
            for name in reversed([name for name in names if name not in chosen]):
                soft(step, why, agrees, [*chosen, name])
                try:
                    agrees()
                    useful = _compact(self.model, layer, name)
                except Refused:
                    useful = False
                if useful:
                    chosen.append(name)
                else:
                    step.undos.pop().restore()
            if not any(name.endswith("weight") for name in chosen if name.rpartition(".")[0] != layer.output):
                cause = "nothing shows that a slice of the context is the output of one attention head"
                raise refuse("not_a_head", cause, place=layer.path, mend="mask it instead")

        if layer.prunable == "hard":
            yield hard
            if set(kept) <= gone and len(kept) > 1:
                yield nearly_all
        # Two layouts can have the same place for some attention heads, and be told apart by the next ones only.
        tried: list[Any] = [partial(soft, fused=fused) for fused in candidates(self.model, self._standing(layer))]
        yield from ([soft, *tried] if soft_entry(self.model, layer.path) else [*tried, soft])
        if soft_entry(self.model, layer.path) is None:
            yield piecewise

    def _standing(self, layer: AttentionLayer) -> AttentionLayer:
        """The layer with every attention head that its module computes, those that are gone softly among them."""
        return next(one for one in find_layers(self.model, self.plugins) if one.path == layer.path)

    def _described(self, layer: AttentionLayer) -> None:
        """The kept gates of a layer that has just changed fit it again."""
        now = describe_one(layer.path, self.model.get_submodule(layer.path), self.model, self.plugins)
        refresh_gates(self.model, surviving(self.model, now or layer))


def _compact(model: nn.Module, layer: AttentionLayer, parameter: str) -> bool:
    """Whether a parameter has lost something: a key/value group goes when its last attention head goes."""
    owner_path, _, name = parameter.rpartition(".")
    owner = resolve(model.get_submodule(layer.path), owner_path)
    return parametrize.is_parametrized(cast(nn.Module, owner), name)


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


def plan(layer: AttentionLayer, gone: Collection[int]) -> tuple[list[int], list[int], list[int]]:
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
