"""Seconds that layers and blocks take, by how many heads or neurons they keep: a table for a budget in latency.

Entry points: `LatencyTable`, and `measure_table`, which makes one on the machine where the model is to run. A copy of
the model is pruned step by step, in one layer or block of each distinct shape, and each of these is timed at every
width. All layers and blocks of a shape share one row of the table.
"""

from __future__ import annotations

import bisect
import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from topwork import AttentionLayer, Block, UsageError
from topwork_compress.measure import now
from topwork_compress.units import Costs, Units, members_of, width_step
from topwork_lens.layers.context import Unit
from topwork_lens.look import Look
from topwork_lens.model_state import quiet

#: widths at which a layer or block is timed; and runs, of which the fastest counts: whatever else a machine does only
#: adds to a time
_WIDTHS, _REPEATS = 8, 6


@dataclass(frozen=True)
class LatencyTable:
    """Seconds by path and by number of heads or neurons.

    Args:
        whole: seconds of one run of the whole model.
        seconds: path -> pairs of heads or neurons kept and seconds, of at least the largest number.

    Raises:
        UsageError: a row is empty, or has numbers that are no times.
    """

    whole: float
    seconds: Mapping[str, Sequence[tuple[int, float]]]

    def __post_init__(self) -> None:
        rows = {}
        for path, row in self.seconds.items():
            pairs = sorted((int(kept), float(value)) for kept, value in row)
            if not pairs or any(value < 0 for _, value in pairs):
                raise UsageError("a row of a latency table has pairs of a width and seconds", place=path)
            # what keeps more is never faster: a smaller time is noise
            for index in range(1, len(pairs)):
                pairs[index] = (pairs[index][0], max(pairs[index][1], pairs[index - 1][1]))
            rows[path] = pairs
        object.__setattr__(self, "seconds", rows)

    def at(self, path: str, kept: int) -> float:
        """Return the seconds of a layer or block that keeps so many heads or neurons, linear between measured ones."""
        row = self.seconds[path]
        index = bisect.bisect_left(row, (kept, -1.0))
        if index < len(row) and row[index][0] == kept:
            return row[index][1]
        if index == 0:
            return row[0][1]
        if index == len(row):
            return row[-1][1]
        (low, fast), (high, slow) = row[index - 1], row[index]
        return fast + (slow - fast) * (kept - low) / (high - low)

    def without(self, kept: Mapping[str, int]) -> float:
        """Return the seconds of the whole model when layers and blocks keep so many heads or neurons."""
        return self.whole - sum(self.seconds[path][-1][1] - self.at(path, count) for path, count in kept.items())

    def costs(self, units: Units) -> Costs:
        """Return what units cost, in nanoseconds; of each the mean of its layer or block.

        Raises:
            UsageError: the table lacks a layer or block.
        """
        missing = [path for path in units.chosen if path not in self.seconds]
        if missing:
            raise UsageError("the latency table lacks a layer or block", place=missing[0])
        by_path = {}
        for path, unit in units.chosen.items():
            row = self.seconds[path]
            by_path[path] = nanoseconds(row[-1][1] - self.at(path, 1)) // max(1, len(members_of(unit)))
        return Costs(nanoseconds(self.whole), by_path, "nanoseconds")


def nanoseconds(seconds: float) -> int:
    """Return whole nanoseconds."""
    return round(seconds * 1e9)


def measure_table(
    model: nn.Module,
    units: Units,
    run: Callable[[nn.Module], Any],
    check: Callable[[nn.Module], Any],
    plugins: Any = None,
    multiple: int = 1,
    clock: Callable[[], float] = now,
) -> LatencyTable:
    """Time the layers and blocks of a model at several widths, on a copy of it.

    Args:
        model: the model, which stays as it is.
        units: its layers and blocks.
        run: runs a model on the batch that is timed.
        check: runs a model on the batch that pruning is checked with.
        plugins: plugins that describe attention layers and blocks.
        multiple: neurons are counted in multiples of it.
        clock: returns seconds.

    Raises:
        UsageError: the times contradict one another: the model is too small, or the machine too busy.
    """
    shapes: dict[Any, list[str]] = {}
    for path, unit in units.chosen.items():
        shapes.setdefault(_shape(model, unit), []).append(path)
    whole, rows = run_seconds(model, run, clock), dict[str, list[tuple[int, float]]]()
    for kind in (AttentionLayer, Block):
        firsts = [paths[0] for paths in shapes.values() if isinstance(units.chosen[paths[0]], kind)]
        if firsts:
            steps = {path: widths(units.chosen[path], multiple) for path in firsts}
            rows |= _timed(model, units, steps, run, check, plugins, clock)
    table = LatencyTable(whole, {path: rows[paths[0]] for paths in shapes.values() for path in paths})
    if sum(row[-1][1] - row[0][1] for row in table.seconds.values()) >= whole:
        cause = "layers and blocks were measured to take longer than the whole model"
        raise UsageError(cause, place="latency", hint="give larger batches, or measure on an idle machine")
    return table


