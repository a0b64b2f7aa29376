"""Expected calibration error: how far confidences are from shares of right predictions.

Entry points: `new_bins`, `add`, `merged` and `calibration_error`. Guo et al. (2017), arXiv:1706.04599, equation 3, with
15 bins of equal width: sum over bins of (count / all) * |share that is right - mean confidence|. Bins are plain lists,
so that they merge over processes and are written with a metric's state.
"""

from __future__ import annotations

import math

#: bins of equal width, as Guo et al. have them
BINS = 15
#: of each bin: how many, sum of confidences, how many are right
Bins = list[list[float]]


def new_bins() -> Bins:
    """Return bins without entries."""
    return [[0.0, 0.0, 0.0] for _ in range(BINS)]


def add(bins: Bins, confidence: float, right: bool) -> None:
    """Count one prediction.

    Args:
        bins: of `new_bins`.
        confidence: probability that the model gave to what it predicted, in [0, 1]. The bins are closed on the right.
        right: whether that was true.
    """
    entry = bins[min(BINS - 1, max(0, math.ceil(confidence * BINS) - 1))]
    entry[0] += 1
    entry[1] += confidence
    entry[2] += right


def merged(bins: Bins, more: Bins) -> Bins:
    """Return the sums of two sets of bins."""
    return [[mine + theirs for mine, theirs in zip(*pair)] for pair in zip(bins, more)]


def calibration_error(bins: Bins) -> float:
    """Return the expected calibration error; NaN without predictions."""
    total = sum(count for count, _, _ in bins)
    return sum(abs(right - confidence) for _, confidence, right in bins) / total if total else math.nan
