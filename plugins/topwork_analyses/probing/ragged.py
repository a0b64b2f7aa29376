"""Lists of whole numbers of different lengths, in two arrays: a few bytes a number, where lists of Python take 30.

Entry point: `Ragged`. A part of the lists is read as a table with -1 beyond the end of each.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray


class Ragged:
    """Lists of whole numbers, added one after another.

    Example:
        >>> lists = Ragged()
        >>> lists.append([3, 4])
        >>> lists.append([7])
        >>> lists[torch.tensor([1, 0])].tolist()
        [[7, -1], [3, 4]]
    """

    def __init__(self) -> None:
        self.values, self.ends = array("q"), array("q", [0])
        self.longest = 0

    def append(self, numbers: Iterable[int]) -> None:
        """Add a list."""
        self.values.extend(numbers)
        self.longest = max(self.longest, len(self.values) - self.ends[-1])
        self.ends.append(len(self.values))

    @property
    def shape(self) -> tuple[int, int]:
        """How many lists there are, and how long the longest is."""
        return len(self.ends) - 1, self.longest

    def __getitem__(self, chosen: torch.Tensor) -> torch.Tensor:
        """Return some lists as a table [chosen, longest of all], -1 beyond the end of each."""
        values, ends = np.asarray(self.values), np.asarray(self.ends)
        starts, stops = ends[chosen.numpy()], ends[chosen.numpy() + 1]
        table = np.full((len(chosen), self.longest), -1, dtype=np.int64)
        inside = np.arange(self.longest) < (stops - starts)[:, None]
        table[inside] = values[(starts[:, None] + np.arange(self.longest))[inside]]
        return torch.from_numpy(table)

    def flat(self) -> NDArray[np.int64]:
        """Return the numbers of all lists, one after another."""
        return np.array(self.values, dtype=np.int64)

    def owners(self) -> NDArray[np.int64]:
        """Return for each number the index of its list."""
        return np.repeat(np.arange(len(self.ends) - 1), np.diff(np.array(self.ends)))
