"""Discovery of feed-forward neurons, and the names by which a caller chooses blocks and neurons.

Entry points: `find_blocks`, `block_at`, `neurons_by_block`. A plugin is asked first (hook `block`); then the test of
row locality (`locality`) decides. A pruned block is described by what is noted on it: few neurons prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import nn

from topwork import AttentionLayer, Block, Producer, UsageError, unknown
from topwork_lens.blocks.description import describe_block, of_note, per_neuron
from topwork_lens.blocks.experts import find_experts
from topwork_lens.blocks.locality import NeuronSite, find_producers, forms
from topwork_lens.blocks.partial_runs import PartialRuns
from topwork_lens.blocks.trace import Trace, is_reader, makes_features, reads_features, traced
from topwork_lens.layers.discovery import find_layers, whole_number
from topwork_lens.layers.feed_forward import find_feed_forwards
from topwork_lens.layers.state import noted
from topwork_lens.pruning.equivalence import Replay, record
from topwork_lens.pruning.preconditions import not_plain
from topwork_lens.pruning.slicing import shared_elsewhere

#: projections before a consumer that may make its neurons
_WINDOW = 4


@dataclass
class _Candidate:
    """A projection whose input features may be neurons.

    Args:
        path: of the projection, the consumer.
        inside: module path of the smallest module that ran everything.
        before: paths of projections that ran before, the last first.
        between: paths of all modules that ran between them, in order.
    """

    path: str
    inside: str
    before: tuple[str, ...]
    between: tuple[str, ...]


def find_blocks(model: nn.Module, call: Callable[[], Any], plugins: Any = None) -> list[Block]:
    """Find the feed-forward neurons of a model.

    Args:
        model: any module.
        call: runs the model; what does not run is not seen.
        plugins: describes blocks of its own: an object with `.hook.block`; None for the test alone.

    Returns:
        Blocks in the order in which their consumers run first; those that cannot be pruned have a reason.
    """
    trace = traced(model, call)
    layers = find_layers(model, plugins)
    blocks: dict[str, Block] = {}
    waiting: list[_Candidate] = []
    for candidate in _candidates(model, trace, layers):
        taught = taught_block(model, candidate.path, plugins)
        if taught is not None:
            blocks[candidate.path] = taught
        elif (note := noted(model, "blocks", candidate.path)) is not None:
            blocks[candidate.path] = of_note(model, candidate.path, note)
        elif candidate.before:
            waiting.append(candidate)
    tests = _Tests(_replays(model, waiting, call))
    # Those inside of one module one after another: what its parts gave is not kept for longer.
    for candidate in sorted(waiting, key=lambda candidate: candidate.inside):
        block = _tested(model, candidate, tests)
        if block is not None:
            blocks[candidate.path] = block
    for block in find_experts(model, call):
        note = noted(model, "blocks", block.path)
        blocks[block.path] = block if note is None else of_note(model, block.path, note)
    order = {record.path: index for index, record in enumerate(trace.calls)}
    for block in _of_unknown_classes(model, layers):
        if block.path in order:
            blocks.setdefault(block.path, block)
    readers: dict[str, list[str]] = {}
    for block in blocks.values():
        for path in _producer_paths(block):
            readers.setdefault(path, []).append(block.path)
    return [_checked(model, block, readers) for block in sorted(blocks.values(), key=lambda block: order[block.path])]


def _of_unknown_classes(model: nn.Module, layers: Sequence[AttentionLayer]) -> Iterator[Block]:
    """Yield the feed-forward networks that shapes suggest, and whose last projection is of a class of its own."""
    for network in find_feed_forwards(model, layers):
        reader = model.get_submodule(network.output)
        if not is_reader(reader):
            why = f"{type(reader).__name__} is a projection of which it is not known how it can be cut"
            inside = network.output.rpartition(".")[0]
            kept = tuple(range(network.neurons))
            yield Block(network.output, inside, width=network.neurons, kept=kept, prunable="", why=why)


def _producer_paths(block: Block) -> list[str]:
    return [".".join(part for part in (block.inside, producer.path) if part) for producer in block.producers]


def adapted(model: nn.Module) -> list[str]:
    """Return paths of modules that adapters were put around, as peft does: the weights are those of a child."""
    return [
        path for path, module in model.named_modules() if isinstance(getattr(module, "base_layer", None), nn.Module)
    ]


def _projections(model: nn.Module) -> dict[str, Any]:
    """Return the projections, but parts of adapted ones: what reads the rank of an adapter reads no neurons."""
    around = tuple(f"{path}." for path in adapted(model))
    return {path: module for path, module in model.named_modules() if is_reader(module) and not path.startswith(around)}


def taught_block(model: nn.Module, path: str, plugins: Any) -> Block | None:
    """Return the block that a plugin describes at a path, with the original indices that are noted, or None."""
    if plugins is None:
        return None
    block: Block | None = plugins.hook.block(path=path, module=model.get_submodule(path), model=model)
    note = noted(model, "blocks", path)
    if block is not None and note is not None and not block.removed:
        return replace(block, width=note["width"], kept=tuple(note["kept"]))
    return block


def _candidates(model: nn.Module, trace: Trace, layers: Sequence[AttentionLayer]) -> list[_Candidate]:
    """Return the projections that ran, but those of attention."""
    outputs = {".".join(part for part in (layer.path, layer.output) if part) for layer in layers}
    owners = {f"{layer.path}.{piece.parameter.rpartition('.')[0]}" for layer in layers for piece in layer.slices}
    projections = _projections(model)
    ran = [index for index, record in enumerate(trace.calls) if record.path in projections]
    candidates = []
    for index in ran:
        path = trace.calls[index].path
        width = reads_features(projections[path])
        if path in outputs:
            continue
        before: list[int] = []
        for earlier in reversed([other for other in ran if other < index][-_WINDOW:]):
            name = trace.calls[earlier].path
            if name in outputs | owners or width < 2:
                continue
            if forms(width, makes_features(projections[name])):
                before.append(earlier)
        if not before:
            candidates.append(_Candidate(path, "", (), ()))
            continue
        # The last of them is a producer, or the site is none; what runs outside of the module around both is another's.
        shared = trace.common(before[0], index)
        inside = shared[-1] if shared else ""
        names = tuple(trace.calls[other].path for other in before if trace.common(other, index) == shared)
        if not all(_is_within(name, inside) for name in (path, *names)):
            continue  # a module that is known by a path elsewhere
        between = tuple(record.path for record in trace.calls[min(before) : index])
        candidates.append(_Candidate(path, inside, names, between))
    return candidates


def _is_within(path: str, inside: str) -> bool:
    return not inside or path.startswith(f"{inside}.")


@dataclass
class _Around:
    """A module whose inputs are recorded."""

    path: str

    @property
    def inside(self) -> str:
        return self.path


def _replays(model: nn.Module, candidates: Sequence[_Candidate], call: Callable[[], Any]) -> dict[str, Replay]:
    """Record the inputs of the modules around candidates."""
    paths = dict.fromkeys(candidate.inside for candidate in candidates)
    if not paths:
        return {}
    return record(model, [_Around(path) for path in paths], None, call)[0]


@dataclass
class _Tests:
    """Answers of the test of row locality; modules of the same construction are tested once.

    Args:
        replays: inputs of the modules around candidates, by path.
    """

    replays: dict[str, Replay]
    _answers: dict[Any, tuple[list[Producer], str]] = field(default_factory=dict)
    _last: tuple[str, PartialRuns] | None = None

    def answer(self, model: nn.Module, candidate: _Candidate) -> tuple[list[Producer], str]:
        """Return what `find_producers` says of a candidate."""
        around, consumer = model.get_submodule(candidate.inside), model.get_submodule(candidate.path)
        start = len(f"{candidate.inside}.".lstrip("."))
        before = [(path[start:], model.get_submodule(path)) for path in candidate.before]
        width = reads_features(consumer)
        shapes = tuple((path, tuple(cast(torch.Tensor, module._parameters["weight"]).shape)) for path, module in before)
        likeness = (type(around), candidate.path[start:], width, shapes)
        if likeness not in self._answers:
            try:
                runs = self._runs(candidate.inside)
                with runs.replay.steady():
                    self._answers[likeness] = find_producers(NeuronSite(consumer, width, runs), before)
            except Exception:  # a module that does not run again on copies of its inputs
                self._answers[likeness] = ([], "")
        return self._answers[likeness]

    def _runs(self, inside: str) -> PartialRuns:
        if self._last is None or self._last[0] != inside:
            self._last = (inside, PartialRuns(self.replays[inside]))
        return self._last[1]


def _tested(model: nn.Module, candidate: _Candidate, tests: _Tests) -> Block | None:
    """Return the block that a candidate is, or None."""
    if candidate.inside not in tests.replays:
        return None
    around, consumer = model.get_submodule(candidate.inside), model.get_submodule(candidate.path)
    start, width = len(f"{candidate.inside}.".lstrip(".")), reads_features(consumer)
    before = [(path[start:], model.get_submodule(path)) for path in candidate.before]
    producers, why = tests.answer(model, candidate)
    consumer_path = candidate.path[start:]
    if not producers:
        square = makes_features(consumer) == width and all(makes_features(module) == width for _, module in before)
        if not why or square or len(before) != _inner_projections(around) - 1:
            return None
        made = [(path, forms(width, makes_features(module))[0]) for path, module in before]
        block = describe_block(model, candidate.inside, consumer_path, [], pattern="mixing")
        return replace(block, slices=(), prunable="", why=why) if made else None
    first = min(candidate.between.index(f"{candidate.inside}.{producer.path}".lstrip(".")) for producer in producers)
    between = []
    for path in candidate.between[first + 1 :]:
        module = model.get_submodule(path)
        if _is_within(path, candidate.inside) and not reads_features(module) and per_neuron(module, width):
            between.append(path[start:])
    return describe_block(model, candidate.inside, consumer_path, producers, between)


def _inner_projections(around: nn.Module) -> int:
    return sum(bool(reads_features(module)) for module in around.modules())


def _checked(model: nn.Module, block: Block, readers: Mapping[str, Sequence[str]]) -> Block:
    """Return a block with the reason why its parameters cannot be cut, if there is one.

    Args:
        model: the model.
        block: as it was found.
        readers: paths of the blocks that have neurons of a projection, by its path.
    """
    if not block.prunable:
        return block
    for path in _producer_paths(block):
        others = [reader for reader in readers[path] if reader != block.path]
        if others:
            return replace(block, prunable="", why=f"its neurons are also read by {others[0]}")
    obstacle = not_plain(model, block)
    if obstacle is not None:
        return replace(block, prunable="", why=str(obstacle.cause))
    user = shared_elsewhere(model, block)
    return replace(block, prunable="", why=f"its weights are also those of {user}") if user else block


# ---------------------------------------------------------------- keys


def block_at(blocks: Sequence[Block], key: int | str) -> Block:
    """Return the block that a path of its consumer or an index means; -1 is the last.

    Raises:
        UsageError: there is none.
    """
    if not blocks:
        raise UsageError("no feed-forward neurons were found in this model", hint="teach them by the hook `block`")
    if isinstance(key, str) and not key.removeprefix("-").isdigit():
        by_path = {caller: block for block in blocks for caller in block.callers}
        if key not in by_path:
            raise unknown("block", key, by_path)
        return by_path[key]
    index = int(key) if isinstance(key, str) else whole_number(key, "the number of a block")
    if not -len(blocks) <= index < len(blocks):
        raise UsageError(f"there is no block {index}: the model has {len(blocks)}, numbered from 0")
    return blocks[index]


def neurons_by_block(
    blocks: Sequence[Block], neurons: Mapping[Any, Sequence[int]]
) -> dict[str, tuple[Block, list[int]]]:
    """Return the chosen neurons by path, with original indices checked and sorted.

    Raises:
        UsageError: no such block, no such neuron, or a block named twice.
    """
    chosen: dict[str, tuple[Block, list[int]]] = {}
    for key, indices in neurons.items():
        block = block_at(blocks, key)
        if block.path in chosen:
            raise UsageError(f"block {block.path} is named twice", place=str(key))
        checked = sorted({whole_number(index, "the number of a neuron") for index in indices})
        wrong = [index for index in checked if not 0 <= index < block.width]
        if wrong:
            cause = f"there is no neuron {wrong[0]}: the block has {block.width}, numbered from 0"
            raise UsageError(cause, place=block.path)
        chosen[block.path] = (block, checked)
    return chosen
