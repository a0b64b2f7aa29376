"""CAT-score: agreement of large attention with small distance in a syntax tree, and its permutation null.

Entry points: `cat_score`, `permuted_scores`, `merged_attention`. Formula: Chen et al. 2022, "CAT-probing: A
metric-based approach to interpret how pre-trained models for programming language attend code structure" (arXiv
2210.04633), equation 1, with the thresholds of the authors' code (nchen909/CodeAttention): the .75 quantile of a
row's attention, the .25 quantile of its distances, both strict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

ATTENTION_QUANTILE, DISTANCE_QUANTILE = 0.75, 0.25


def large_attention(attention: NDArray[np.float64], quantile: float = ATTENTION_QUANTILE) -> NDArray[np.bool_]:
    """Return which cells [..., tokens, tokens] lie above the quantile of their matrix."""
    bounds = np.quantile(attention, quantile, axis=(-2, -1), keepdims=True)
    return attention > bounds


def small_distances(distances: ArrayLike, quantile: float = DISTANCE_QUANTILE) -> NDArray[np.bool_]:
    """Return which cells [tokens, tokens] lie below the quantile of all distances."""
    values = np.asarray(distances, dtype=np.float64)
    return values < np.quantile(values, quantile)


def cat_score(
    attention: ArrayLike,
    distances: ArrayLike,
    attention_quantile: float = ATTENTION_QUANTILE,
    distance_quantile: float = DISTANCE_QUANTILE,
) -> NDArray[np.float64]:
    """Return the share of cells with large attention and small distance among those with one of both (Jaccard).

    The diagonal, whose distance is 0, counts as in the paper.

    Args:
        attention: [..., tokens, tokens] of one row.
        distances: [tokens, tokens].
        attention_quantile: above it attention is large.
        distance_quantile: below it a distance is small.

    Returns:
        [...], from 0 to 1; NaN where no cell is either.
    """
    values, near = np.asarray(attention, dtype=np.float64), small_distances(distances, distance_quantile)
    if values.shape[-2:] != near.shape or values.shape[-1] != values.shape[-2]:
        raise ValueError(f"attention of {values.shape[-2:]} tokens, distances of {near.shape}")
    return _jaccard(large_attention(values, attention_quantile), near)


def permuted_scores(
    attention: ArrayLike,
    distances: ArrayLike,
    draws: int,
    seed: int,
    attention_quantile: float = ATTENTION_QUANTILE,
    distance_quantile: float = DISTANCE_QUANTILE,
) -> NDArray[np.float64]:
    """Return the scores [draws, ...] with the tokens of the tree in a random order: what chance gives to this row."""
    large = large_attention(np.asarray(attention, dtype=np.float64), attention_quantile)
    near = small_distances(distances, distance_quantile)
    random = np.random.default_rng(seed)
    orders = [random.permutation(len(near)) for _ in range(draws)]
    return np.stack([_jaccard(large, near[np.ix_(order, order)]) for order in orders])


def merged_attention(attention: ArrayLike, groups: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Return the attention between groups of tokens: the mean over all pairs of their tokens, as the authors have it.

    Args:
        attention: [..., tokens, tokens].
        groups: tokens of each group, at least one each; the groups need not hold all tokens.

    Returns:
        [..., groups, groups].
    """
    values = np.asarray(attention, dtype=np.float64)
    members = np.zeros((len(groups), values.shape[-1]))
    for index, tokens in enumerate(groups):
        members[index, list(tokens)] = 1 / len(tokens)
    return members @ values @ members.T


def _jaccard(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.float64]:
    both, either = (first & second).sum((-2, -1)), (first | second).sum((-2, -1))
    return np.where(either > 0, both / np.maximum(either, 1), math.nan)
