"""Shards for plugins: `share_rows` divides any work on rows among the processes that share a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork.data.options import RowsOptions
from topwork.items import Json
from topwork.process import Process
from topwork.shards.claims import STALE_AFTER
from topwork.shards.description import Description, describe_model, describe_sources, software
from topwork.shards.parts import Parts
from topwork.shards.sources import Sources
from topwork.shards.stores import shared_folder
from topwork.shards.worker import Worker

if TYPE_CHECKING:
    from topwork.data.table import Table
    from topwork.runs.task_model import TaskModel


def share_rows(
    kind: str,
    folder: str | Path,
    work: TaskModel,
    model: Path,
    rows: Sequence[RowsOptions],
    compute: Callable[[Sequence[Table], Path], Mapping[str, Json]],
    join: Callable[[Sequence[Path], Path], None],
    *,
    columns: Mapping[str, str] | None = None,
    options: Mapping[str, Json] | None = None,
    shards: int | None = None,
    stale_after: float = STALE_AFTER,
    say: Callable[[str], None] = print,
) -> int:
    """Take part in some work on rows until all of it is done; return the number of shards that were computed here.

    Any number of processes that see the folder call this with the same arguments, and may be killed at any moment. Rows
    are dealt to shards at random, the same way every time, so shards are groups from which errors can be estimated.

    Args:
        kind: name of the work; a folder is for one work only.
        folder: shared by all processes; its path, or its address in a store.
        work: the task and its model; it is moved to the device of this process.
        model: folder that it was loaded from.
        rows: sources of rows, with their targets.
        compute: (rows of a shard by source, folder for its files) -> counts, `rows` and `errors` among them.
        join: (folders of all shards in order, folder for the results); result.json, whole, is the last file that it
            writes.
        columns: the task's column -> the rows' column.
        options: all else that results depend on.
        shards: how many; None takes what the folder has, or a number that suits the rows.
        stale_after: seconds without a sign of life after which another process's shard is taken over.
        say: prints a line.

    Raises:
        UsageError: the folder is for other work, or rows are streamed.
        CheckpointError: files of a shard were changed.
    """
    import numpy

    loaded = [work.plugins.load_rows(source) for source in rows]
    limited = [
        table if source.limit is None else table.select(range(min(source.limit, len(table))))
        for table, source in zip(loaded, rows)
    ]
    sources = Sources(limited, type(work.task), dict(columns or {}), targets=True)
    work.to(Process.alone().device)
    settings: dict[str, Any] = {**(options or {}), "columns": dict(columns or {}), "splits": [s.split for s in rows]}
    data = describe_sources([source.path for source in rows])
    description = Description(kind, describe_model(model), data, len(sources), settings, software())
    worker = Worker(shared_folder(folder), description, shards=shards, stale_after=stale_after)

    order = numpy.random.default_rng([0, len(sources)]).permutation(len(sources))

    def compute_shard(index: int, scratch: Path) -> Mapping[str, Json]:
        indices = worker.bounds(index)
        return compute(sources.at(order[indices.start : indices.stop].tolist()), scratch)

    def join_shards(parts: Parts, count: int) -> None:
        join([parts.verify(index) for index in range(count)], worker.output)

    worker.run(compute_shard, join_shards, say)
    return worker.computed
