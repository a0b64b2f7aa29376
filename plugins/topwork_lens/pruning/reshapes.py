"""Reshapes that a module's code writes for the attention heads that it had at the beginning, fitted to those it has.

Much code does not ask its own attributes how many attention heads there are: it reshapes to the width of its input, or
by a number out of the configuration. Once such a module is cut, those numbers are too large by a known ratio. While the
module runs, a reshape, a split or an expansion that asks for the original number of attention heads (or their whole
width) of a tensor that has those that are left is given the number that is left. Which of a tensor's dimensions are
meant follows from the shapes alone, never from a value; pruning checks the result as it checks every other cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_RESHAPES = (torch.Tensor.view, torch.Tensor.reshape, torch.reshape)
_SPLITS = (torch.Tensor.split, torch.split, torch.Tensor.split_with_sizes, torch.split_with_sizes)


@dataclass(frozen=True)
class Counts:
    """How many owners a module's code believes in, and how many there are: attention heads or key/value groups.

    Args:
        width: of what one of them owns in the context.
        first: whether, of several entries of a shape that could be the count, the first is meant or the last: three
            attention heads look like the queries, keys and values of a fused projection.
    """

    original: int
    left: int
    width: int
    first: bool = False


class Fitted:
    """Stands in for the forward of one module; an object, so that it survives `copy.deepcopy` of the model."""

    def __init__(self, module: nn.Module, counts: Sequence[Counts]) -> None:
        self.module, self.counts = module, tuple(counts)

    def __call__(self, *args: Any, **options: Any) -> Any:
        with _Fitting(self.counts):
            return type(self.module).forward(self.module, *args, **options)


class _Fitting(TorchFunctionMode):
    def __init__(self, counts: Sequence[Counts]) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if function in _RESHAPES and len(args) > 1 and not isinstance(args[1], torch.dtype):
            asked = args[1] if isinstance(args[1], tuple | list) else args[1:]
            return function(args[0], reshaped(args[0].shape, list(asked), self.counts), **kwargs)
        if function is torch.Tensor.expand and len(args) > 1:
            asked = args[1] if isinstance(args[1], tuple | list) else args[1:]
            return function(args[0], expanded(args[0].shape, list(asked), self.counts), **kwargs)
        if function in _SPLITS and len(args) > 1:
            dim = args[2] if len(args) > 2 else kwargs.get("dim", 0)
            return function(args[0], pieces(args[0].shape[dim], args[1], self.counts), *args[2:], **kwargs)
        return function(*args, **kwargs)


def fit(module: nn.Module, counts: Sequence[Counts]) -> Callable[[], None]:
    """Fit the reshapes of a module from now on; answers how to take that back."""
    before = module.__dict__.get("forward")
    module.forward = Fitted(module, counts)

    def back() -> None:
        module.__dict__.pop("forward", None)
        if before is not None:
            module.forward = before

    return back


def reshaped(now: Sequence[int], asked: list[int], counts: Sequence[Counts]) -> list[int]:
    """The shape that a tensor of shape `now` can have, for one that was written for the original counts.

    Dimensions that stay as they are, at both ends, are left aside. What is left must fall into blocks in which one
    dimension is divided, or several are joined: a number of elements that is divisible by chance does not make a
    reshape right.
    """
    first, last = _ends(now, asked)
    middle, wanted = list(now[first : len(now) - last]), asked[first : len(asked) - last]
    for one in counts:
        for fitted in _with_fewer(wanted, one):
            if _meets(middle, fitted, one.width):
                return [*asked[:first], *fitted, *asked[len(asked) - last :]]
    for one in counts:
        for fitted in _narrower(wanted, one):
            # Attention heads that were folded into the rows are joined to a whole width.
            if -1 not in fitted and prod(fitted) == prod(middle) and _divide(middle, fitted):
                return [*asked[:first], *fitted, *asked[len(asked) - last :]]
    return asked


def _ends(now: Sequence[int], asked: Sequence[int]) -> tuple[int, int]:
    """How many dimensions are the same at the beginning and at the end."""
    shortest = min(len(now), len(asked))
    first = next((place for place in range(shortest) if now[place] != asked[place]), shortest)
    rest = shortest - first
    last = next((place for place in range(rest) if now[-1 - place] != asked[-1 - place]), rest)
    return first, last


def _with_fewer(asked: Sequence[int], one: Counts) -> Iterator[list[int]]:
    """The shape with one entry as it is for what is left: a count, a width, or (in a shape without -1) a multiple."""
    if one.original == one.left:
        return
    widths = _widths(one)
    multiple = (lambda size: size > 0 and size % one.original == 0) if -1 not in asked else (lambda size: False)
    seen: set[int] = set()
    for test in (lambda size: size == one.original, lambda size: size in widths, multiple):
        for place, size in enumerate(asked) if one.first else reversed(list(enumerate(asked))):
            if place not in seen and test(size):
                seen.add(place)
                yield [*asked[:place], size // one.original * one.left, *asked[place + 1 :]]


def _widths(one: Counts) -> list[int]:
    return [count * one.original * one.width for count in (1, 2, 3)]


def _narrower(asked: Sequence[int], one: Counts) -> Iterator[list[int]]:
    for place, size in enumerate(asked):
        if size in _widths(one):
            yield [*asked[:place], size // one.original * one.left, *asked[place + 1 :]]


def _divide(now: Sequence[int], asked: Sequence[int]) -> bool:
    """Whether the ends of the dimensions of two shapes, in the order of memory, divide each other."""
    ends = sorted({prod(shape[: place + 1]) for shape in (now, asked) for place in range(len(shape))})
    return all(one and other % one == 0 for one, other in pairwise(ends))


def _meets(now: Sequence[int], asked: Sequence[int], width: int) -> bool:
    """Whether a tensor of shape `now` falls cleanly into the shape that is asked for."""
    if -1 not in asked:
        return prod(now) == prod(asked) and _clean(now, asked)
    place = list(asked).index(-1)
    before, after = prod(asked[:place]), prod(asked[place + 1 :])
    if not before * after or prod(now) % (before * after):
        return False
    open_size = prod(now) // (before * after)
    whole = [*asked[:place], open_size, *asked[place + 1 :]]
    if place == len(asked) - 1:
        return open_size == width and _clean(now, whole)
    return after in [prod(now[start:]) for start in range(len(now))] and _clean(now, whole)


def _clean(now: Sequence[int], asked: Sequence[int]) -> bool:
    """Whether two shapes with equally many elements fall into blocks of which one side has a single dimension."""
    left, right = [size for size in now if size != 1], [size for size in asked if size != 1]
    if 0 in left or 0 in right:
        return True
    while left and right:
        one, other = [left.pop(0)], [right.pop(0)]
        while prod(one) != prod(other):
            side, rest = (one, left) if prod(one) < prod(other) else (other, right)
            if not rest:
                return False
            side.append(rest.pop(0))
        if len(one) > 1 and len(other) > 1:
            return False
    return not left and not right


def expanded(now: Sequence[int], asked: list[int], counts: Sequence[Counts]) -> list[int]:
    """The shape to which a tensor that has the attention heads that are left can be expanded."""
    fitted, extra = list(asked), len(asked) - len(now)
    for one in counts:
        for place, size in enumerate(now):
            if size == one.left != 1 and asked[extra + place] == one.original != one.left:
                fitted[extra + place] = size
    return fitted


def pieces(size: int, asked: Any, counts: Sequence[Counts]) -> Any:
    """The sizes into which a dimension can be split that was written for the original counts."""
    ratios = {count * one.original * one.width: count * one.left * one.width for one in counts for count in (3, 2, 1)}
    if isinstance(asked, int):
        fewer = ratios.get(asked, asked)
        return fewer if fewer and size % fewer == 0 and size % asked else asked
    fitted = [ratios.get(one, one) for one in asked]
    return fitted if sum(asked) != size == sum(fitted) else asked
