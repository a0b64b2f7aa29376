"""Pruning of chosen layers: each in the best form that passes its check, everything put back when one fails.

Entry point: `PruningJob`. What the check compares lies in `equivalence`, what it runs on in `probes`, the forms in
`strategies`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from topwork import AttentionLayer, Refused, TopworkError
from topwork_lens.capture.capture import Capture
from topwork_lens.gates import factors_of, gated, refresh_gates
from topwork_lens.layers.discovery import find_layers
from topwork_lens.layers.state import write
from topwork_lens.pruning.equivalence import (
    Comparison,
    Replay,
    agree,
    doubled,
    is_rounding,
    record,
    run_outputs,
)
from topwork_lens.pruning.layout_search import Variant, variants
from topwork_lens.pruning.probes import captured_inputs, further_batches
from topwork_lens.pruning.replaced import WHY, replaced_since_built, restoring_modules
from topwork_lens.pruning.slicing import Undo, groups_of
from topwork_lens.pruning.soft import soft_entry
from topwork_lens.pruning.strategies import Strategies, note
from topwork_lens.refusals import refuse

Call = Callable[[], Any]
#: a layer with its gates
Gate = tuple[AttentionLayer, Any]


@dataclass
class _Step:
    """One layer that was pruned, and how to take that back."""

    layer: AttentionLayer
    undos: list[Undo] = field(default_factory=list)

    def restore(self, model: nn.Module) -> None:
        for undo in reversed(self.undos):
            undo.restore()
        self.undos.clear()
        _restore_note(model, self.layer)
        refresh_gates(model, self.layer)


@dataclass
class _Reference:
    """What the unpruned model computes on one batch.

    Args:
        name: of the batch, for messages; empty for the one that the caller gave.
        replays: inputs of each layer that ran, by path.
        masked: outputs of the model with all gates.
        plain: outputs without them; of a further batch, the masked ones.
    """

    name: str
    call: Call
    replays: dict[str, Replay]
    masked: list[torch.Tensor]
    plain: list[torch.Tensor]
    is_neutral: bool = False


@dataclass
class _LayerReference:
    """What one unpruned layer computes on one batch, masked and plain."""

    name: str
    replay: Replay
    masked: list[torch.Tensor]
    plain: list[torch.Tensor]
    is_neutral: bool


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

    def prune(self, layers: Sequence[AttentionLayer]) -> tuple[Comparison, dict[str, Comparison]]:
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
            except Refused:
                pass
        why = f"cut, {refused.place} failed: {refused.cause}"
        softer = [replace(layer, prunable="soft", why=layer.why or why) for layer in layers]
        try:
            return self._once(layers, softer)
        except Refused:
            # Rounding may add up over layers that pass one by one.
            return self._once(softer)

    def _once(
        self, layers: Sequence[AttentionLayer], softer: Sequence[AttentionLayer] = (), in_double: bool = False
    ) -> tuple[Comparison, dict[str, Comparison]]:
        """Prune all layers.

        Args:
            softer: the same layers as they are pruned where the whole model does not pass; empty: it is checked at the
                end only.
            in_double: the outputs of the whole model are compared in float64.
        """
        gates = {layer.path: (layer, factors_of(layer, self.removed[layer.path])) for layer in layers}
        waiting = dict(gates)
        references = list(self._references(layers, gates, in_double))
        layers = [self._fixed(layer) for layer in layers]

        def check_model() -> Comparison:
            comparisons = []
            for reference in references:
                location = "the pruned model"
                with self._running_on(reference.name), gated(self.model, waiting), _precision(self.model, in_double):
                    pruned = _running(partial(run_outputs, self.model, reference.call), location, reference.name)
                location = "the whole model" + (f" with {reference.name}" if reference.name else "")
                comparisons.append(agree(reference.masked, pruned, reference.plain, location))
            return comparisons[0]

        by_layer: dict[str, Comparison] = {}
        try:
            for index, layer in enumerate(layers):
                gate = waiting.pop(layer.path)
                of_layer = self._of_layer(layer, gate, references)
                if softer:
                    by_layer[layer.path] = self._prune_checking_model(layer, softer[index], of_layer, check_model)
                else:
                    by_layer[layer.path] = self._prune_layer(layer, of_layer)
            return check_model(), by_layer
        except BaseException:
            while self.steps:
                self.steps.pop().restore(self.model)
            raise

    # ------------------------------------------------------------------ what the check compares with

    def _references(
        self, layers: Sequence[AttentionLayer], gates: Mapping[str, Gate], in_double: bool
    ) -> Iterator[_Reference]:
        """Yield what the unpruned model computes: on the caller's batch, then on it in other sizes."""
        known = find_layers(self.model, self.plugins)
        inputs: list[dict[str, Any] | None] = []

        def call() -> Any:
            captured, result = captured_inputs(self.model, self.call)
            inputs.append(captured)
            return result

        replays, plain = record(self.model, layers, known, call)
        for layer in layers:
            if layer.path not in replays:
                cause = "the attention layer did not run on the batch that pruning is checked with"
                raise refuse("not_run", cause, place=layer.path, hint="give a batch that uses it: check=batch")
        yield _Reference("", self.call, replays, self._masked(self.call, gates, in_double), plain)
        if inputs[0] is None:
            return
        counts = list(dict.fromkeys(count for layer in layers for count in _counts(layer, self.removed[layer.path])))
        for batch in further_batches(self.model, inputs[0], counts[:2]):
            run = partial(self.model, **batch.inputs)
            try:
                with self._running_on(batch.name, layers):
                    replays, outputs = record(self.model, layers, None, run)
                with self._running_on(batch.name, layers):
                    masked = self._masked(run, gates, in_double)
            except Exception:  # the unpruned model does not take this size
                continue
            if outputs and all(bool(output.isfinite().all()) for output in masked):
                yield _Reference(batch.name, run, replays, masked, masked, batch.is_neutral)

    def _masked(self, call: Call, gates: Mapping[str, Gate], in_double: bool) -> list[torch.Tensor]:
        with gated(self.model, gates), _precision(self.model, in_double):
            return run_outputs(self.model, call)

    @contextmanager
    def _running_on(self, batch: str, layers: Sequence[AttentionLayer] = ()) -> Iterator[None]:
        """Take note of modules that a run replaces, and put them back if the caller did not give its batch."""
        if not batch:
            yield
            return
        with restoring_modules(self.model, layers) as replaced:
            yield
        self.replaced |= replaced

    def _fixed(self, layer: AttentionLayer) -> AttentionLayer:
        """Return the layer as it may be pruned: softly when the model replaces its module in a run."""
        return replace(layer, prunable="soft", why=WHY) if layer.path in self.replaced else layer

    def _of_layer(self, layer: AttentionLayer, gate: Gate, references: Sequence[_Reference]) -> list[_LayerReference]:
        result = []
        for reference in references:
            replay = reference.replays.pop(layer.path, None)
            if replay is None:
                continue
            try:
                with gated(self.model, {layer.path: gate}):
                    masked = replay()
            except Exception:
                if reference.name:  # a module that was replaced in the run of the whole model
                    continue
                raise
            plain = masked if reference.name else replay()
            result.append(_LayerReference(reference.name, replay, masked, plain, reference.is_neutral))
        return result

    # ------------------------------------------------------------------ one layer

    def _prune_checking_model(
        self,
        layer: AttentionLayer,
        soft: AttentionLayer,
        references: Sequence[_LayerReference],
        check_model: Callable[[], Comparison],
    ) -> Comparison:
        """Prune one layer in the first form with which the whole model, too, computes what it computes masked.

        The last form leaves keys and values whole: they may serve other layers too.
        """
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
        self, layer: AttentionLayer, references: Sequence[_LayerReference], only: Sequence[str] | None = None
    ) -> Comparison:
        """Prune one layer in the first form in which it computes what it computes masked.

        Args:
            only: parameters that become compact; see `Strategies`.
        """
        replay = references[0].replay
        neutral = next((reference.replay for reference in references if reference.is_neutral), replay)
        refused: Refused | None = None
        strategies = Strategies(
            self.model,
            layer,
            self.removed[layer.path],
            self.plugins,
            partial(_check, layer, references),
            neutral,
            partial(_is_weighed, self.model, layer, replay),
            only,
        )
        for strategy, variant in strategies.all(partial(self._variants, layer, references)):
            step = _Step(layer)
            self.steps.append(step)
            why = refused.cause if refused else ""
            try:
                strategy(step.undos, why)
                comparison = self._checked(layer, references, partial(strategy, step.undos, why), step)
                if variant is not None:
                    self._require_proof(comparison, variant, layer, replay)
                return comparison
            except Exception as error:
                self.steps.pop().restore(self.model)
                if isinstance(error, TopworkError) and not isinstance(error, Refused):
                    raise
                if isinstance(error, Refused) and error.reason == "not_a_head":
                    raise
                refused = refused or (error if isinstance(error, Refused) else _does_not_run(error, layer.path))
        assert refused is not None
        raise refused

    def _checked(
        self,
        layer: AttentionLayer,
        references: Sequence[_LayerReference],
        repeat: Callable[[], None],
        step: _Step,
    ) -> Comparison:
        """Check a layer that was just pruned; repeat a check that fails by rounding in float64."""
        try:
            return _check(layer, references)
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
            pruned = _running(reference.replay.in_double, layer.path, reference.name)
            comparisons.append(agree(masked[index], pruned, masked[index] if index else plain, layer.path))
        return comparisons[0]

    def _variants(self, layer: AttentionLayer, references: Sequence[_LayerReference]) -> list[Variant]:
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


