"""Pruning of chosen layers: each in the best form that passes its check, everything put back when one fails.

Entry point: `PruningJob`. What the check compares with lies in `references`, the forms in `strategies`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import nn

from topwork import AttentionLayer, Block, Refused, TopworkError
from topwork_lens.capture.capture import Capture
from topwork_lens.gates import factors_of, gated, refresh_gates
from topwork_lens.layers.context import Unit
from topwork_lens.layers.state import write
from topwork_lens.pruning.equivalence import Comparison, Replay, agree, is_rounding
from topwork_lens.pruning.layout_search import Variant, variants
from topwork_lens.pruning.neurons import neuron_strategies, note_neurons
from topwork_lens.pruning.references import Call, LayerReference, References, check_layer, does_not_run, running
from topwork_lens.pruning.replaced import WHY, replaced_since_built
from topwork_lens.pruning.slicing import Undo, groups_of
from topwork_lens.pruning.soft import soft_entry
from topwork_lens.pruning.strategies import Strategies, Strategy, note
from topwork_lens.refusals import refuse


@dataclass
class _Step:
    """One layer that was pruned, and how to take that back."""

    layer: Unit
    undos: list[Undo] = field(default_factory=list)

    def restore(self, model: nn.Module) -> None:
        for undo in reversed(self.undos):
            undo.restore()
        self.undos.clear()
        _restore_note(model, self.layer)
        refresh_gates(model, self.layer)


class PruningJob:
    """Pruning of the chosen layers of one model, with everything put back when it fails.

    Args:
        removed: original numbers of the attention heads to remove, by path.
        call: runs the model on the batch that the caller gave.
    """

    def __init__(self, model: nn.Module, removed: Mapping[str, list[int]], call: Call, plugins: Any) -> None:
        self.model, self.removed, self.call, self.plugins = model, removed, call, plugins
        self.steps: list[_Step] = []
        #: paths of layers whose modules were replaced in a run
        self.replaced: set[str] = set()
        # By which variant layers of one kind were cut; None when there is none, so that it is not sought again.
        self.passed: dict[Any, Variant | None] = {}

    def prune(self, layers: Sequence[Unit]) -> tuple[Comparison, dict[str, Comparison]]:
        """Prune `layers`, slicing parameters where possible and scattering them ("soft") elsewhere.

        Each layer is checked alone. If all layers pass but the model's output differs, prune again: with the outputs
        compared in float64, when the difference may be rounding; then with a model-level check after every layer,
        falling back to soft pruning for the layers that fail it.

        Returns:
            The comparison of the whole model, and of each layer by path.

        Raises:
            Refused: a layer can be pruned in no form; the model is then as it was.
        """
        self.replaced |= replaced_since_built(self.model, layers)
        try:
            return self._once(layers)
        except Refused as error:
            if error.reason != "check_failed" or not error.place or not error.place.startswith("the "):
                raise
            refused = error
        if is_rounding(refused):
            try:
                return self._once(layers, in_double=True)
            except (Refused, RuntimeError):
                pass  # RuntimeError: what makes float32 tensors of its own (a loss, say) does not run in float64
        if not any(isinstance(layer, AttentionLayer) for layer in layers):
            raise refused
        why = f"cut, {refused.place} failed: {refused.cause}"
        softer: list[Unit] = [
            replace(layer, prunable="soft", why=layer.why or why) if isinstance(layer, AttentionLayer) else layer
            for layer in layers
        ]
        try:
            return self._once(layers, softer)
        except Refused:
            # Rounding may add up over layers that pass one by one.
            return self._once(softer)

    def _once(
        self, layers: Sequence[Unit], softer: Sequence[Unit] = (), in_double: bool = False
    ) -> tuple[Comparison, dict[str, Comparison]]:
        """Prune all layers.

        Args:
            layers: the layers to prune.
            softer: the same layers as they are pruned where the whole model does not pass; empty: it is checked at the
                end only.
            in_double: the outputs of the whole model are compared in float64.
        """
        references = References(self.model, layers, self.removed, self.call, self.plugins, in_double)
        self.replaced |= references.replaced
        waiting = dict(references.gates)
        check_model = partial(references.check_model, waiting)
        layers = [self._fixed(layer) for layer in layers]
        by_layer: dict[str, Comparison] = {}
        try:
            for index, layer in enumerate(layers):
                del waiting[layer.path]
                of_layer = references.of_layer(layer)
                if softer:
                    by_layer[layer.path] = self._prune_checking_model(layer, softer[index], of_layer, check_model)
                else:
                    by_layer[layer.path] = self._prune_layer(layer, of_layer)
            return check_model(), by_layer
        except BaseException:
            while self.steps:
                self.steps.pop().restore(self.model)
            raise

    def _fixed(self, layer: Unit) -> Unit:
        """Return the layer as it may be pruned: softly when the model replaces its module in a run."""
        if isinstance(layer, Block):
            return layer
        return replace(layer, prunable="soft", why=WHY) if layer.path in self.replaced else layer

    # ------------------------------------------------------------------ one layer

    def _prune_checking_model(
        self,
        layer: Unit,
        soft: Unit,
        references: Sequence[LayerReference],
        check_model: Callable[[], Comparison],
    ) -> Comparison:
        """Prune one layer in the first form with which the whole model, too, computes what it computes masked.

        The last form leaves keys and values whole: they may serve other layers too.
        """
        if isinstance(layer, Block):
            comparison = self._prune_layer(layer, references)
            check_model()
            return comparison
        per_head = [piece.parameter for piece in layer.slices if piece.per == "head"]
        comparison = self._prune_layer(layer, references)
        for only in (None, per_head):
            try:
                check_model()
                return comparison
            except Refused:
                self.steps.pop().restore(self.model)
            comparison = self._prune_layer(soft, references, only)
        check_model()
        return comparison

    def _prune_layer(
        self, layer: Unit, references: Sequence[LayerReference], only: Sequence[str] | None = None
    ) -> Comparison:
        """Prune one layer in the first form in which it computes what it computes masked.

        Args:
            layer: as it is now.
            references: its outputs when masked, on each batch of the check.
            only: parameters that become compact; see `Strategies`.
        """
        refused: Refused | None = None
        for strategy, variant in self._ways(layer, references, only):
            step = _Step(layer)
            self.steps.append(step)
            why = refused.cause if refused else ""
            try:
                strategy(step.undos, why)
                comparison = self._checked(layer, references, partial(strategy, step.undos, why), step)
                if variant is not None and isinstance(layer, AttentionLayer):
                    self._require_proof(comparison, variant, layer, references[0].replay)
                return comparison
            except Exception as error:
                self.steps.pop().restore(self.model)
                if isinstance(error, TopworkError) and not isinstance(error, Refused):
                    raise
                if isinstance(error, Refused) and error.reason == "not_a_head":
                    raise
                refused = refused or (error if isinstance(error, Refused) else does_not_run(error, layer.path))
        assert refused is not None
        raise refused

    def _ways(
        self, layer: Unit, references: Sequence[LayerReference], only: Sequence[str] | None
    ) -> Iterator[tuple[Strategy, Variant | None]]:
        """Return the ways of pruning one layer or block, the best first, with the variant that each of them uses."""
        if isinstance(layer, Block):
            return neuron_strategies(self.model, layer, self.removed[layer.path])
        replay = references[0].replay
        neutral = next((reference.replay for reference in references if reference.is_neutral), replay)
        strategies = Strategies(
            self.model,
            layer,
            self.removed[layer.path],
            self.plugins,
            partial(check_layer, layer, references),
            neutral,
            partial(_is_weighed, self.model, layer, replay),
            only,
        )
        return strategies.all(partial(self._variants, layer, references))

    def _checked(
        self,
        layer: Unit,
        references: Sequence[LayerReference],
        repeat: Callable[[], None],
        step: _Step,
    ) -> Comparison:
        """Check a layer that was just pruned; repeat a check that fails by rounding in float64."""
        try:
            return check_layer(layer, references)
        except Refused as error:
            if not is_rounding(error):
                raise
            refused = error
        step.restore(self.model)
        gate = {layer.path: (layer, factors_of(layer, self.removed[layer.path]))}
        try:
            with gated(self.model, gate):
                masked = [reference.replay.in_double() for reference in references]
            plain = references[0].replay.in_double()
        except Exception:  # code that knows one dtype alone
            raise refused from None
        repeat()
        comparisons = []
        for index, reference in enumerate(references):
            pruned = running(reference.replay.in_double, layer.path, reference.name)
            comparisons.append(agree(masked[index], pruned, masked[index] if index else plain, layer.path))
        return comparisons[0]

    def _variants(self, layer: AttentionLayer, references: Sequence[LayerReference]) -> list[Variant]:
        """Return the variants of a layer that are worth a trial: first the one by which a layer like it was pruned."""
        likeness = _likeness(references[0].replay, layer)
        if likeness in self.passed and self.passed[likeness] is None:
            return []
        options = list(variants(self.model, layer, [reference.replay for reference in references]))
        known = self.passed.setdefault(likeness, None)
        return sorted(options, key=lambda variant: variant != known)

    def _require_proof(self, comparison: Comparison, variant: Variant, layer: AttentionLayer, replay: Replay) -> None:
        """Refuse a variant, which is a guess, when masking changes nothing here nor in a layer like this one."""
        likeness = _likeness(replay, layer)
        if not comparison.proves and self.passed.get(likeness) != variant:
            self.passed.pop(likeness, None)
            cause = "masking changes too little to prove how the layer can be cut"
            raise refuse("check_failed", cause, place=layer.path)
        self.passed[likeness] = variant


def _is_weighed(model: nn.Module, layer: AttentionLayer, replay: Replay) -> bool:
    """Return whether the output projection of a layer receives, for each attention head, its weights @ its values."""
    watch = Capture(model, [layer], ["entropy"])
    try:
        with watch.run() as captured:
            replay()
    except Refused:
        return False
    return captured.explained.get(layer.path) == "context"


def _likeness(replay: Replay, layer: AttentionLayer) -> Any:
    """Return what layers have in common that are pruned in the same way."""
    return type(replay.module), len(layer.kept), layer.width, layer.groups_left


def _restore_note(model: nn.Module, layer: Unit) -> None:
    """Put a layer's note back to what the description of it says."""
    if isinstance(layer, Block):
        note_neurons(model, layer, layer.kept)
        return
    if soft_entry(model, layer.path):
        return
    if layer.removed:
        note(model, layer, layer.kept, groups_of(layer))
        return
    write(model, "layers", layer, None)
