"""The loop over rows: buckets are encoded, items sorted by cost, predicted and merged, in the order of the rows.

Entry points: `predict_rows`, `evaluate_rows`, `loss_batches`, each with `Settings`. Evaluation, prediction and
importance all use it, so windows, streaming, memory, order and bad rows are handled here. Batches are planned in
`batching`; training has a loop of its own in `topwork.training`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from topwork.data.batching import Budget, plan
from topwork.data.columns import chunks, row_count
from topwork.data.table import located
from topwork.errors import DataError, TopworkError, UsageError, unknown
from topwork.items import Batch, Item, Json, Mode, Part, Prediction, Row, size_of
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
class Settings:
    """Options of the loop: batches, precision, bad rows, how far it reads ahead.

    Args:
        items: most items in a batch.
        cost: budget of cost; None takes the task's own for the device; 0 means none.
        on_error: what to do with rows that the task cannot use.
        precision: "float32" leaves the model as it is; "bf16" and "fp16" run it under autocast.
        seed: for tasks that draw at random while predicting.
        ahead: most rows that are read before the first is predicted: many make batches with little padding. By default
            2048, and 256 of rows without a length, which may come slowly.
        skipped: notes of the rows that were left out.
    """

    items: int = 32
    cost: int | None = None
    on_error: Literal["raise", "skip"] = "raise"
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    seed: int = 0
    ahead: int | None = None
    skipped: list[dict[str, Json]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, known in (("on_error", ("raise", "skip")), ("precision", ("float32", "bf16", "fp16"))):
            if getattr(self, name) not in known:
                raise unknown(f"value of `{name}`", str(getattr(self, name)), known)
        for name, least in (("items", 1), ("cost", 0), ("ahead", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"`{name}` is {least} or more, not {value}")

    def budget(self, task: Task, device: Any) -> Budget:
        """Return the budget of a batch on a device."""
        cost = task.cost_budget(getattr(device, "type", str(device))) if self.cost is None else self.cost
        return Budget(self.items, cost or None)


@dataclass
class _Bucket:
    """Rows with their encoded items, as read; `read` is the index behind the last row that was read."""

    rows: dict[int, Row] = field(default_factory=dict)
    items: list[Item] = field(default_factory=list)
    size: int = 0
    read: int = 0

    def add(self, indices: Sequence[int], rows: Sequence[Row], items: Sequence[Item]) -> None:
        self.rows.update(zip(indices, rows))
        self.items.extend(items)
        self.size += sum(size_of(row) for row in rows) + sum(
            size_of(item.inputs) + size_of(item.extra) for item in items
        )


def encode_rows(
    task: Task, indices: Sequence[int], rows: Sequence[Row], mode: Mode, settings: Settings, source: Any = None
) -> tuple[list[int], list[Row], list[Item]]:
    """Encode rows; the items carry the rows' indices. With `on_error: skip` bad rows are left out and noted.

    Args:
        task: who encodes.
        indices: of the rows among those of their role.
        rows: with canonical columns.
        mode: as of `Task.encode`.
        settings: seed, and what happens to bad rows; `settings.skipped` collects the notes.
        source: the rows of the role, which know where each was written.

    Returns:
        indices and rows that were encoded, and their items.

    Raises:
        DataError: a row cannot be used; the error says where it was written.
    """
    try:
        items = [item.at(indices[item.row]) for item in task.encode(rows, mode, settings.seed)]
        return list(indices), list(rows), items
    except DataError as error:
        if settings.on_error != "skip":
            if error.row is not None:
                located(source, error, indices[error.row])
            raise
    good: list[int] = []
    encoded: list[Item] = []
    for index, row in zip(indices, rows):
        try:
            encoded.extend(item.at(index) for item in task.encode([row], mode, settings.seed))
            good.append(index)
        except DataError as error:
            settings.skipped.append(located(source, error, index).note())
    by_index = dict(zip(indices, rows))
    return good, [by_index[index] for index in good], encoded


def _buckets(
    task: Task,
    rows: Any,
    mode: Mode,
    settings: Settings,
    process: Process,
    device: Any,
    limit: int | None,
    standing: Any = None,
) -> Iterator[_Bucket]:
    limit_bytes = BUCKET_BYTES.get(getattr(device, "type", "cpu"), BUCKET_BYTES["cpu"])
    chunk = 4 if any(column.lazy for column in task.columns.values()) else CHUNK
    usual = STREAM_ROWS if row_count(rows) is None else BUCKET_ROWS
    ahead = max(1, min(usual if settings.ahead is None else settings.ahead, BUCKET_ROWS))
    bucket = _Bucket()
    source, start = head_rows(rows, limit), 0
    if standing is not None:
        source, start = standing.begin(source)
    for indices, group in _read(source, min(chunk, ahead), process, settings, start):
        bucket.add(*encode_rows(task, indices, group, mode, settings, source))
        bucket.read = indices[-1] + 1
        if len(bucket.rows) >= ahead or bucket.size >= limit_bytes:
            yield bucket
            bucket = _Bucket()
    if bucket.rows:
        yield bucket


def _read(
    rows: Any, size: int, process: Process, settings: Settings, start: int
) -> Iterator[tuple[Sequence[int], Sequence[Row]]]:
    """Yield chunks of rows; a stream begins with the row of index `start`.

    With `on_error: skip` cells that cannot be read are noted like rows that cannot be encoded.
    """
    if settings.on_error != "skip" or row_count(rows) is None:
        yield from chunks(rows, size, process.index, process.count, start)
        return
    for indices, _ in chunks(range(len(rows)), size, process.index, process.count):
        readable: list[int] = []
        group: list[Row] = []
        for index in indices:
            try:
                group.append(rows[index])
                readable.append(index)
            except DataError as error:
                settings.skipped.append(located(rows, error, index).note())
        if group:
            yield readable, group


def predict_rows(
    task: Task,
    model: nn.Module,
    rows: Any,
    settings: Settings,
    process: Process,
    *,
    limit: int | None = None,
    standing: Any = None,
) -> Iterator[tuple[int, Row, Prediction]]:
    """Yield (index, row, prediction) of this process's share of the rows, in the order of the rows.

    The model is put into evaluation mode and back; nothing is recorded for gradients. No tensor outlives its batch but
    what `Task.predict` returns.

    Args:
        task: whose predictions they are.
        model: the model of the task.
        rows: with canonical columns.
        settings: of the loop.
        process: this process.
        limit: use the first rows only.
        standing: a `topwork.stages.standing.Standing`, where the loop begins and is noted now and then.
    """
    device = device_of(model)
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        for bucket in _buckets(task, rows, "predict", settings, process, device, limit, standing):
            for index, row, parts in _predict_bucket(task, model, bucket, settings, device):
                yield index, row, task.merge(row, parts)
            if standing is not None:
                standing.reached(bucket.read)
    finally:
        for module in training:  # each as it was: some parts of a model in training may be kept in evaluation mode
            module.training = True


def _predict_bucket(
    task: Task, model: nn.Module, bucket: _Bucket, settings: Settings, device: Any
) -> Iterator[tuple[int, Row, list[Part]]]:
    """Yield the rows of a bucket in order, each with its items' parts."""
    import torch

    from topwork.kernels.selection import accelerated

    items, rows = bucket.items, list(bucket.rows.items())
    items_of: dict[int, list[int]] = {index: [] for index in bucket.rows}
    for position, item in enumerate(items):
        items_of[item.row].append(position)
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
                predicted = _predict_batch(task, model, [items[position] for position in positions], device)
                parts.update(zip(positions, predicted))
                held += sum(map(size_of, predicted))
                for position in positions:
                    items[position] = None  # type: ignore[call-overload]
        while rows and all(position in parts for position in items_of[rows[-1][0]]):
            index, row = rows.pop()
            yield index, row, [parts.pop(position) for position in items_of[index]]


