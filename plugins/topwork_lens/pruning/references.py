"""References with which pruning is compared: outputs of the unpruned model and its layers.

Entry point: `References`. The batches are the caller's, and the same in other sizes and with padding (`probes`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from topwork import AttentionLayer, Refused, TopworkError
from topwork_lens.gates import factors_of, gated
from topwork_lens.layers.context import Unit
from topwork_lens.layers.discovery import find_layers
from topwork_lens.pruning.equivalence import Comparison, Replay, agree, doubled, record, run_outputs
from topwork_lens.pruning.probes import captured_inputs, further_batches
from topwork_lens.pruning.replaced import restoring_modules
from topwork_lens.refusals import refuse

Call = Callable[[], Any]
#: a layer with its gates
Gate = tuple[Unit, Any]


@dataclass
class BatchReference:
    """Outputs of the unpruned model on one batch.

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
class LayerReference:
    """Outputs of one unpruned layer on one batch, masked and plain."""

    name: str
    replay: Replay
    masked: list[torch.Tensor]
    plain: list[torch.Tensor]
    is_neutral: bool


class References:
    """Outputs of the unpruned model and its layers, masked, on several batches.

    Args:
        layers: those that are pruned.
        removed: original numbers of the attention heads that are removed, by path.
        call: runs the model on the batch that the caller gave.
        in_double: the outputs of the whole model are computed in float64.

    Attributes:
        replaced: paths of layers whose modules a run has replaced.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Unit],
        removed: Mapping[str, list[int]],
        call: Call,
        plugins: Any,
        in_double: bool,
    ) -> None:
        self.model, self.layers, self.removed = model, layers, removed
        self.call, self.plugins, self.in_double = call, plugins, in_double
        self.gates = {layer.path: (layer, factors_of(layer, removed[layer.path])) for layer in layers}
        self.replaced: set[str] = set()
        self.batches = list(self._batches())

    def check_model(self, gates: Mapping[str, Gate]) -> Comparison:
        """Compare the pruned model with the masked one on all batches; return the comparison on the caller's.

        Args:
            gates: of the layers that are not pruned yet.

        Raises:
            Refused: they differ, or the pruned model does not run.
        """
        comparisons = []
        for reference in self.batches:
            with self.running_on(reference.name), gated(self.model, gates), precision(self.model, self.in_double):
                pruned = running(partial(run_outputs, self.model, reference.call), "the pruned model", reference.name)
            location = "the whole model" + (f" with {reference.name}" if reference.name else "")
            comparisons.append(agree(reference.masked, pruned, reference.plain, location))
        return comparisons[0]

    def _batches(self) -> Iterator[BatchReference]:
        """Yield what the unpruned model computes: on the caller's batch, then on it in other sizes."""
        layers = self.layers
        known = find_layers(self.model, self.plugins)
        inputs: list[dict[str, Any] | None] = []

        def call() -> Any:
            captured, result = captured_inputs(self.model, self.call)
            inputs.append(captured)
            return result

        replays, plain = record(self.model, layers, known, call)
        for layer in layers:
            if layer.path not in replays:
                cause = "it did not run on the batch that pruning is checked with"
                raise refuse("not_run", cause, place=layer.path, hint="give a batch that uses it: check=batch")
        yield BatchReference("", self.call, replays, self._masked(self.call), plain)
        if inputs[0] is None:
            return
        # not of neurons: there are thousands, and no reshape counts them
        heads = [layer for layer in layers if isinstance(layer, AttentionLayer)]
        counts = list(dict.fromkeys(count for layer in heads for count in _counts(layer, self.removed[layer.path])))
        for batch in further_batches(self.model, inputs[0], counts[:2]):
            run = partial(self.model, **batch.inputs)
            try:
                replays, masked = self._recorded_masked(batch.name, run)
            except Exception:  # the unpruned model does not take this size
                continue
            if masked and all(bool(output.isfinite().all()) for output in masked):
                yield BatchReference(batch.name, run, replays, masked, masked, batch.is_neutral)

    def _recorded_masked(self, batch: str, call: Call) -> tuple[dict[str, Replay], list[torch.Tensor]]:
        """Return the inputs of each layer and the model's outputs, masked: of one run, but in float64 of two.

        Layers are replayed in their own precision, so what they are given in float64 is of no use to them.
        """
        if self.in_double:
            with self.running_on(batch):
                replays, _ = record(self.model, self.layers, None, call)
            with self.running_on(batch):
                return replays, self._masked(call)
        with self.running_on(batch), gated(self.model, self.gates):
            return record(self.model, self.layers, None, call)

    def _masked(self, call: Call) -> list[torch.Tensor]:
        with gated(self.model, self.gates), precision(self.model, self.in_double):
            return run_outputs(self.model, call)

    @contextmanager
    def running_on(self, batch: str) -> Iterator[None]:
        """Take note of modules that a run replaces, and put them back if the caller did not give its batch."""
        if not batch:
            yield
            return
        replaced: set[str] = set()
        try:
            with restoring_modules(self.model, self.layers) as replaced:
                yield
        finally:
            self.replaced |= replaced

    def of_layer(self, layer: Unit) -> list[LayerReference]:
        """Return what one unpruned layer computes on each batch on which it ran."""
        gate = self.gates[layer.path]
        result = []
        for reference in self.batches:
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
            result.append(LayerReference(reference.name, replay, masked, plain, reference.is_neutral))
        return result


def _counts(layer: AttentionLayer, removed: Sequence[int]) -> list[tuple[int, int]]:
    """Return the numbers of attention heads before and after pruning: original ones, and those that there are now."""
    after = len(set(layer.kept) - set(removed))
    return list(dict.fromkeys([(layer.heads, after), (len(layer.kept), after)]))


def precision(model: nn.Module, in_double: bool) -> AbstractContextManager[None]:
    """Return a block in which the model computes in float64, or one that changes nothing."""
    return doubled(model) if in_double else nullcontext()


def check_layer(layer: Unit, references: Sequence[LayerReference]) -> Comparison:
    """Compare the pruned layer with the masked one on all batches; return the comparison on the first.

    Raises:
        Refused: they differ.
    """
    comparisons = []
    for reference in references:
        pruned = running(reference.replay, layer.path, reference.name)
        comparisons.append(agree(reference.masked, pruned, reference.plain, layer.path))
    return comparisons[0]


def running(run: Callable[[], Any], location: str, batch: str = "") -> Any:
    """Return the result of `run`; refuse the pruning when it raises (see `does_not_run`)."""
    try:
        return run()
    except TopworkError:
        raise
    except Exception as error:
        raise does_not_run(error, location, batch) from error


def does_not_run(error: Exception, location: str, batch: str = "") -> Refused:
    """Make the refusal for a pruned layer or model that raises.

    Args:
        error: the error that it raises.
        location: path of the layer; empty for the model.
        batch: name of the batch that it ran on; empty for the user's.
    """
    sizes = f" with {batch}" if batch else ""
    cause = f"it does not run any more{sizes}: {error}"
    return refuse("check_failed", cause, place=location, hint="mask it instead")
