"""The task's metric over many rows by many processes, with standard errors: `measure_shards`, `measure_rows`.

Rows belong to random groups of like size, whatever shards they lie in; each shard has the state of the metric for each
group. All states together are the metric over all rows; without one group each they give the delete-a-group jackknife
(Shao & Tu 1995, section 2.3), which holds for any metric that is a smooth function of means over rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork.data.loop import Settings, predict_rows, update_metric
from topwork.files import write_json
from topwork.items import Json
from topwork.metric import Metric
from topwork.process import Process
from topwork.shards.metric_states import metric_state, restore_metric
from topwork.shards.parts import Parts
from topwork.shards.predicting import ERRORS, error_line, join_lines, write_errors
from topwork.shards.worker import RESULT, Worker, total

if TYPE_CHECKING:
    from topwork.saving.parts import TaskParts
    from topwork.shards.sources import Sources
    from topwork.task import Task

STATES = "states.json"


def measure_shards(
    worker: Worker,
    work: TaskParts,
    sources: Sources,
    settings: Mapping[str, Any],
    groups: int,
    say: Callable[[str], None],
) -> dict[str, Json]:
    """Take part in a measurement until all shards are measured, and return the result.

    Args:
        worker: of the folder.
        work: the task and its model.
        sources: the rows, with their targets.
        settings: of the loop, as of `topwork.data.loop.Settings`.
        groups: of rows, for standard errors; fewer than 2 give none.
        say: prints a line.
    """
    fresh = work.task.metric()

    def compute(index: int, folder: Path) -> dict[str, Json]:
        metrics, count, errors = _measure(work, sources, worker.bounds(index), settings, groups)
        states = [metric_state(metric, fresh) for metric in metrics]
        (folder / STATES).write_text(json.dumps(states, separators=(",", ":"), ensure_ascii=False), encoding="utf-8")
        write_errors(folder, errors)
        return {"rows": count, "errors": len(errors)}

    worker.run(compute, partial(_join, worker.output, work.task), say)
    return json.loads((worker.output / RESULT).read_text(encoding="utf-8"))


def measure_rows(work: TaskParts, sources: Sources, settings: Mapping[str, Any], groups: int) -> dict[str, Json]:
    """Return the metric over all rows, measured by this process alone; arguments as of `measure_shards`."""
    metrics, count, errors = _measure(work, sources, range(len(sources)), settings, groups)
    return {**summary(work.task, metrics), "rows": count, "skipped": len(errors), "skipped_rows": errors[:20]}


def group_of_rows(rows: int, groups: int) -> Any:
    """Return the group of each row: random, the same for the same numbers, and of like size."""
    import numpy

    return numpy.random.default_rng([0, rows]).permutation(rows) % max(1, min(groups, rows))


def _measure(
    work: TaskParts, sources: Sources, indices: range, settings: Mapping[str, Any], groups: int
) -> tuple[list[Metric], int, list[dict[str, Json]]]:
    """Return the metric of each group, the number of rows, and the lines of the rows that were left out."""
    group = group_of_rows(len(sources), groups)
    metrics = [work.task.metric() for _ in range(max(1, min(groups, len(sources))))]
    errors: list[dict[str, Json]] = []
    count = 0
    for first, rows in sources.between(indices.start, indices.stop):
        chosen = Settings(**settings)
        for index, row, prediction in predict_rows(work.task, work.model, rows, chosen, Process.alone()):
            count += update_metric(metrics[group[first + index]], rows, index, row, prediction, chosen)
        errors += [error_line(note, first) for note in chosen.skipped]
    return metrics, count, errors


def _join(folder: Path, task: Task, parts: Parts, count: int) -> None:
    """Write what all shards are together."""
    metrics: list[Metric] = []
    for index in range(count):
        states = json.loads(b"".join(parts.verified(index, STATES)))
        metrics = metrics or [task.metric() for _ in states]
        for metric, state in zip(metrics, states, strict=True):
            metric.merge(restore_metric(task.metric(), state, f"{parts.location(index)}/{STATES}"))
    errors = total(parts, count, "errors")
    if errors:
        join_lines(parts, count, folder / ERRORS)
    counts = {"rows": total(parts, count, "rows"), "skipped": errors, "shards": count}
    write_json(folder / RESULT, {**summary(task, metrics), **counts})


def summary(task: Task, metrics: Sequence[Metric]) -> dict[str, Json]:
    """Return the metric over all groups, with the standard errors of its keys.

    Args:
        task: whose metric it is.
        metrics: of each group.
    """
    merged = _merged(task, metrics)
    values = merged.result()
    measured = {
        "metrics": {key: values[key] for key in merged.keys},
        "tables": {key: value for key, value in values.items() if key not in merged.keys},
        "primary": merged.primary,
        "higher_is_better": merged.higher_is_better,
    }
    if len(metrics) < 2:
        return measured
    without = [_merged(task, [*metrics[:index], *metrics[index + 1 :]]).result() for index in range(len(metrics))]
    errors = {key: jackknife_error([float(values[key]) for values in without]) for key in merged.keys}
    return {**measured, "standard_errors": errors, "groups": len(metrics)}


def jackknife_error(values: Sequence[float]) -> float | None:
    """Return the jackknife's standard error of a number, given its values without each group.

    With n groups and the values v: sqrt((n - 1) / n * sum((v - mean(v))^2)). None when a value is no number.
    """
    if not all(map(math.isfinite, values)):
        return None
    mean = math.fsum(values) / len(values)
    return math.sqrt((len(values) - 1) / len(values) * math.fsum((value - mean) ** 2 for value in values))


def _merged(task: Task, metrics: Sequence[Metric]) -> Metric:
    merged = task.metric()
    for metric in metrics:
        merged.merge(metric)
    return merged
