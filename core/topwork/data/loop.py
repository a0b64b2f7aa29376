"""The one loop over rows: buckets of rows are encoded, items sorted by cost, predicted, merged, and given back in the
order of the rows. Evaluation, prediction and importance all go through it, so windows, streaming, memory, order and
bad rows are handled in one place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from topwork.data.batching import Budget, plan
from topwork.data.loop_settings import Settings
from topwork.data.roles import chunks, row_count
from topwork.errors import DataError, TopworkError
from topwork.items import Batch, Item, Mode, Part, Prediction, Row, size_of
from topwork.metric import Metric

if TYPE_CHECKING:
    from torch import nn

    from topwork.process import Process
    from topwork.task import Task

#: rows encoded at a time, and what a bucket may hold (rows and items together) before it is predicted
CHUNK = 64
BUCKET_ROWS = 2048
STREAM_ROWS = 256
BUCKET_BYTES = {"cpu": 24 * 2**20, "cuda": 512 * 2**20}


@dataclass
class _Bucket:
    """Rows with their encoded items, as read."""

    rows: dict[int, Row] = field(default_factory=dict)
    items: list[Item] = field(default_factory=list)
    size: int = 0

    def add(self, numbers: Sequence[int], rows: Sequence[Row], items: Sequence[Item]) -> None:
        self.rows.update(zip(numbers, rows))
        self.items.extend(items)
        self.size += sum(size_of(row) for row in rows) + sum(
            size_of(item.inputs) + size_of(item.extra) for item in items
        )


def encode_rows(
    task: Task, numbers: Sequence[int], rows: Sequence[Row], mode: Mode, settings: Settings
) -> tuple[list[int], list[Row], list[Item]]:
    """Encode rows; the items carry the rows' numbers. With `on_error: skip` bad rows are left out and noted.

    Raises:
        DataError: a row cannot be used; its number is the one in the data set.
    """
    try:
        return (
            list(numbers),
            list(rows),
            [item.at(numbers[item.row]) for item in task.encode(rows, mode, settings.seed)],
        )
    except DataError as error:
        if settings.on_error != "skip":
            if error.row is not None:
                error.row = numbers[error.row]
            raise
    good: list[int] = []
    found: list[Item] = []
    for number, row in zip(numbers, rows):
        try:
            found.extend(item.at(number) for item in task.encode([row], mode, settings.seed))
            good.append(number)
        except DataError as error:
            error.row = number
            settings.skipped.append({"row": number, "column": error.column, "cause": error.cause})
    kept = dict(zip(numbers, rows))
    return good, [kept[number] for number in good], found


def _buckets(
    task: Task, rows: Any, mode: Mode, settings: Settings, process: Process, device: Any, limit: int | None
) -> Iterator[_Bucket]:
    limit_bytes = BUCKET_BYTES.get(getattr(device, "type", "cpu"), BUCKET_BYTES["cpu"])
    chunk = 4 if any(column.lazy for column in task.columns.values()) else CHUNK
    usual = STREAM_ROWS if row_count(rows) is None else BUCKET_ROWS
    ahead = max(1, min(usual if settings.ahead is None else settings.ahead, BUCKET_ROWS))
    bucket = _Bucket()
    for numbers, found in chunks(first(rows, limit), min(chunk, ahead), process.index, process.count):
        bucket.add(*encode_rows(task, numbers, found, mode, settings))
        if len(bucket.rows) >= ahead or bucket.size >= limit_bytes:
            yield bucket
            bucket = _Bucket()
    if bucket.rows:
        yield bucket


def predict_rows(
    task: Task,
    model: nn.Module,
    rows: Any,
    settings: Settings,
    process: Process,
    *,
    limit: int | None = None,
) -> Iterator[tuple[int, Row, Prediction]]:
    """(number, row, prediction) of this process's share of the rows, in the order of the rows.

    The model is put into evaluation mode and back; nothing is recorded for gradients. No tensor outlives its batch but
    what `Task.predict` returns.
    """
    device = device_of(model)
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        for bucket in _buckets(task, rows, "predict", settings, process, device, limit):
            for number, row, parts in _answered(task, model, bucket, settings, device):
                yield number, row, task.merge(row, parts)
    finally:
        for module in training:  # each as it was: some parts of a model in training may be kept in evaluation mode
            module.training = True


def _answered(
    task: Task, model: nn.Module, bucket: _Bucket, settings: Settings, device: Any
) -> Iterator[tuple[int, Row, list[Part]]]:
    """The rows of a bucket in order, each with its items' parts. Items are dropped after their batch, and when many
    bytes of parts have come together (pictures of the same size are predicted in their order) rows are given out."""
    import torch

    from topwork.kernels.selection import accelerated

    items, rows = bucket.items, list(bucket.rows.items())
    places: dict[int, list[int]] = {number: [] for number in bucket.rows}
    for position, item in enumerate(items):
        places[item.row].append(position)
    batches = plan([item.cost for item in items], settings.budget(task, device))
    bucket.items, bucket.rows = [], {}
    batches.reverse()
    rows.reverse()
    parts: dict[int, Part] = {}
    while rows:
        held, most = 0, BUCKET_BYTES.get(device.type, BUCKET_BYTES["cpu"]) // 4
        # one autocast for many batches: it keeps the weights that it has cast until it is left
        with torch.inference_mode(), autocast(device, settings.precision), accelerated(device, settings.precision):
            while batches and held <= most:
                positions = batches.pop()
                found = _predicted(task, model, [items[position] for position in positions], device)
                parts.update(zip(positions, found))
                held += sum(map(size_of, found))
                for position in positions:
                    items[position] = None  # type: ignore[call-overload]
        while rows and all(position in parts for position in places[rows[-1][0]]):
            number, row = rows.pop()
            yield number, row, [parts.pop(position) for position in places[number]]


def _predicted(task: Task, model: nn.Module, items: Sequence[Item], device: Any) -> list[Part]:
    """The part of each item of a batch."""
    found = task.predict(model, fitted(task.collate(items, "predict").to(device), model))
    if len(found) != len(items):
        raise TopworkError(f"`predict` gave {len(found)} parts for {len(items)} items", place=f"task {task.name}")
    return found


def loss_batches(
    task: Task, model: nn.Module, rows: Any, settings: Settings, process: Process, *, limit: int | None = None
) -> Iterator[Batch]:
    """Batches of whole rows in mode "loss", on the model's device, of this process's share of the rows.

    `batch.row_numbers` says which rows they are, in the order of `Task.row_losses`. When the task computes its row
    losses one by one, a batch holds one row.
    """
    device = device_of(model)
    alone = task.single_row_losses
    budget = Budget(1) if alone else settings.budget(task, device)
    for bucket in _buckets(task, rows, "loss", settings, process, device, limit):
        by_row: dict[int, list[Item]] = {}
        for item in bucket.items:
            by_row.setdefault(item.row, []).append(item)
        groups = list(by_row.values())
        costs = [max(item.cost for item in group) for group in groups]
        for positions in plan(costs, budget, counts=[1 if alone else len(group) for group in groups]):
            items = [item for position in positions for item in groups[position]]
            yield fitted(task.collate(items, "loss").to(device), model)


def evaluate_rows(
    task: Task,
    model: nn.Module,
    rows: Any,
    settings: Settings,
    process: Process,
    *,
    limit: int | None = None,
    watch: Any = None,
    progress: Any = None,
) -> Metric:
    """The task's metric over the rows; on several processes every one gets the metric over all of them.

    `watch(number, row, prediction)` is called for every row of this process; `progress(iterable, total)` may wrap them.
    """
    metric = task.metric()
    found = predict_rows(task, model, rows, settings, process, limit=limit)
    if progress is not None:
        found = progress(found, share_of(rows, limit, process))
    for number, row, prediction in found:
        try:
            metric.update(row, prediction)
        except DataError as error:  # a target that only the metric looks at
            error.row = number
            if settings.on_error != "skip":
                raise
            settings.skipped.append({"row": number, "column": error.column, "cause": error.cause})
            continue
        if watch is not None:
            watch(number, row, prediction)
    gathered = process.gather(metric)
    settings.skipped = [note for notes in process.gather(settings.skipped) for note in notes]
    whole = gathered[0]
    for other in gathered[1:]:
        whole.merge(other)
    return whole


def share_of(rows: Any, limit: int | None, process: Process) -> int | None:
    """How many of the rows are this process's, or None for a stream without a limit."""
    known = [number for number in (len(rows) if hasattr(rows, "__len__") else None, limit) if number is not None]
    return len(range(process.index, min(known), process.count)) if known else None


def first(rows: Any, limit: int | None) -> Any:
    """The first `limit` rows."""
    if limit is None or (hasattr(rows, "__len__") and len(rows) <= limit):
        return rows
    if not hasattr(rows, "__len__"):
        return rows.take(limit)
    return rows.select(range(limit)) if hasattr(rows, "select") else rows[:limit]


def device_of(model: nn.Module) -> Any:
    """The device of a model's first parameter (the CPU for a model without any)."""
    import torch

    parameter = next(model.parameters(), None)
    return parameter.device if parameter is not None else torch.device("cpu")


def fitted(batch: Batch, model: nn.Module) -> Batch:
    """The batch with its floating inputs in the model's own dtype, if that is a narrow one; labels stay as they are."""
    import torch

    dtype = next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), torch.float32)
    if dtype not in (torch.bfloat16, torch.float16):
        return batch
    inputs = {
        name: value.to(dtype)
        if isinstance(value, torch.Tensor) and value.is_floating_point() and name != "labels"
        else value
        for name, value in batch.inputs.items()
    }
    return Batch(inputs, batch.items, batch.device, batch.mode)


def autocast(device: Any, precision: str) -> Any:
    """Autocast for "bf16" and "fp16"; a context that does nothing for "float32"."""
    import torch

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)
