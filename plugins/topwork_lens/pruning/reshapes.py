"""Reshapes that a module's code writes for its original number of attention heads, fitted to those that are left.

Much code does not read its own attributes for the number of attention heads: it reshapes to the width of its input, or
by a number out of the configuration. Once such a module is pruned, those numbers are too large by a known ratio. While
the module runs, reshapes, splits and expansions that request the original number (or the whole width) of a tensor that
has those that are left are corrected.

Which requested size is meant is decided once, when the module is pruned, for each place in the code (`Sites`), on
inputs whose sizes have nothing in common with the numbers of attention heads. A batch or a length that happens to equal
a number of attention heads is never taken for it afterwards. Entry points: `fit` and `FittedForward`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from math import prod
from types import CodeType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from topwork_lens.refusals import refuse

_RESHAPES = (torch.Tensor.view, torch.Tensor.reshape, torch.reshape)
_SPLITS = (torch.Tensor.split, torch.split, torch.Tensor.split_with_sizes, torch.split_with_sizes)

#: by place in the code, the requested sizes that are corrected: [index of the size, index of the `Counts`]
Sites = dict[str, list[list[int]]]


@dataclass(frozen=True)
class Counts:
    """Original and present number of attention heads, or of key/value groups.

    Args:
        width: of what each of them has in the context.
        first: whether, of several sizes that could be the count, the first is meant or the last: three attention heads
            look like the queries, keys and values of a fused projection.
    """

    original: int
    left: int
    width: int
    first: bool = False


class FittedForward:
    """Replacement of the forward of one module; an object, so that it survives `copy.deepcopy` of the model.

    Args:
        sites: where sizes are corrected; None: every call decides by its shapes, until `record` has made the sites.
    """

    def __init__(self, module: nn.Module, counts: Sequence[Counts], sites: Sites | None = None) -> None:
        self.module, self.counts, self.sites = module, tuple(counts), sites

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Run the forward of the module with its reshapes fitted."""
        return self._run(args, options)

    def _run(self, args: tuple, options: dict[str, Any]) -> Any:
        forward: Callable[..., Any] = _uncompiled(_forward)
        with _FittingMode(self.counts, self.sites):
            return forward(self.module, args, options)

    # Places in the code cannot be read from a graph: a compiled model runs this module as it is.
    _run._torchdynamo_disable = True  # type: ignore[attr-defined]

    @contextmanager
    def recording(self) -> Iterator[Sites]:
        """Decide by shapes in the block, and by the recorded sites from then on.

        Raises:
            Refused: one place in the code would need two different corrections.
        """
        self.sites = None
        sites: Sites = {}
        self._run = lambda args, options: self._record(sites, args, options)  # type: ignore[method-assign]
        try:
            yield sites
        finally:
            del self._run
        self.sites = sites

    def _record(self, sites: Sites, args: tuple, options: dict[str, Any]) -> Any:
        with _FittingMode(self.counts, None, sites):
            return _forward(self.module, args, options)


def _forward(module: nn.Module, args: tuple, options: dict[str, Any]) -> Any:
    return type(module).forward(module, *args, **options)


def _uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    dynamo = sys.modules.get("torch._dynamo")
    return function if dynamo is None else dynamo.disable(function)