def _counts(layer: AttentionLayer, removed: Sequence[int]) -> list[tuple[int, int]]:
    """Return the numbers of attention heads before and after pruning: original ones, and those that there are now."""
    after = len(set(layer.kept) - set(removed))
    return list(dict.fromkeys([(layer.heads, after), (len(layer.kept), after)]))


def _precision(model: nn.Module, in_double: bool) -> AbstractContextManager[None]:
    return doubled(model) if in_double else nullcontext()


def _check(layer: AttentionLayer, references: Sequence[_LayerReference]) -> Comparison:
    """Compare the pruned layer with the masked one on all batches; return the comparison on the first.

    Raises:
        Refused: they differ.
    """
    comparisons = []
    for reference in references:
        pruned = _running(reference.replay, layer.path, reference.name)
        comparisons.append(agree(reference.masked, pruned, reference.plain, layer.path))
    return comparisons[0]


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


def _running(run: Callable[[], Any], location: str, batch: str = "") -> Any:
    try:
        return run()
    except TopworkError:
        raise
    except Exception as error:
        raise _does_not_run(error, location, batch) from error


def _does_not_run(error: Exception, location: str, batch: str = "") -> Refused:
    sizes = f" with {batch}" if batch else ""
    cause = f"it does not run any more{sizes}: {error}"
    return refuse("check_failed", cause, place=location, hint="mask it instead")


def _restore_note(model: nn.Module, layer: AttentionLayer) -> None:
    """Put a layer's note back to what the description of it says."""
    if soft_entry(model, layer.path):
        return
    if layer.removed:
        note(model, layer, layer.kept, groups_of(layer))
        return
    write(model, "layers", layer, None)