def _predict_batch(task: Task, model: nn.Module, items: Sequence[Item], device: Any) -> list[Part]:
    """Return the part of each item of a batch."""
    parts = task.predict(model, cast_to_model_dtype(task.collate(items, "predict").to(device), model))
    if len(parts) != len(items):
        raise TopworkError(f"`predict` gave {len(parts)} parts for {len(items)} items", place=f"task {task.name}")
    return parts


def loss_batches(
    task: Task, model: nn.Module, rows: Any, settings: Settings, process: Process, *, limit: int | None = None
) -> Iterator[Batch]:
    """Yield batches of whole rows in mode "loss", on the model's device, of this process's share of the rows.

    `batch.row_numbers` says which rows they are, in the order of `Task.row_losses`. When the task computes its row
    losses one by one, a batch holds one row.
    """
    device = device_of(model)
    single = task.single_row_losses
    budget = Budget(1) if single else settings.budget(task, device)
    for bucket in _buckets(task, rows, "loss", settings, process, device, limit):
        by_row: dict[int, list[Item]] = {}
        for item in bucket.items:
            by_row.setdefault(item.row, []).append(item)
        groups = list(by_row.values())
        costs = [max(item.cost for item in group) for group in groups]
        for positions in plan(costs, budget, counts=[1 if single else len(group) for group in groups]):
            items = [item for position in positions for item in groups[position]]
            yield cast_to_model_dtype(task.collate(items, "loss").to(device), model)


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
    metric: Metric | None = None,
    standing: Any = None,
) -> Metric:
    """Return the task's metric over the rows; on several processes every one gets the metric over all of them.

    Args:
        task: whose metric it is.
        model: the model of the task.
        rows: with canonical columns, targets included.
        settings: of the loop; `settings.skipped` collects the rows that were left out.
        process: this process; each predicts a share of the rows.
        limit: use the first rows only.
        watch: called as `watch(index, row, prediction)` for every row of this process.
        progress: may wrap the predictions, as `progress(iterable, total)`.
        metric: with the rows before those of `standing`; by default a new one.
        standing: as of `predict_rows`.
    """
    metric = task.metric() if metric is None else metric
    predictions = predict_rows(task, model, rows, settings, process, limit=limit, standing=standing)
    if progress is not None:
        predictions = progress(predictions, share_of(rows, limit, process))
    for index, row, prediction in predictions:
        if update_metric(metric, rows, index, row, prediction, settings) and watch is not None:
            watch(index, row, prediction)
    gathered = process.gather(metric)
    settings.skipped = [note for notes in process.gather(settings.skipped) for note in notes]
    for part in gathered[1:]:
        gathered[0].merge(part)
    return gathered[0]


