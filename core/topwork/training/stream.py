"""Training rows that come as a stream: `StreamedBatches`, which goes on where a checkpoint was written.

The files of the stream are mixed by `datasets`, rows by blocks here, so that nothing is held back that the state of the
stream does not know: going on means reading the current block again, and nothing before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import IterableDataset

from topwork.data.batching import Budget, plan
from topwork.data.loop import Settings, encode_rows
from topwork.errors import DataError, TopworkError
from topwork.files import write_json
from topwork.items import Batch, Item, Json, Row
from topwork.runs.records import read_record

if TYPE_CHECKING:
    from topwork.process import Process
    from topwork.runs.run import Run
    from topwork.task import Task
    from topwork.training.options import TrainOptions

#: of a state: pass over the rows, block in the pass, batches of it that were given; before the block: state of the
#: source, and number of rows that had been left out
_KEYS = ("epoch", "block", "given", "source", "noted")


class StreamedBatches(IterableDataset):
    """Batches of rows that come as a stream: windows of rows are encoded, sorted by cost and divided.

    Endless: the stream begins again when it ends, and the number of steps decides. Each process reads its own share of
    the rows. Every batch says in `stream_state` how to go on behind it, where the source can.
    """

    def __init__(
        self,
        task: Task,
        rows: Any,
        budget: Budget,
        settings: Settings,
        process: Process,
        seed: int,
        window: int,
        grouped: bool = True,
    ) -> None:
        self.task, self.rows, self.budget, self.window = task, rows, budget, max(task.group_rows, window)
        self.settings, self.process, self.seed, self.grouped = settings, process, seed, grouped
        self.start: Mapping[str, Any] | None = None
        self.skipped_batches = 0

    def go_on(self, state: Mapping[str, Any], batches: int) -> None:
        """Begin behind the batch whose `stream_state` this is.

        Args:
            state: see `Batch.stream_state`.
            batches: that were trained on before; whoever skips them gets as many empty ones.
        """
        self.start, self.skipped_batches = state, batches

    def __iter__(self) -> Iterator[Batch]:
        yield from (Batch({}, []) for _ in range(self.skipped_batches))
        epoch = int(self.start["epoch"]) if self.start else 0
        start = self.start
        while True:
            empty = start is None
            for batch in self._pass(epoch, start):
                empty = False
                yield batch
            if empty:
                raise TopworkError("the training rows give no items", place="data.train")
            epoch, start = epoch + 1, None

    def _pass(self, epoch: int, start: Mapping[str, Any] | None) -> Iterator[Batch]:
        """Yield the batches of one pass over the rows, from a state on."""
        exact = is_resumable(self.rows)
        source = self.rows.shuffle(seed=self.seed + epoch, buffer_size=1 if exact else self.window)
        block, given = 0, 0
        if start is not None:
            block, given = int(start["block"]), int(start["given"])
            source.load_state_dict(start["source"])
        with _quiet_datasets():
            rows = iter(source)
            while True:
                noted = len(self.settings.skipped)
                state = {"epoch": epoch, "block": block, "noted": noted, "source": source.state_dict()} if exact else {}
                window = self._window(rows)
                if window is None:
                    return
                for position, batch in enumerate(self._batches(window, epoch, block), 1):
                    if position > given:
                        batch.stream_state = {**state, "given": position} if exact else None
                        yield batch
                block, given = block + 1, 0

    def _window(self, rows: Iterator[Row]) -> list[Row] | None:
        """Return this process's rows of the next block; None at the end."""
        index, count = self.process.index, self.process.count
        window, read = [], 0
        for row in islice(rows, self.window * count):
            if read % count == index:
                window.append(row)
            read += 1
        return window if read else None

    def _batches(self, rows: list[Row], epoch: int, block: int) -> Iterator[Batch]:
        random = np.random.default_rng([self.seed, epoch, self.process.index, block])
        mixed = [rows[index] for index in random.permutation(len(rows))]
        items = self._encode(mixed, int(random.integers(2**31)), epoch)
        batches = plan([item.cost if self.grouped else 0 for item in items], self.budget)
        for index in random.permutation(len(batches)):
            yield self.task.collate([items[position] for position in batches[index]], "train")

    def _encode(self, rows: list[Row], seed: int, epoch: int) -> list[Item]:
        """Return the items of a window, encoded `group_rows` rows at a time.

        Rows that are skipped are noted in the first pass only, and without a number: after shuffling a stream nobody
        knows it.
        """
        settings = Settings(on_error=self.settings.on_error, seed=seed)
        size = self.task.group_rows if self.task.group_rows > 1 else max(1, len(rows))
        items: list[Item] = []
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            try:
                items += encode_rows(self.task, range(start, start + len(part)), part, "train", settings)[2]
            except DataError as error:
                error.row = None
                raise
        if epoch == 0:
            self.settings.skipped.extend({**note, "row": None} for note in settings.skipped)
        return items


def is_resumable(rows: Any) -> bool:
    """Return whether a stream can say where it stands, shuffled, and go on from there exactly."""
    return hasattr(rows, "state_dict") and hasattr(rows, "load_state_dict") and _keeps_nothing_back()


@cache
def _keeps_nothing_back() -> bool:
    """Return whether `datasets`, asked to shuffle files only (a buffer of one row), has no row beside its state."""
    import datasets

    def numbers() -> Iterator[dict[str, int]]:
        yield from ({"number": number} for number in range(3))

    source = datasets.IterableDataset.from_generator(numbers).shuffle(seed=0, buffer_size=1)
    with _quiet_datasets():
        next(iter(source))
        state = source.state_dict()
        source.load_state_dict(state)
        return [row["number"] for row in source] == [1, 2]


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    """Silence the warning that the buffer of a shuffled stream is not in its state: ours is empty."""
    import datasets

    before = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity_error()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(before)


def _state_file(folder: Path, process: Process) -> Path:
    return folder / f"stream-{process.index}.json"


def write_stream_state(
    folder: Path, process: Process, state: Mapping[str, Json] | None, batches: int, skipped: Sequence[Json]
) -> None:
    """Write into a checkpoint where this process stands in the stream, if the stream can say it.

    Args:
        folder: the checkpoint.
        process: this process.
        state: of the last batch.
        batches: that were trained on.
        skipped: notes of the rows that were left out.
    """
    if state is not None:
        facts = {"batches": batches, "processes": process.count, "skipped": list(skipped)}
        write_json(_state_file(folder, process), {**state, **facts})


def streamed_batches(
    stage: TrainOptions, run: Run, budget: Budget, settings: Settings, checkpoint: Path | None
) -> StreamedBatches:
    """Return the batches of a training on streaming rows, from the beginning or from a checkpoint on.

    A checkpoint of another number of processes, or of a stream that cannot say where it stands, is none to go on from:
    what was trained on is then read again, and skipped.

    Raises:
        CheckpointError: the state in the checkpoint is damaged.
    """
    window, grouped = 16 * stage.batch_size, stage.group is not False
    made = StreamedBatches(
        run.task, run.rows("train"), budget, settings, run.process, run.seed, window, grouped=grouped
    )
    file = _state_file(checkpoint, run.process) if checkpoint is not None else None
    if file is not None and file.is_file():
        state = read_record(file, *_KEYS, "batches", "processes", "skipped")
        if state["processes"] == run.process.count:
            settings.skipped.extend(state["skipped"][: state["noted"]])
            made.go_on(state, int(state["batches"]))
    return made
