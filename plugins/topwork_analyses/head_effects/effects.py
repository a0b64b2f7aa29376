"""Effects of single attention heads: one removed, and all but one removed in a layer, with intervals and corrections.

Tables 1 and 2 of Michel, Levy and Neubig (2019, arXiv 1905.10650), for which they used paired bootstrap and t-tests.
Entry points: `removed` and `alone`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy
from numpy.typing import NDArray

from topwork import AttentionLayer
from topwork_analyses.head_effects.row_values import MetricDifference, Options, RowValues
from topwork_analyses.statistics.bootstrap import Interval, mean_intervals
from topwork_analyses.statistics.corrections import holm

#: (layer, indices of attention heads) -> a block in which they are ablated
Ablation = Callable[[AttentionLayer, Sequence[int]], AbstractContextManager[Any]]


@dataclass
class Effect:
    """Change of metric and loss when attention heads of one layer are ablated.

    Args:
        layer: the layer.
        head: the attention head that was removed, or that alone was left.
        metric: change of the metric.
        loss: change of the mean row loss.
        metric_p: p-value of the change of the metric, corrected for all attention heads (Holm).
        loss_p: the same of the loss.
        changes: by measure, changes of single rows, where they have a meaning.
    """

    layer: AttentionLayer
    head: int
    metric: Interval | None = None
    loss: Interval | None = None
    metric_p: float | None = None
    loss_p: float | None = None
    changes: dict[str, NDArray[numpy.float64]] = field(default_factory=dict)


def removed(
    layers: Sequence[AttentionLayer],
    ablation: Ablation,
    measured: Callable[[], RowValues],
    base: RowValues,
    difference: MetricDifference,
    progress: Callable[[list[Any]], Any] = iter,
) -> list[Effect]:
    """Return the effect of each attention head: what changes when it alone is ablated.

    Args:
        layers: the layers whose attention heads are ablated.
        ablation: makes a block in which attention heads are ablated.
        measured: measures the rows in the present state of the model.
        base: what it measured of the whole model.
        difference: compares metrics with those of the whole model.
        progress: wraps the list of attention heads.
    """
    effects = []
    singles = [(layer, head) for layer in layers for head in layer.kept]
    for layer, head in progress(singles):
        with ablation(layer, [head]):
            values = measured()
        effects.append(_effect(layer, head, values, base, difference, None))
    _set_intervals(effects, difference.options, None)
    return effects


def alone(
    layers: Sequence[AttentionLayer],
    ablation: Ablation,
    measured: Callable[[], RowValues],
    base: RowValues,
    difference: MetricDifference,
    progress: Callable[[list[Any]], Any] = iter,
) -> list[Effect]:
    """Return for each layer with several attention heads the effect of leaving only its best one.

    The best is chosen on every second row and its effect measured on the others, so that choosing favours nothing.
    It is best by the metric, of those that are equal by the loss.
    """
    choosing, judging = numpy.arange(0, len(base.rows), 2), numpy.arange(1, len(base.rows), 2)
    effects = []
    several = [layer for layer in layers if len(layer.kept) > 1]
    for layer in progress(several):
        best: tuple[tuple[float, float], int, RowValues] | None = None
        for head in layer.kept:
            with ablation(layer, [index for index in layer.kept if index != head]):
                values = measured()
            goodness = _goodness(values, base, difference, choosing)
            if best is None or goodness > best[0]:
                best = goodness, head, values
        assert best is not None
        effects.append(_effect(layer, best[1], best[2], base, difference, judging))
    _set_intervals(effects, difference.options, judging)
    return effects


def _goodness(
    values: RowValues, base: RowValues, difference: MetricDifference, rows: NDArray[numpy.int64]
) -> tuple[float, float]:
    metric = loss = 0.0
    if values.metrics:
        metric = difference.sign * difference.change(values.metrics, rows)
    if values.losses is not None and base.losses is not None:
        loss = -float((values.losses - base.losses)[rows].mean())
    return metric, loss


def _effect(
    layer: AttentionLayer,
    head: int,
    values: RowValues,
    base: RowValues,
    difference: MetricDifference,
    rows: NDArray[numpy.int64] | None,
) -> Effect:
    """Return the effect of a state, with the interval of a metric that is no mean over rows."""
    effect = Effect(layer, head)
    if values.metrics:
        changes = difference.changes(values.metrics)
        if changes is None:
            effect.metric = difference.interval(values.metrics, rows)
        else:
            effect.changes["metric"] = changes
    if values.losses is not None and base.losses is not None:
        effect.changes["loss"] = values.losses - base.losses
    return effect


def _set_intervals(effects: Sequence[Effect], options: Options, rows: NDArray[numpy.int64] | None) -> None:
    """Set the intervals of means over rows, all from the same resamples, and p-values corrected for all effects."""
    for name in ("metric", "loss"):
        changed = [effect for effect in effects if name in effect.changes]
        if changed:
            table = numpy.stack([effect.changes[name] for effect in changed], axis=1)
            intervals = mean_intervals(
                table if rows is None else table[rows],
                confidence=options.confidence,
                method=options.method,
                draws=options.draws,
                seed=options.seed,
            )
            for effect, interval in zip(changed, intervals, strict=True):
                setattr(effect, name, interval)
        measured = [effect for effect in effects if getattr(effect, name) is not None]
        for effect, p in zip(measured, holm([getattr(effect, name).p for effect in measured]) if measured else ()):
            setattr(effect, f"{name}_p", p)


def significant(effects: Sequence[Effect], level: float) -> Iterator[Effect]:
    """Yield the effects that are significant at a family-wise level: of the metric where measured, else the loss."""
    for effect in effects:
        p = effect.metric_p if effect.metric is not None else effect.loss_p
        if p is not None and p <= level:
            yield effect
