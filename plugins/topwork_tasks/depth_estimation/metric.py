"""Metrics of depth as Eigen et al. 2014 (arXiv 1406.2283) defined them.

Each is the mean over the valid pixels of an image, then the mean over the images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

from topwork import Json, Metric, Row

Align = Literal["none", "median", "scale_shift"]


def aligned(predicted: Any, truth: Any, how: Align) -> Any:
    """Return predictions [n] at the truth's scale: by the ratio of the medians, or by least squares.

    For models that know depth up to a scale only.
    """
    import numpy

    if how == "none":
        return predicted
    if how == "median":
        return predicted * (numpy.median(truth) / max(float(numpy.median(predicted)), 1e-12))
    table = numpy.stack([predicted, numpy.ones_like(predicted)], axis=1)
    scale, shift = numpy.linalg.lstsq(table, truth, rcond=None)[0]
    return scale * predicted + shift


def depth_figures(predicted: Any, truth: Any, least: float, cap: float | None, how: Align) -> list[float]:
    """Return abs_rel, rmse, log10, delta1, delta2, delta3 of the valid pixels of one image, both [n] float64."""
    import numpy

    clipped = numpy.clip(aligned(predicted, truth, how), least, cap)
    ratio = numpy.maximum(clipped / truth, truth / clipped)
    return [
        float((abs(clipped - truth) / truth).mean()),
        math.sqrt(float(((clipped - truth) ** 2).mean())),
        float(abs(numpy.log10(clipped) - numpy.log10(truth)).mean()),
        *(float((ratio < 1.25**power).mean()) for power in (1, 2, 3)),
    ]


class DepthMetric(Metric):
    """Figures of the literature, from six sums and a count: each is the mean over images of the figure of one image.

    `rmse_of_pixels`, beside the keys, is that of all pixels of all images together, which weighs images by their
    valid pixels.

    Keys: abs_rel (mean of |difference| / truth; the lower the better), rmse, log10, delta1, delta2, delta3 (share of
    pixels off by less than a factor of 1.25, 1.25^2, 1.25^3). Predictions are clipped to `least` and `cap` first.
    Images without a valid pixel are counted in `rows_without_depth`.

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
        self.squares, self.pixels = 0.0, 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_truth": None}  # another process merges, it does not update

    def update(self, row: Row, prediction: Any) -> None:
        """Add one row and its prediction."""
        import numpy

        truth = self._truth(row, prediction.size)
        valid = truth > 0
        if not valid.any():
            self.without += 1
            return
        predicted = prediction["predicted_depth"][valid].astype(numpy.float64)
        known = truth[valid].astype(numpy.float64)
        figures = depth_figures(predicted, known, self.least, self.cap, self.align)
        self.squares += figures[1] ** 2 * len(known)
        self.pixels += len(known)
        self.sums = [total + figure for total, figure in zip(self.sums, figures)]
        self.count += 1

    def merge(self, metric: DepthMetric) -> None:
        """Add the sums of another process."""
        self.sums = [total + more for total, more in zip(self.sums, metric.sums)]
        self.count += metric.count
        self.without += metric.without
        self.squares += metric.squares
        self.pixels += metric.pixels

    def result(self) -> dict[str, Json]:
        """Return the figures, see the class."""
        means = [total / self.count if self.count else math.nan for total in self.sums]
        pixels = math.sqrt(self.squares / self.pixels) if self.pixels else math.nan
        return {**dict(zip(self.keys, means)), "rmse_of_pixels": pixels, "rows_without_depth": self.without}
