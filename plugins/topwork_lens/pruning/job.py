"""The work of pruning: layer by layer in the best way that passes its check, everything put back when one fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import nn

from topwork import AttentionLayer, Refused, TopworkError
from topwork_lens.capture.capture import Capture
from topwork_lens.gates import factors_of, gated, refresh_gates
from topwork_lens.layers.discovery import find_layers
from topwork_lens.layers.state import write
from topwork_lens.pruning.equivalence import Comparison, Replay, compare, record, run_outputs
from topwork_lens.pruning.layout_search import Variant, variants
from topwork_lens.pruning.slicing import Undo, groups_of
from topwork_lens.pruning.soft import soft_entry
from topwork_lens.pruning.strategies import Attempts
from topwork_lens.pruning.strategies import note as note
from topwork_lens.pruning.strategies import plan as plan
from topwork_lens.refusals import refuse

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
        # By which variant layers of one kind were cut; None when there is none, so that it is not sought again.
        self.passed: dict[Any, Variant | None] = {}

    def all(self, layers: Sequence[AttentionLayer]) -> tuple[Comparison, dict[str, Comparison]]:
        """Hard where that works. When every layer agrees but the whole model does not, the whole model is asked after
        each layer, and those that it does not bear are soft."""
        try:
            return self._once(layers)
        except Refused as refused:
            if refused.reason != "check_failed" or not refused.place or not refused.place.startswith("the "):
                raise
            why = f"cut, {refused.place} failed: {refused.cause}"
        softer = [replace(layer, prunable="soft", why=layer.why or why) for layer in layers]
        try:
            return self._once(layers, softer)
        except Refused:
            # Rounding may add up over layers that are borne one by one.
            return self._once(softer)

    def _once(
        self, layers: Sequence[AttentionLayer], softer: Sequence[AttentionLayer] = ()
    ) -> tuple[Comparison, dict[str, Comparison]]:
        """Prune all layers.

        Args:
            softer: the same layers as they are pruned where the whole model does not bear more; empty: it is asked
                at the end only.
        """
        gates = {layer.path: (layer, factors_of(layer, self.removed[layer.path])) for layer in layers}
        replays, plain = record(self.model, layers, find_layers(self.model, self.plugins), self.call)
        with gated(self.model, gates):
            masked = run_outputs(self.model, self.call)

        def whole() -> Comparison:
            with gated(self.model, gates):
                pruned = _running(lambda: run_outputs(self.model, self.call), "the pruned model")
            return _agree(masked, pruned, plain, "the whole model")

        by_layer: dict[str, Comparison] = {}
        try:
            for number, layer in enumerate(layers):
                work = replays.pop(layer.path), gates.pop(layer.path)
                if softer:
                    by_layer[layer.path] = self._borne(layer, softer[number], *work, whole)
                else:
                    by_layer[layer.path] = self._layer(layer, *work)
            return whole(), by_layer
        except BaseException:
            while self.steps:
                self.steps.pop().restore(self.model)
            raise

    def _borne(
        self,
        layer: AttentionLayer,
        soft: AttentionLayer,
        replay: Replay,
        gate: tuple[AttentionLayer, Any],
        whole: Callable[[], Comparison],
    ) -> Comparison:
        """Prune one layer in the first form with which the whole model, too, computes what it computes masked.

        The last form leaves keys and values whole: they may serve other layers too.
        """
        own = [piece.parameter for piece in layer.slices if piece.per == "head"]
        found = self._layer(layer, replay, gate)
        for only in (None, own):
            try:
                whole()
                return found
            except Refused:
                self.steps.pop().restore(self.model)
            found = self._layer(soft, replay, gate, only=only)
        whole()
        return found

    def _layer(
        self,
        layer: AttentionLayer,
        replay: Replay,
        gate: tuple[AttentionLayer, Any],
        only: Sequence[str] | None = None,
    ) -> Comparison:
        """Prune one layer in the first form in which it computes what it computes masked.

        Args:
            only: parameters that become compact; see `Attempts`.
        """
        plain = replay()
        with gated(self.model, {layer.path: gate}):
            masked = replay()

        def agrees() -> Comparison:
            return _agree(masked, _running(replay, layer.path), plain, layer.path)

        refused: Refused | None = None
        weighed = partial(_weighed, self.model, layer, replay)
        ways = Attempts(self.model, layer, self.removed[layer.path], self.plugins, agrees, weighed, only)
        for attempt, variant in ways.all(partial(self._variants, layer, replay)):
            step = _Step(layer)
            self.steps.append(step)
            try:
                attempt(step.undos, refused.cause if refused else "")
                found = agrees()
                if variant is not None:
                    self._proved(found, variant, layer, replay)
                return found
            except Exception as error:
                self.steps.pop().restore(self.model)
                if isinstance(error, TopworkError) and not isinstance(error, Refused):
                    raise
                if isinstance(error, Refused) and error.reason == "not_a_head":
                    raise
                refused = refused or (error if isinstance(error, Refused) else _does_not_run(error, layer.path))
        assert refused is not None
        raise refused

    def _variants(self, layer: AttentionLayer, replay: Replay) -> list[Variant]:
        """The variants of a layer that are worth a trial: first the one that a layer like it was cut by."""
        likeness = _likeness(replay, layer)
        if likeness in self.passed and self.passed[likeness] is None:
            return []
        found = list(variants(self.model, layer, replay))
        known = self.passed.setdefault(likeness, None)
        return sorted(found, key=lambda variant: variant != known)

    def _proved(self, found: Comparison, variant: Variant, layer: AttentionLayer, replay: Replay) -> None:
        """A variant is a guess: that nothing differs says something only where the attention heads change something,
        here or in a layer like this one."""
        likeness = _likeness(replay, layer)
        if not found.proves and self.passed.get(likeness) != variant:
            self.passed.pop(likeness, None)
            cause = "masking changes too little to prove how the layer can be cut"
            raise refuse("check_failed", cause, place=layer.path)
        self.passed[likeness] = variant


def _weighed(model: nn.Module, layer: AttentionLayer, replay: Replay) -> bool:
    """Whether the output projection of a layer receives, for each attention head, its weights @ its values."""
    watch = Capture(model, [layer], ["entropy"])
    try:
        with watch.run() as seen:
            replay()
    except Refused:
        return False
    return seen.explained.get(layer.path) == "context"


def _likeness(replay: Replay, layer: AttentionLayer) -> Any:
    """What layers have in common that are cut in the same way."""
    return type(replay.module), len(layer.kept), layer.width, layer.groups_left


def _running(run: Callable[[], Any], place: str) -> Any:
    try:
        return run()
    except TopworkError:
        raise
    except Exception as error:
        raise _does_not_run(error, place) from error


def _does_not_run(error: Exception, place: str) -> Refused:
    return refuse("check_failed", f"it does not run any more: {error}", place=place, hint="mask it instead")


def _agree(masked: Any, pruned: Any, plain: Any, place: str) -> Comparison:
    found = compare(masked, pruned, plain)
    if not found.difference <= found.tolerance:
        raise refuse(
            "check_failed",
            f"masked and pruned differ by {found.difference:.3g} of max|output| (tolerance {found.tolerance:.3g})",
            place=place,
            hint="mask these attention heads instead",
        )
    return found


def _note(model: nn.Module, layer: AttentionLayer) -> None:
    """Put a layer's note back to what the description of it says."""
    if soft_entry(model, layer.path):
        return
    if layer.removed:
        note(model, layer, layer.kept, groups_of(layer))
        return
    write(model, "layers", layer, None)
