"""Which shape a reshape is given in a module that has fewer attention heads than its code believes, and which entries
of an argument it takes: by shapes alone, without a model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from topwork_lens.pruning.arguments import ArgumentCut
from topwork_lens.pruning.reshapes import Counts, expanded, reshaped, split_sizes

#: [rows 2, positions 5, 3 of 4 attention heads, width 8]: a tensor, what the code asks for, what it gets
RESHAPES = [
    ((2, 5, 24), [2, 5, 4, 8], [2, 5, 3, 8]),
    ((2, 5, 24), [2, -1, 4, 8], [2, -1, 3, 8]),
    ((2, 5, 24), [2, 5, 4, -1], [2, 5, 3, -1]),
    ((2, 5, 72), [2, 5, 3, 4, 8], [2, 5, 3, 3, 8]),
    ((2, 5, 3, 8), [2, 5, 32], [2, 5, 24]),
    ((2, 5, 3, 8), [2, -1, 32], [2, -1, 24]),
    ((5, 6, 8), [5, 2, 32], [5, 2, 24]),
    ((2, 3, 5, 8), [8, 5, 8], [6, 5, 8]),
    ((2, 3, 5, 5), [8, 5, 5], [6, 5, 5]),
    # as many rows, or windows, as attention heads
    ((4, 4, 24), [4, 4, 4, 8], [4, 4, 3, 8]),
    ((4, 24), [4, 4, 8], [4, 3, 8]),
    ((16, 3, 4, 4), [4, 4, 4, 4, 4], [4, 4, 3, 4, 4]),
    ((16, 24), [4, 4, 4, 8], [4, 4, 3, 8]),
    # what fits is left alone
    ((2, 5, 32), [2, -1, 32], [2, -1, 32]),
    ((2, 5, 32), [-1, 32], [-1, 32]),
    ((1, 1, 32), [-1, 32], [-1, 32]),
    ((4, 12, 32), [48, 32], [48, 32]),
    ((2, 5, 24), [10, 24], [10, 24]),
    ((2, 5, 24), [2, 5, -1, 8], [2, 5, -1, 8]),
]


@pytest.mark.parametrize(("now", "asked", "given"), RESHAPES)
def test_reshapes_are_fitted(now: tuple[int, ...], asked: list[int], given: list[int]) -> None:
    assert reshaped(now, asked, [Counts(4, 3, 8)]) == given
    assert reshaped(now, asked, [Counts(4, 4, 8)]) == asked
    if given != asked:
        torch.zeros(now).reshape(given)


def test_which_of_two_equal_entries_is_meant() -> None:
    """Three attention heads, two of them left, and three pieces of a fused projection."""
    assert reshaped((2, 5, 48), [2, 5, 3, 3, 8], [Counts(3, 2, 8)]) == [2, 5, 3, 2, 8]
    assert reshaped((2, 5, 48), [2, 5, 3, 3, 8], [Counts(3, 2, 8, first=True)]) == [2, 5, 2, 3, 8]
    # rows that were joined are taken apart into whole rows
    assert reshaped((16, 24), [4, 4, 4, 8], [Counts(4, 3, 8, first=True)]) == [4, 4, 3, 8]


def test_splits_and_expansions_are_fitted() -> None:
    both = [Counts(4, 3, 8), Counts(2, 3, 8)]
    assert split_sizes([72], [32, 32, 32], [Counts(4, 3, 8)]) == [24, 24, 24]
    assert split_sizes([72], [32], [Counts(4, 3, 8)]) == [24]
    assert split_sizes([96], [32], [Counts(4, 3, 8)]) == [32]
    assert split_sizes([40], [8, 32], [Counts(4, 3, 8)]) == [8, 32]
    assert expanded((1, 3, 5), [2, 4, 5], both) == [2, 3, 5]
    assert expanded((1, 1, 5), [2, 4, 5], both) == [2, 4, 5]


def test_arguments_are_cut_by_original_numbers() -> None:
    class Named(nn.Module):
        def forward(self, x: Any, mask: Any = None, attn_mask: Any = None) -> Any:
            return x, mask, attn_mask

    module = Named()
    cut = ArgumentCut(module, [["mask", 1, False], ["attn_mask", 0, True]], 4, [0, 3])
    module.register_forward_pre_hook(cut, with_kwargs=True)
    mask, folded = torch.arange(16).view(2, 4, 1, 2), torch.arange(8).view(8, 1, 1)
    x, one, other = module(torch.ones(4, 4), mask, attn_mask=folded)
    assert torch.equal(one, mask[:, [0, 3]])
    assert other.flatten().tolist() == [0, 3, 4, 7]
    assert torch.equal(x, torch.ones(4, 4))
    same = torch.ones(2, 1, 3, 3)
    assert torch.equal(module(x, mask=same)[1], same)
    assert module(x)[1:] == (None, None)