class _FittingMode(TorchFunctionMode):
    """Corrects the sizes that reshapes, expansions and splits request.

    Args:
        sites: the decisions; None: decide by shapes.
        record: gets the decisions that shapes led to.
    """

    def __init__(self, counts: Sequence[Counts], sites: Sites | None, record: Sites | None = None) -> None:
        super().__init__()
        self.counts, self.sites, self.record = counts, sites, record

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if len(args) < 2:
            return function(*args, **kwargs)
        if function in _RESHAPES and not isinstance(args[1], torch.dtype):
            sizes = args[1] if isinstance(args[1], tuple | list) else args[1:]
            return function(args[0], self._fitted(reshaped, args[0].shape, sizes), **kwargs)
        if function is torch.Tensor.expand:
            sizes = args[1] if isinstance(args[1], tuple | list) else args[1:]
            return function(args[0], self._fitted(expanded, args[0].shape, sizes), **kwargs)
        if function in _SPLITS:
            dim = args[2] if len(args) > 2 else kwargs.get("dim", 0)
            is_single = isinstance(args[1], int)
            sizes = self._fitted(split_sizes, args[0].shape[dim : dim + 1 or None], [args[1]] if is_single else args[1])
            return function(args[0], sizes[0] if is_single else sizes, *args[2:], **kwargs)
        return function(*args, **kwargs)

    def _fitted(self, decide: Callable[..., list[int]], shape: Sequence[int], sizes: Sequence[int]) -> list[int]:
        requested = list(sizes)
        if self.record is not None:
            fitted = decide(shape, requested, self.counts)
            self._note(_site(), self._changes(requested, fitted))
            return fitted
        if not self._is_candidate(requested):
            return requested
        if self.sites is None:
            return decide(shape, requested, self.counts)
        site = _site()
        changes = self.sites.get(site)
        if changes is None:
            return self._unseen(decide, shape, requested, site)
        fitted = list(requested)
        for index, which in changes:
            fitted[index] = requested[index] // self.counts[which].original * self.counts[which].left
        return fitted

    def _is_candidate(self, requested: Sequence[int]) -> bool:
        """Return whether any requested size is a multiple of an original count."""
        return any(
            isinstance(size, int) and size > 0 and size % counts.original == 0
            for size in requested
            for counts in self.counts
        )

    def _changes(self, requested: Sequence[int], fitted: Sequence[int]) -> list[list[int]]:
        changes = []
        for index, (before, after) in enumerate(zip(requested, fitted, strict=True)):
            if before != after:
                which = next(
                    number
                    for number, counts in enumerate(self.counts)
                    if before % counts.original == 0 and before // counts.original * counts.left == after
                )
                changes.append([index, which])
        return changes

    def _note(self, site: str, changes: list[list[int]]) -> None:
        assert self.record is not None
        if self.record.setdefault(site, changes) != changes:
            raise refuse("check_failed", f"a reshape means different sizes each time it runs ({site})")

    def _unseen(
        self, decide: Callable[..., list[int]], shape: Sequence[int], requested: list[int], site: str
    ) -> list[int]:
        """Pass a request at a place that did not run when the module was pruned, unless it would need a correction.

        Raises:
            Refused: it would.
        """
        if -1 not in requested and prod(shape) == prod(requested):
            return requested
        if decide(shape, requested, self.counts) == requested:
            return requested
        raise refuse(
            "check_failed",
            f"a reshape to {requested} did not run when the layer was pruned ({site}): nothing says what it means",
            hint="prune the whole model again with a batch that runs this code: check=batch",
        )


_FORWARD = _forward.__code__


def _site() -> str:
    """Return the place in the code of the running module: function, line in it and column, for each nested call."""
    frame = sys._getframe(3)
    steps: list[str] = []
    while frame is not None and frame.f_code is not _FORWARD:
        module = frame.f_globals.get("__name__", "")
        if module != "torch" and not module.startswith(("torch.", "topwork_lens.")):
            steps.append(_step(frame.f_code, frame.f_lasti))
        frame = frame.f_back  # type: ignore[assignment]
    return "/".join(reversed(steps))