def update_metric(metric: Metric, rows: Any, index: int, row: Row, prediction: Prediction, settings: Settings) -> bool:
    """Give a metric a row with its prediction; with `on_error: skip` note a row that cannot be used, and return False.

    Raises:
        DataError: the row cannot be used: it has a target that only the metric looks at.
    """
    try:
        metric.update(row, prediction)
    except DataError as error:
        located(rows, error, index)
        if settings.on_error != "skip":
            raise
        settings.skipped.append(error.note())
        return False
    return True


def share_of(rows: Any, limit: int | None, process: Process) -> int | None:
    """Return how many of the rows are this process's, or None for a stream without a limit."""
    known = [count for count in (row_count(rows), limit) if count is not None]
    return len(range(process.index, min(known), process.count)) if known else None


def head_rows(rows: Any, limit: int | None) -> Any:
    """Return the first `limit` rows."""
    if limit is None or (hasattr(rows, "__len__") and len(rows) <= limit):
        return rows
    if not hasattr(rows, "__len__"):
        return rows.take(limit)
    return rows.select(range(limit)) if hasattr(rows, "select") else rows[:limit]


def device_of(model: nn.Module) -> Any:
    """Return the device of a model's first parameter (the CPU for a model without any)."""
    import torch

    parameter = next(model.parameters(), None)
    return parameter.device if parameter is not None else torch.device("cpu")


def cast_to_model_dtype(batch: Batch, model: nn.Module) -> Batch:
    """Return the batch with floating inputs in the model's dtype, if that is a narrow one; labels stay as they are."""
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
    """Return autocast for "bf16" and "fp16"; a context that does nothing for "float32"."""
    import torch

    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)
