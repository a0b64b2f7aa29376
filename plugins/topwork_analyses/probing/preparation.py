"""Labelled rows of a run as spans over states in a file: encoded once, run once, found again by position.

Entry point: `prepare`. On several processes the first one runs the model; the others read what it wrote.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from topwork import DataError, Item, Row, UsageError
from topwork_analyses.positions.readers import reader_of
from topwork_analyses.probing.control import control_labels
from topwork_analyses.probing.labelled_rows import Target, kinds_in, targets_of
from topwork_analyses.probing.ragged import Ragged
from topwork_analyses.probing.states import StateFile, write_states
from topwork_analyses.probing.training import SpanRows

if TYPE_CHECKING:
    from topwork import Run


class Located:
    """Targets of one kind with the positions of their spans in the file of states, as numbers alone.

    Attributes:
        rows: index of the row of each target.
        spans: of each span of a target, the positions of all targets.
        names: labels -> number, in the order in which they occurred.
        types: of each target, for the control task: index in `words`; -1 where a span has no name.
        words: that name spans -> index.
        missing: targets that no item of their row holds (cut texts).
    """

    def __init__(self) -> None:
        self.rows, self.types = array("q"), array("q")
        self.spans: list[Ragged] = []
        self.labels = Ragged()
        self.names: dict[str, int] = {}
        self.words: dict[str, int] = {}
        self.missing = 0

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, row: int, positions: Sequence[Sequence[int]], target: Target) -> None:
        """Add a target whose spans have these positions."""
        self.spans = self.spans or [Ragged() for _ in positions]
        self.rows.append(row)
        for span, values in zip(self.spans, positions, strict=True):
            span.append(values)
        self.labels.append([self.names.setdefault(label, len(self.names)) for label in target.labels])
        self.types.append(-1 if target.type is None else self.words.setdefault(target.type, len(self.words)))

    def type_names(self, role: str) -> Iterator[Hashable]:
        """Yield the type of each target; targets without a name are types of their own."""
        words = list(self.words)
        for index, word in enumerate(self.types):
            yield (role, index) if word < 0 else words[word]

    def label_table(self, names: Sequence[str]) -> torch.Tensor:
        """Return [1, targets, labels] of 0 and 1, in the order of `names`."""
        order = {name: index for index, name in enumerate(names)}
        columns = np.array([order[name] for name in self.names], dtype=np.int64)
        table = torch.zeros(1, len(self), len(names), dtype=torch.uint8)
        table[0, torch.from_numpy(self.labels.owners()), torch.from_numpy(columns[self.labels.flat()])] = 1
        return table


@dataclass
class Prepared:
    """Rows of one role: states in a file, and the targets of each kind.

    Args:
        file: of the states.
        shape: of the states.
        kinds: kind of labels -> its targets.
        row_count: rows that were used.
        skipped: notes of the rows that were left out.
    """

    file: Path
    shape: tuple[int, int, int]
    kinds: dict[str, Located]
    row_count: int
    skipped: list[dict[str, Any]]

    def span_rows(self, kind: str, names: Sequence[str]) -> SpanRows:
        """Return the targets of a kind as tensors, with labels in the order of `names`."""
        located = self.kinds[kind]
        states = StateFile(self.file, self.shape)
        rows = torch.from_numpy(np.array(located.rows))
        return SpanRows(states, located.spans, located.label_table(names), rows, self.row_count)


def prepare(
    run: Run, rows: Any, kinds: Sequence[str] | None, file: Path, *, max_length: int | None, stack: str | None
) -> Prepared:
    """Run the model on rows, write the states of their items, and locate the targets in them.

    Args:
        run: whose task and model are used.
        rows: labelled rows.
        kinds: kinds of labels; None for all that the first row has.
        file: where states are written; the targets are written beside it for other processes.
        max_length: tokens of a text, at most; None for what tokenizer and model allow.
        stack: path of the stack of layers.

    Raises:
        UsageError: no row has labels of a kind.
        DataError: a row cannot be used.
        Refused: positions or states are not known.
    """
    targets = file.with_suffix(".targets")
    if run.process.main:
        prepared = _Preparation(run, kinds, max_length).run(rows, file, stack)
        torch.save(prepared, targets)
    run.process.barrier()
    prepared = torch.load(targets, weights_only=False)
    assert isinstance(prepared, Prepared)
    return prepared


class _Preparation:
    """State of `prepare` while rows go by."""

    def __init__(self, run: Run, kinds: Sequence[str] | None, max_length: int | None) -> None:
        self.source, self.max_length = run, max_length
        self.kinds = None if kinds is None else list(kinds)
        self.located: dict[str, Located] = {}
        self.settings = run.settings()
        #: row -> (targets by kind that stand in no item yet, items of the row that have not run)
        self.waiting: dict[int, tuple[dict[str, list[Target]], int]] = {}
        self.used = 0

    def run(self, rows: Any, file: Path, stack: str | None) -> Prepared:
        """Go through the rows."""
        rows = iter(rows)
        first = next(rows, None)
        if first is None:
            raise UsageError("there are no rows", hint="give labelled rows")
        self.reader = reader_of(self.source.task, self.source.model, first, self.max_length)
        items = self._items(chain([first], rows))
        options: dict[str, Any] = {"plugins": self.source.plugins, "stack": stack}
        states = write_states(self.reader, items, file, written=self._written, **options)
        for kind, located in self.located.items():
            if not len(located):
                raise UsageError(f"no row has a target of the kind `{kind}`", hint="name other `labels`, or more rows")
        return Prepared(file, states.shape, self.located, self.used, self.settings.skipped)

    def _items(self, rows: Iterable[Row]) -> Iterator[Item]:
        """Yield the items of the rows; their targets are kept until the states are there."""
        for index, row in enumerate(rows):
            try:
                targets, items = self._targets(row, index), self.reader.encode(row, index)
            except DataError as error:
                error.row = index
                if self.settings.on_error != "skip":
                    raise
                self.settings.skipped.append(error.note())
                continue
            self.used = index + 1
            self.waiting[index] = (targets, len(items))
            yield from items

    def _targets(self, row: Row, index: int) -> dict[str, list[Target]]:
        if self.kinds is None:
            self.kinds = kinds_in(row)
            if not self.kinds:
                hint = "give tags, spans, heads and relations, targets or a label, or name `labels`"
                raise UsageError("the rows have no labels that a probe knows", place="labels", hint=hint)
        return {kind: targets_of(row, kind, index) for kind in self.kinds}

    def _written(self, item: Item, start: int, count: int) -> None:
        """Locate the targets that the states of an item hold."""
        targets, items = self.waiting[item.row]
        layout = self.reader.layout(item, count)
        for kind, waiting in targets.items():
            located = self.located.setdefault(kind, Located())
            left = []
            for target in waiting:
                positions = [[start + index for index in layout.positions(span)] for span in target.spans]
                if not all(positions):
                    left.append(target)
                    continue
                located.add(item.row, positions, target)
            targets[kind] = left
        if items > 1:
            self.waiting[item.row] = (targets, items - 1)
            return
        self._missing(targets)
        del self.waiting[item.row]

    def _missing(self, targets: dict[str, list[Target]]) -> None:
        for kind, waiting in targets.items():
            self.located.setdefault(kind, Located()).missing += len(waiting)


def label_names(*prepared: Located) -> list[str]:
    """Return the labels that occur, in the order of the alphabet."""
    return sorted({label for located in prepared for label in located.names})


def add_control(train: SpanRows, evaluate: SpanRows, located: tuple[Located, Located], seed: int) -> None:
    """Give both sets of rows the labels of a control task as their second task.

    Targets without a name (regions, stretches of time, whole rows) are types of their own: their labels are drawn for
    each of them.
    """
    pool = train.labels[0]
    for rows, side, role in ((train, located[0], "train"), (evaluate, located[1], "evaluate")):
        rows.labels = torch.stack([rows.labels[0], control_labels(side.type_names(role), rows.labels[0], pool, seed)])
