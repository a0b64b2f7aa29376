"""Linear CKA of the states of layers, unbiased, batch by batch, with a permutation null.

Entry points: `CkaSums` and `unbiased_cka`. Kornblith et al. 2019 (similarity), Song et al. 2012 (unbiased HSIC),
Nguyen, Raghu and Kornblith 2021 (sums over batches: equations 2 and 3 of arXiv 2010.15327).
"""

from __future__ import annotations

import math

import torch


def unbiased_hsic(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the unbiased estimate of HSIC of two Gram matrices (Song et al. 2012, equation 5).

    Args:
        first: [..., rows, rows], rows at least 4.
        second: the same of the other states.
    """
    rows = first.shape[-1]
    if rows < 4:
        raise ValueError("the unbiased estimate needs four rows or more")
    eye = torch.eye(rows, dtype=torch.bool, device=first.device)
    left, right = first.masked_fill(eye, 0), second.masked_fill(eye, 0)
    trace = (left * right.transpose(-1, -2)).sum((-1, -2))
    sums = left.sum((-1, -2)) * right.sum((-1, -2)) / ((rows - 1) * (rows - 2))
    mixed = (left.sum(-2) * right.sum(-1)).sum(-1) * 2 / (rows - 2)
    return (trace + sums - mixed) / (rows * (rows - 3))


def unbiased_cka(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the unbiased linear CKA of two sets of states of the same rows [rows, width]; NaN without variance."""
    sums = CkaSums(1, 1)
    sums.add([first], [second])
    return float(sums.values()[0, 0])


class CkaSums:
    """Sums over batches of rows of what CKA of each two layers is made of; memory does not grow with the rows.

    Args:
        first: layers of the one model.
        second: layers of the other.
        permutations: random orders of the rows of each batch, for the null.
        seed: of the orders.
    """

    def __init__(self, first: int, second: int, permutations: int = 0, seed: int = 0) -> None:
        self.cross = torch.zeros(1 + permutations, first, second, dtype=torch.float64)
        self.of_first = torch.zeros(first, dtype=torch.float64)
        self.of_second = torch.zeros(second, dtype=torch.float64)
        self.generator = torch.Generator().manual_seed(seed)

    def add(self, first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
        """Add a batch.

        Args:
            first: for each layer of the one model [rows, width].
            second: for each layer of the other, of the same rows.
        """
        left = torch.stack([state.double() @ state.double().T for state in first])
        right = torch.stack([state.double() @ state.double().T for state in second])
        self.of_first += unbiased_hsic(left, left)
        self.of_second += unbiased_hsic(right, right)
        self.cross[0] += unbiased_hsic(left[:, None], right[None])
        for index in range(1, len(self.cross)):
            order = torch.randperm(left.shape[-1], generator=self.generator)
            self.cross[index] += unbiased_hsic(left[:, None], right[None][..., order, :][..., order])

    def values(self) -> torch.Tensor:
        """Return CKA of each two layers [first, second]; NaN where a layer has no variance."""
        return self._divided(self.cross[0])

    def null(self) -> torch.Tensor:
        """Return the same for rows in random orders [permutations, first, second]."""
        return self._divided(self.cross[1:])

    def _divided(self, cross: torch.Tensor) -> torch.Tensor:
        products = self.of_first[:, None] * self.of_second[None]
        divided = cross / products.clamp(min=torch.finfo(products.dtype).tiny).sqrt()
        return torch.where(products > 0, divided, math.nan)
