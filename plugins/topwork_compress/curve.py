"""Metric against milliseconds at several budgets, by what is removed and how it is chosen.

Entry points: `measured_curve`, which compresses a copy of the model for each point, and `drawn`, its part of a stage's
result.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from topwork import AttentionLayer, Batch, Json, UsageError
from topwork_compress.compression import Compression
from topwork_compress.measure import wall_times
from topwork_compress.plan import Budget, Compressed, Settings
from topwork_compress.procedure import run_all
from topwork_lens.model_state import quiet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from topwork import Run

HEADS, BOTH, LAYER, RANDOM = "heads alone", "heads and neurons", "after a whole layer", "at random"
#: repeats of a wall time
_REPEATS = 5


@dataclass
class CurvePoint:
    """One compressed copy of a model.

    Args:
        choice: what is removed, and how it is chosen.
        left: share of the operations that is left.
        value: the primary metric.
        milliseconds: of the largest calibration batch.
        faster: how many times faster than the whole model, run in turn with it.
        heads: attention heads that are left.
        neurons: neurons that are left.
    """

    choice: str
    left: float
    value: float
    milliseconds: float
    faster: float
    heads: int
    neurons: int


def measured_curve(
    run: Run, batches: Sequence[Batch], settings: Settings, budgets: Sequence[float], role: str, before: float
) -> list[CurvePoint]:
    """Compress a copy of a run's model to every budget in every way, and measure it; the model stays as it is.

    Args:
        run: whose model and rows.
        batches: calibration rows.
        settings: of the compression.
        budgets: shares of the operations that are left; those that a way cannot keep are said and left out.
        role: whose rows are measured.
        before: the metric of the whole model on them.

    Returns:
        The whole model first, then each way from the largest budget to the smallest. A busy machine slows all models
        alike: milliseconds are those of the whole model, measured once, divided by how many times faster a copy is.
    """
    points: list[CurvePoint] = []
    ways = {
        HEADS: settings,
        BOTH: settings,
        LAYER: replace(settings, layers=1),
        RANDOM: replace(settings, score="random"),
    }
    for name, how in ways.items():
        scores = None
        for budget in sorted(budgets, reverse=True):
            small = copy.deepcopy(run.model)
            try:
                compression = Compression(small, batches, run.task.row_losses, run.plugins, how)
                if name == HEADS:
                    compression.only(AttentionLayer)
                scores = compression.share_scores(scores)
                result = run_all(compression, Budget(macs=budget))
            except UsageError as error:
                run.say(f"  {name}, {budget} of the operations: {error.cause}")
                continue
            points += _measured(run, batches, name, small, result, role, points, before)
            run.say(f"  {name}, {points[-1].left:.3f} of the operations: {points[-1].value:.4g}")
    return points


def _measured(
    run: Run,
    batches: Sequence[Batch],
    name: str,
    small: nn.Module,
    result: Compressed,
    role: str,
    earlier: Sequence[CurvePoint],
    before: float,
) -> list[CurvePoint]:
    """Return the point of a compressed copy; at first that of the whole model too."""
    whole, batch = run.model, max(batches, key=lambda batch: batch.row_count)
    with quiet(whole), quiet(small):
        runs = [lambda model=model: run.task.row_losses(model, batch) for model in (whole, small)]
        slow, fast = wall_times(runs, _REPEATS)
    with _instead(run, small):
        value = float(run.evaluate(role)[run.task.metric().primary])
    counts, points = result.plan.counts(), list[CurvePoint]()
    if not earlier:
        points = [CurvePoint("whole", 1.0, before, 1000 * slow, 1.0, counts["heads"][0], counts["neurons"][0])]
    milliseconds = (earlier or points)[0].milliseconds * fast / slow
    left = result.after / result.before
    return [
        *points,
        CurvePoint(name, left, value, milliseconds, slow / fast, counts["heads"][1], counts["neurons"][1]),
    ]


@contextmanager
def _instead(run: Run, model: nn.Module) -> Iterator[None]:
    """Let a run measure another model for a block."""
    whole = run.model
    run.model = model
    try:
        yield
    finally:
        run.model = whole


def drawn(points: Sequence[CurvePoint], primary: str, role: str) -> dict[str, Json]:
    """Return what a stage's result has of a curve: each point, and a chart.

    Args:
        points: the whole model first.
        primary: the metric.
        role: whose rows were measured.
    """
    series: dict[str, list[list[float]]] = {}
    first, *others = points
    for point in others:
        line = series.setdefault(point.choice, [[first.milliseconds, first.value]])
        line.append([point.milliseconds, point.value])
    chart: dict[str, Any] = {"title": f"{primary} on {role} rows", "x": "milliseconds", "series": series}
    return {"curve": [asdict(point) for point in points], "curves": [chart]}