@lru_cache(maxsize=4096)
def _step(code: CodeType, offset: int) -> str:
    line, _, column, _ = next(islice(code.co_positions(), offset // 2, None))
    return f"{code.co_name}:{(line or 0) - code.co_firstlineno}:{column}"


def fit(module: nn.Module, counts: Sequence[Counts], sites: Sites | None = None) -> Callable[[], None]:
    """Fit the reshapes of a module from now on.

    Args:
        module: the module whose forward reshapes.
        counts: numbers before and after pruning that its reshapes may name.
        sites: the decisions that were made when the module was pruned; None: see `FittedForward`.

    Returns:
        A function that restores the module.
    """
    before = module.__dict__.get("forward")
    module.forward = FittedForward(module, counts, sites)

    def take_back() -> None:
        module.__dict__.pop("forward", None)
        if before is not None:
            module.forward = before

    return take_back


def reshaped(shape: Sequence[int], requested: list[int], counts: Sequence[Counts]) -> list[int]:
    """Return the sizes that a tensor of `shape` can be given, for a request that was written for the original counts.

    Dimensions that stay as they are, at both ends, are left aside. The rest must fall into blocks in which one
    dimension is divided, or several are joined: a number of elements that is divisible by chance does not make a
    reshape right.
    """
    first, last = _equal_ends(shape, requested)
    middle, wanted = list(shape[first : len(shape) - last]), requested[first : len(requested) - last]
    for count in counts:
        for fitted in _with_fewer(wanted, count):
            if _is_met(middle, fitted, count.width):
                return [*requested[:first], *fitted, *requested[len(requested) - last :]]
    for count in counts:
        for fitted in _narrower(wanted, count):
            # Attention heads that were folded into the rows are joined to a whole width.
            if -1 not in fitted and prod(fitted) == prod(middle) and _divides(middle, fitted):
                return [*requested[:first], *fitted, *requested[len(requested) - last :]]
    return requested


def _equal_ends(shape: Sequence[int], requested: Sequence[int]) -> tuple[int, int]:
    """Return how many dimensions are the same at the beginning and at the end."""
    shortest = min(len(shape), len(requested))
    first = next((index for index in range(shortest) if shape[index] != requested[index]), shortest)
    rest = shortest - first
    last = next((index for index in range(rest) if shape[-1 - index] != requested[-1 - index]), rest)
    return first, last


def _with_fewer(requested: Sequence[int], count: Counts) -> Iterator[list[int]]:
    """Yield the request with one size corrected: a count, a width, or (without -1) a multiple."""
    if count.original == count.left:
        return
    widths = _widths(count)
    multiple = (lambda size: size > 0 and size % count.original == 0) if -1 not in requested else (lambda size: False)
    tried: set[int] = set()
    for matches in (lambda size: size == count.original, lambda size: size in widths, multiple):
        for index, size in enumerate(requested) if count.first else reversed(list(enumerate(requested))):
            if index not in tried and matches(size):
                tried.add(index)
                yield [*requested[:index], size // count.original * count.left, *requested[index + 1 :]]


def _widths(count: Counts) -> list[int]:
    return [pieces * count.original * count.width for pieces in (1, 2, 3)]


def _narrower(requested: Sequence[int], count: Counts) -> Iterator[list[int]]:
    for index, size in enumerate(requested):
        if size in _widths(count):
            yield [*requested[:index], size // count.original * count.left, *requested[index + 1 :]]


def _divides(shape: Sequence[int], requested: Sequence[int]) -> bool:
    """Return whether the ends of the dimensions of two shapes, in the order of memory, divide each other."""
    ends = sorted({prod(sizes[: index + 1]) for sizes in (shape, requested) for index in range(len(sizes))})
    return all(low and high % low == 0 for low, high in pairwise(ends))


def _is_met(shape: Sequence[int], requested: Sequence[int], width: int) -> bool:
    """Return whether a tensor of `shape` falls cleanly into the requested sizes."""
    if -1 not in requested:
        return prod(shape) == prod(requested) and _is_clean(shape, requested)
    index = list(requested).index(-1)
    before, after = prod(requested[:index]), prod(requested[index + 1 :])
    if not before * after or prod(shape) % (before * after):
        return False
    open_size = prod(shape) // (before * after)
    whole = [*requested[:index], open_size, *requested[index + 1 :]]
    if index == len(requested) - 1:
        return open_size == width and _is_clean(shape, whole)
    return after in [prod(shape[start:]) for start in range(len(shape))] and _is_clean(shape, whole)


def _is_clean(shape: Sequence[int], requested: Sequence[int]) -> bool:
    """Return whether shapes of equally many elements fall into blocks of which one side has a single dimension."""
    left, right = [size for size in shape if size != 1], [size for size in requested if size != 1]
    if 0 in left or 0 in right:
        return True
    while left and right:
        a, b = [left.pop(0)], [right.pop(0)]
        while prod(a) != prod(b):
            side, rest = (a, left) if prod(a) < prod(b) else (b, right)
            if not rest:
                return False
            side.append(rest.pop(0))
        if len(a) > 1 and len(b) > 1:
            return False
    return not left and not right


def expanded(shape: Sequence[int], requested: list[int], counts: Sequence[Counts]) -> list[int]:
    """Return the sizes to which a tensor that has the attention heads that are left can be expanded."""
    fitted, extra = list(requested), len(requested) - len(shape)
    for count in counts:
        for index, size in enumerate(shape):
            if size == count.left != 1 and requested[extra + index] == count.original != count.left:
                fitted[extra + index] = size
    return fitted


def split_sizes(shape: Sequence[int], requested: list[int], counts: Sequence[Counts]) -> list[int]:
    """Return the sizes into which a dimension can be split, for a request that was written for the original counts.

    Args:
        shape: the size of the dimension alone.
        requested: the size of each part; a single one is the size of all parts.
        counts: numbers before and after pruning.
    """
    (size,) = shape
    ratios = {
        pieces * count.original * count.width: pieces * count.left * count.width
        for count in counts
        for pieces in (3, 2, 1)
    }
    fitted = [ratios.get(part, part) for part in requested]
    if len(requested) == 1:
        return fitted if fitted[0] and size % fitted[0] == 0 and size % requested[0] else requested
    return fitted if sum(requested) != size == sum(fitted) else requested
