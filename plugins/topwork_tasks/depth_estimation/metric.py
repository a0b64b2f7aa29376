"""Metrics of depth, as Eigen et al. 2014 (arXiv 1406.2283) defined them and the literature reports them: the mean over
the valid pixels of each picture, then the mean over the pictures."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

from topwork import Json, Metric, Row

Align = Literal["none", "median", "scale_shift"]


def aligned(predicted: Any, truth: Any, how: Align) -> Any:
    """Predictions [n] brought to the truth's scale: times the ratio of the medians, or by the scale and shift of least
    squares; for models that know depth up to a scale only."""
    import numpy

    if how == "none":
        return predicted
    if how == "median":
        return predicted * (numpy.median(truth) / max(float(numpy.median(predicted)), 1e-12))
    table = numpy.stack([predicted, numpy.ones_like(predicted)], axis=1)
    scale, shift = numpy.linalg.lstsq(table, truth, rcond=None)[0]
    return scale * predicted + shift


def measured(predicted: Any, truth: Any, least: float, cap: float | None, how: Align) -> list[float]:
    """abs_rel, rmse, log10, delta1, delta2, delta3 of the valid pixels of one picture, both [n] float64."""
    import numpy

    found = numpy.clip(aligned(predicted, truth, how), least, cap)
    ratio = numpy.maximum(found / truth, truth / found)
    return [
        float((abs(found - truth) / truth).mean()),
        math.sqrt(float(((found - truth) ** 2).mean())),
        float(abs(numpy.log10(found) - numpy.log10(truth)).mean()),
        *(float((ratio < 1.25**power).mean()) for power in (1, 2, 3)),
    ]


class DepthMetric(Metric):
    """Keys: abs_rel (mean of |difference| / truth; the lower the better), rmse, log10, delta1, delta2, delta3 (share of
    pixels off by less than a factor of 1.25, 1.25^2, 1.25^3). Predictions are cut to `least` and `cap` first. The state
    is six sums and a count; pictures without a valid pixel are counted beside (`rows_without_depth`).

    Args:
        truth: (row, size) -> depth [height, width], 0 where it is not known.
    """

    keys = ("abs_rel", "rmse", "log10", "delta1", "delta2", "delta3")
    primary = "abs_rel"
    higher_is_better = False

    def __init__(
        self, truth: Callable[[Row, tuple[int, int]], Any], least: float, cap: float | None, align: Align
    ) -> None:
        self._truth, self.least, self.cap, self.align = truth, least, cap, align
        self.sums = [0.0] * len(self.keys)
        self.count = self.without = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_truth": None}  # another process merges, it does not update

    def update(self, row: Row, prediction: Any) -> None:
        import numpy

        truth = self._truth(row, prediction.size)
        valid = truth > 0
        if not valid.any():
            self.without += 1
            return
        wanted = truth[valid].astype(numpy.float64)
        found = prediction["predicted_depth"][valid].astype(numpy.float64)
        numbers = measured(found, wanted, self.least, self.cap, self.align)
        self.sums = [total + number for total, number in zip(self.sums, numbers)]
        self.count += 1

    def merge(self, other: DepthMetric) -> None:
        self.sums = [total + number for total, number in zip(self.sums, other.sums)]
        self.count += other.count
        self.without += other.without

    def result(self) -> dict[str, Json]:
        means = [total / self.count if self.count else math.nan for total in self.sums]
        return {**dict(zip(self.keys, means)), "rows_without_depth": self.without}
