"""Jensen-Shannon divergences between attention heads, a map of them in two dimensions, and clusters.

Entry points: `divergences`, `HeadDistances` (their mean over rows), `head_map`, `clusters`. Clark et al. (2019, section
6 and figure 6) sum the divergences over all tokens; here they are means over queries and rows, which map alike.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy
import torch
from numpy.typing import NDArray

from topwork import UsageError

#: queries of a row that are compared at most, spread over the row
QUERIES = 64


def divergences(weights: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
    """Return the Jensen-Shannon divergence of each pair of attention heads, the mean over queries, in nats.

    JS(p, q) = H((p + q) / 2) - (H(p) + H(q)) / 2, between 0 and ln 2 (Lin 1991).

    Args:
        weights: [heads, queries, keys].
        valid: [queries] booleans; None for all.

    Returns:
        [heads, heads], symmetric.
    """
    chosen = weights.double() if valid is None else weights[:, valid].double()
    if chosen.shape[1] > QUERIES:
        chosen = chosen[:, torch.linspace(0, chosen.shape[1] - 1, QUERIES).round().long()]
    heads = len(chosen)
    single = _entropy(chosen)
    result = torch.zeros(heads, heads, dtype=torch.float64)
    for head in range(heads - 1):
        mixed = _entropy((chosen[head] + chosen[head + 1 :]) / 2)
        between = (mixed - (single[head] + single[head + 1 :]) / 2).mean(-1).clamp(0, math.log(2))
        result[head, head + 1 :] = result[head + 1 :, head] = between.cpu()
    return result


def _entropy(weights: torch.Tensor) -> torch.Tensor:
    return -torch.xlogy(weights, weights).sum(-1)


class HeadDistances:
    """Mean divergences over rows, for layers whose attention has the same queries and keys."""

    def __init__(self) -> None:
        self.total: torch.Tensor | None = None
        self.rows = 0

    def add(self, layers: Sequence[torch.Tensor], valid: torch.Tensor) -> None:
        """Add one row.

        Args:
            layers: [heads, queries, keys] of each layer, with the same queries and keys.
            valid: [queries] booleans.
        """
        between = divergences(torch.cat(list(layers)), valid)
        self.total = between if self.total is None else self.total + between
        self.rows += 1

    def merge(self, other: HeadDistances) -> None:
        """Take over the rows of another process."""
        if other.total is not None:
            self.total = other.total if self.total is None else self.total + other.total
            self.rows += other.rows

    def mean(self) -> NDArray[numpy.float64] | None:
        """Return [heads, heads]; None when there were no rows."""
        return None if self.total is None else (self.total / self.rows).numpy()


def head_map(distances: NDArray[numpy.float64], seed: int = 0) -> NDArray[numpy.float64]:
    """Return points [heads, 2] whose distances are like the given ones: metric multidimensional scaling.

    Settings are those of Clark et al. (2019): five starts, 1,000 iterations.

    Raises:
        UsageError: fewer than three attention heads.
    """
    from sklearn.manifold import MDS

    if len(distances) < 3:
        raise UsageError(f"a map of {len(distances)} attention heads", hint="three or more make a map")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        scaling = MDS(
            n_components=2, n_init=5, eps=1e-10, max_iter=1000, random_state=seed, **_precomputed(), **_metric()
        )
        return scaling.fit_transform(distances)


def _precomputed() -> dict[str, str]:
    """Return the argument that says distances are given: scikit-learn 1.8 renamed it."""
    import inspect

    from sklearn.manifold import MDS

    renamed = "metric_mds" in inspect.signature(MDS.__init__).parameters
    return {"metric": "precomputed"} if renamed else {"dissimilarity": "precomputed"}


def _metric() -> dict[str, object]:
    """Return the arguments for metric scaling from random starts, by the names of the installed scikit-learn."""
    import inspect

    from sklearn.manifold import MDS

    names = inspect.signature(MDS.__init__).parameters
    wanted: dict[str, object] = {"metric_mds" if "metric_mds" in names else "metric": True}
    return {**wanted, "init": "random"} if "init" in names else wanted


def clusters(distances: NDArray[numpy.float64], most: int = 8) -> tuple[list[int], float]:
    """Group attention heads by average linkage; as many groups as give the highest silhouette (Rousseeuw 1987).

    Args:
        distances: [heads, heads].
        most: groups at most.

    Returns:
        The cluster of each attention head, and the mean silhouette: near 1 for clear groups, near 0 for none.

    Raises:
        UsageError: fewer than three attention heads.
    """
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.metrics import silhouette_score

    if len(distances) < 3:
        raise UsageError(f"clusters of {len(distances)} attention heads", hint="three or more can be grouped")
    best: tuple[float, list[int]] = (-math.inf, [0] * len(distances))
    for count in range(2, min(most, len(distances) - 1) + 1):
        labels = AgglomerativeClustering(count, metric="precomputed", linkage="average").fit_predict(distances)
        score = float(silhouette_score(distances, labels, metric="precomputed"))
        if score > best[0]:
            best = (score, labels.tolist())
    return best[1], best[0]
