"""Training rows for a torch DataLoader: `TrainingDataset`. Rows without a length are in `stream`.

The items and their costs are counted first. The items themselves are encoded when their batch comes, and kept within a
bound of memory when they are the same in every epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import Dataset

from topwork.data.columns import chunks
from topwork.data.cuts import label_strata
from topwork.data.loop import CHUNK, Settings, encode_rows
from topwork.errors import TopworkError, UsageError
from topwork.items import Item, size_of

if TYPE_CHECKING:
    from topwork.runs.run import Run

#: bytes of encoded items that are kept between epochs
KEPT_BYTES = 256 * 2**20


class TrainingDataset(Dataset):
    """Items of the training rows, indexed by lists of (epoch, index) as `TrainBatches` gives them.

    Attributes:
        costs: cost of each item.
        settings: `settings.skipped` lists the rows that were left out.
    """

    def __init__(self, run: Run) -> None:
        self.task, self.rows, self.seed = run.task, run.rows("train"), run.seed
        self.settings = run.settings()
        self.group = self.task.group_rows
        self._kept: dict[int, list[Item]] = {}
        self._kept_bytes = 0
        self._notes = self.settings.skipped
        entries = self._survey(run)
        self._notes = []  # what is encoded again is not counted again
        if not entries:
            raise TopworkError("the training rows give no items", place="data.train")
        table = np.asarray(entries, dtype=np.int64)
        self.groups, self.numbers, self.costs = table[:, 0], table[:, 1], table[:, 2]

    def __len__(self) -> int:
        return len(self.costs)

    def strata(self, run: Run) -> np.ndarray:
        """Return a code of the label of each item's row, for batches with equally many rows of each label.

        Raises:
            UsageError: the task has no labels, or all rows have the same.
        """
        labels = label_strata(self.rows, type(self.task), {}, ("label", "tags"))
        if labels is None:
            raise UsageError(
                f"the rows of {self.task.name} have no labels that could be balanced",
                place="balance",
                hint="leave it out",
            )
        codes = {label: code for code, label in enumerate(dict.fromkeys(labels))}
        return np.asarray([codes[labels[int(group)]] for group in self.groups], dtype=np.int64)

    # ------------------------------------------------------------------ which items there are

    def _survey(self, run: Run) -> list[tuple[int, int, int]]:
        """Return (group, index in the group, cost) of every item; each process surveys a share of the groups."""
        mine: list[tuple[int, int, int]] = []
        total = -(-len(self.rows) // self.group)
        if self.group > 1:
            steps = ([group] for group in range(run.process.index, total, run.process.count))
        else:
            steps = (numbers for numbers, _ in chunks(range(total), CHUNK, run.process.index, run.process.count))
        for groups in run.progress(steps, label="reading rows"):
            mine.extend(self._look_at(groups))
        gathered = [entry for entries in run.process.gather(mine) for entry in entries]
        self.settings.skipped = [note for notes in run.process.gather(self.settings.skipped) for note in notes]
        return sorted(gathered)

    def _look_at(self, groups: Sequence[int]) -> list[tuple[int, int, int]]:
        if self.settings.on_error == "raise":
            numbers = self._row_numbers(groups)
            costs = self.task.costs(_Lazy(self.rows, numbers)) if self._cheap else None
            if costs is not None:
                return [(number, index, cost) for number, row in zip(numbers, costs) for index, cost in enumerate(row)]
        encoded = self._encode(groups, epoch=0)
        return [(group, index, item.cost) for group in groups for index, item in enumerate(encoded[group])]

    @property
    def _cheap(self) -> bool:
        """Whether the task tells costs without encoding (probed on the first row)."""
        return self.group == 1 and self.task.costs([]) is not None

    def _row_numbers(self, groups: Sequence[int]) -> list[int]:
        last = len(self.rows)
        return [number for group in groups for number in range(group * self.group, min(last, (group + 1) * self.group))]

    # ------------------------------------------------------------------ the items themselves

    def _encode(self, groups: Sequence[int], epoch: int) -> dict[int, list[Item]]:
        """Return the items of each group, in order; from memory where they are kept."""
        encoded = {group: self._kept[group] for group in groups if group in self._kept}
        missing = [group for group in groups if group not in encoded]
        if not missing:
            return encoded
        if self.task.repeatable and self.group == 1:
            fresh = self._encode_together(missing)
        else:
            fresh = {group: self._encode_group(group, 0 if self.task.repeatable else epoch) for group in missing}
        if self.task.repeatable:
            self._keep(fresh)
        return {**encoded, **fresh}

    def _encode_together(self, groups: list[int]) -> dict[int, list[Item]]:
        settings = Settings(on_error=self.settings.on_error, seed=self.seed, skipped=self._notes)
        rows = [self.rows[group] for group in groups]
        _, _, items = encode_rows(self.task, groups, rows, "train", settings, self.rows)
        by_group: dict[int, list[Item]] = {group: [] for group in groups}
        for item in items:
            by_group[item.row].append(item)
        return by_group

    def _encode_group(self, group: int, epoch: int) -> list[Item]:
        seed = int(np.random.SeedSequence([self.seed, epoch, group]).generate_state(1)[0])
        settings = Settings(on_error=self.settings.on_error, seed=seed, skipped=self._notes)
        numbers = self._row_numbers([group])
        rows = [self.rows[number] for number in numbers]
        return encode_rows(self.task, numbers, rows, "train", settings, self.rows)[2]

    def _keep(self, fresh: dict[int, list[Item]]) -> None:
        for group, items in fresh.items():
            size = sum(size_of(item.inputs) + size_of(item.extra) + 200 for item in items)
            if self._kept_bytes + size <= KEPT_BYTES:
                self._kept[group] = items
                self._kept_bytes += size

    def __getitems__(self, entries: Sequence[tuple[int, int]]) -> list[Item]:
        """Return the items of a whole batch, for which torch's DataLoader asks at once."""
        epoch = entries[0][0]
        groups = sorted({int(self.groups[position]) for _, position in entries})
        encoded = self._encode(groups, epoch)
        return [encoded[int(self.groups[position])][int(self.numbers[position])] for _, position in entries]

    def __getitem__(self, key: tuple[int, int]) -> Item:
        return self.__getitems__([key])[0]


class _Lazy(Sequence):
    """Rows that are read (and decoded) only when somebody looks at them."""

    def __init__(self, rows: Any, numbers: Sequence[int]) -> None:
        self.rows, self.numbers = rows, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[self.numbers[index]]
