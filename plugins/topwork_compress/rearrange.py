"""Rearrangement by block Fisher: swaps within one layer or block that lower what its removal is estimated to cost.

Entry point: `rearranged`. With g_i the gradients of gate i, row by row, the loss of removing a set S is estimated by
||sum over S of g_i||^2 (Kwon et al. 2022, section 4.2); the diagonal alone knows nothing of pairs that cancel out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

#: swaps that one layer or block gets at most
_MOST_SWAPS = 100
#: rows are projected to as many random directions where a Gram matrix of all would be large
_DIRECTIONS = 256


def objective(gradients: torch.Tensor, removed: Sequence[int]) -> float:
    """Return ||sum of gradients of what is removed||^2.

    Args:
        gradients: [rows, units].
        removed: positions of units.
    """
    return float(gradients[:, list(removed)].double().sum(1).square().sum())


def rearranged(gradients: torch.Tensor, removed: Sequence[int]) -> list[int]:
    """Swap removed and kept units while that lowers the objective; as many are removed as before.

    Args:
        gradients: [rows, units].
        removed: positions of units.
    """
    count = gradients.shape[1]
    if not removed or len(removed) == count:
        return sorted(removed)
    rows = gradients.double()
    if len(rows) > _DIRECTIONS and count > 4 * _DIRECTIONS:
        generator = torch.Generator().manual_seed(0)
        signs = torch.randn(_DIRECTIONS, len(rows), generator=generator, dtype=torch.float64)
        rows = signs @ rows / _DIRECTIONS**0.5
    gram = rows.T @ rows
    diagonal = gram.diagonal()
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[list(removed)] = True
    sums = gram[:, chosen].sum(1)
    for _ in range(_MOST_SWAPS):
        out, into = chosen.nonzero().flatten(), (~chosen).nonzero().flatten()
        # removing j in place of i: f - 2 s_i + G_ii + 2 s_j + G_jj - 2 G_ij
        change = (diagonal - 2 * sums)[out][:, None] + (diagonal + 2 * sums)[into][None] - 2 * gram[out][:, into]
        best = int(change.argmin())
        if float(change.flatten()[best]) >= -1e-12 * float(diagonal.sum()):
            break
        first, second = int(out[best // len(into)]), int(into[best % len(into)])
        chosen[first], chosen[second] = False, True
        sums = sums - gram[:, first] + gram[:, second]
    result = chosen.nonzero().flatten().tolist()
    # the projection is an estimate: what it made worse is not done
    return result if objective(gradients, result) <= objective(gradients, removed) else sorted(removed)
