"""Statistics of layers from the scores and the mixing weights of probes (Tenney, Das and Pavlick 2019, section 3).

Entry points: `expected_layer`, `centre_of_gravity`, `gain_divergence`, `divergence_from_uniform`. Layer 0 is the
embeddings. The probes whose scores these are stand in `probe` and `training`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


class UndefinedStatisticWarning(UserWarning):
    """Warning that a statistic of layers is NaN, because the scores do not rise over the layers."""


def gains(scores: ArrayLike) -> NDArray[np.float64]:
    """Return what each layer adds to the score of the probe on the layers below it.

    Args:
        scores: [..., layers + 1], of probes on the layers 0 to l, for each l.

    Returns:
        [..., layers], of the layers 1 to L: score(l) - score(l - 1).
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim == 0 or values.shape[-1] < 2:
        raise ValueError("scores of two layers or more are needed")
    return np.diff(values, axis=-1)


def expected_layers(scores: ArrayLike, tolerance: float = 0.01) -> NDArray[np.float64]:
    """Return the expected layer of each series of scores, NaN where it is undefined; see `expected_layer`.

    Args:
        scores: [..., layers + 1], of probes on the layers 0 to l.
        tolerance: share of the largest score by which the scores have to rise in all.

    Returns:
        [...], in layers.
    """
    values = np.asarray(scores, dtype=np.float64)
    steps = gains(values)
    total = steps.sum(-1)
    weighted = (steps * np.arange(1, steps.shape[-1] + 1)).sum(-1)
    defined = total >= np.maximum(tolerance * np.abs(values).max(-1), np.finfo(np.float64).tiny)
    return np.where(defined, weighted / np.where(defined, total, 1.0), math.nan)


def expected_layer(scores: Sequence[float] | ArrayLike, tolerance: float = 0.01) -> float:
    """Return the layer at which a task is expected to be solved: sum of l * gain(l) over the sum of gains.

    Gains keep their sign, as in the authors' code (equation 4). The statistic is of no use where the scores hardly
    rise, or fall: there it is NaN.

    Args:
        scores: of probes on the layers 0 to l, for each l; a fraction or a percentage.
        tolerance: share of the largest score by which the scores have to rise in all.

    Returns:
        The expected layer, from 1 to L where every gain is positive; NaN, with an `UndefinedStatisticWarning`, where
        the scores do not rise.
    """
    value = float(expected_layers(scores, tolerance))
    if math.isnan(value):
        rise = float(gains(scores).sum())
        text = f"the expected layer is undefined: over all layers the scores change by {rise:.3g}"
        warnings.warn(text, UndefinedStatisticWarning, stacklevel=2)
    return value


def centre_of_gravity(weights: ArrayLike) -> float:
    """Return the mean layer under mixing weights: sum of l * s(l) over the layers 0 to L (equation 2).

    Args:
        weights: [layers + 1], that sum to 1.
    """
    shares = _distribution(weights)
    return float((shares * np.arange(len(shares))).sum())


def divergence_from_uniform(weights: ArrayLike) -> float:
    """Return the Kullback-Leibler divergence of mixing weights from the uniform distribution, in bits.

    Args:
        weights: [layers], that sum to 1.
    """
    shares = _distribution(weights)
    positive = shares[shares > 0]
    return float((positive * np.log2(positive)).sum() + math.log2(len(shares)))


def gain_divergence(scores: ArrayLike) -> float:
    """Return how unevenly layers add to the score: the divergence of the gains from uniform, in bits.

    As in the authors' code, gains below 0 count as 0 and the others are divided by their sum.

    Args:
        scores: [layers + 1], of probes on the layers 0 to l, for each l.

    Returns:
        From 0 to log2(L); NaN, with an `UndefinedStatisticWarning`, where no layer adds anything.
    """
    positive = np.clip(gains(scores), 0, None)
    if positive.sum() <= 0:
        text = "the divergence of the gains is undefined: no layer adds to the score"
        warnings.warn(text, UndefinedStatisticWarning, stacklevel=2)
        return math.nan
    return divergence_from_uniform(positive / positive.sum())


def _distribution(weights: ArrayLike) -> NDArray[np.float64]:
    shares = np.asarray(weights, dtype=np.float64)
    if shares.ndim != 1 or not len(shares) or (shares < 0).any() or abs(shares.sum() - 1) > 1e-4:
        raise ValueError("weights have to be at least 0 and to sum to 1")
    return shares / shares.sum()