def _shape(model: nn.Module, unit: Unit) -> Any:
    """Return what layers or blocks that cost the same have in common: kinds and sizes of their parameters."""
    around = model.get_submodule(unit.path if isinstance(unit, AttentionLayer) else unit.inside)
    sizes = tuple((name, tuple(value.shape)) for name, value in around.named_parameters())
    return type(around), len(unit.kept), len(unit.groups_left), unit.consumer if isinstance(unit, Block) else "", sizes


def _timed(
    model: nn.Module,
    units: Units,
    steps: Mapping[str, Sequence[int]],
    run: Callable[[nn.Module], Any],
    check: Callable[[nn.Module], Any],
    plugins: Any,
    clock: Callable[[], float],
) -> dict[str, list[tuple[int, float]]]:
    """Prune layers, or blocks, of a copy step by step, and time them after each step; `steps`: widths by path."""
    small = copy.deepcopy(model)
    look = Look(small, plugins)
    rows: dict[str, list[tuple[int, float]]] = {path: [] for path in steps}
    for step in range(max(map(len, steps.values()))):
        removed = {}
        for path, counts in steps.items():
            unit = units.chosen[path]
            groups = members_of(unit)[counts[step] :] if step < len(counts) else None
            if groups is not None:
                removed[path] = [unit.kept[position] for group in groups for position in group]
        if step:
            heads = {
                path: indices for path, indices in removed.items() if isinstance(units.chosen[path], AttentionLayer)
            }
            neurons = {path: indices for path, indices in removed.items() if path not in heads}
            look.prune(heads, neurons, check=partial(check, small))
        for path, value in _module_times(small, [units.chosen[path] for path in removed], run, clock).items():
            rows[path].append((len(units.chosen[path].kept) - len(removed[path]), value))
    return rows


def widths(unit: Unit, multiple: int = 1) -> list[int]:
    """Return the numbers of units at which a layer or block is timed: all of them first, then fewer, one last."""
    count = len(members_of(unit))
    step = width_step(unit, multiple)
    values = {max(1, round(count * part / _WIDTHS)) for part in range(_WIDTHS, 0, -1)} | {1, count}
    return sorted({min(count, max(step, value // step * step)) for value in values} | {count}, reverse=True)


def _module_times(
    model: nn.Module, units: Sequence[Unit], run: Callable[[nn.Module], Any], clock: Callable[[], float]
) -> dict[str, float]:
    """Return the seconds that each layer, or the module around each block, takes in its fastest run."""
    spent: dict[str, list[float]] = {unit.path: [] for unit in units}
    begun: dict[str, float] = {}

    def enter(path: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            begun[path] = clock()

        return hook

    def leave(path: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            spent[path][-1] += clock() - begun[path]

        return hook

    with ExitStack() as stack:
        for unit in units:
            module = model.get_submodule(unit.path if isinstance(unit, AttentionLayer) else unit.inside)
            stack.callback(module.register_forward_pre_hook(enter(unit.path), prepend=True).remove)
            stack.callback(module.register_forward_hook(leave(unit.path)).remove)
        stack.enter_context(quiet(model))
        for _ in range(_REPEATS):
            for values in spent.values():
                values.append(0.0)
            run(model)
    return {path: min(values) for path, values in spent.items()}


def run_seconds(model: nn.Module, run: Callable[[nn.Module], Any], clock: Callable[[], float] = now) -> float:
    """Return the seconds of the fastest of some runs of a model."""
    seconds = []
    with quiet(model):
        for _ in range(_REPEATS):
            start = clock()
            run(model)
            seconds.append(clock() - start)
    return min(seconds)
