"""Tensors of an attention computation, and products of two: queries, keys, values, weights and masks in one form.

The orders in which modelling code may hold items, attention heads, windows and positions are known here only; so are
the forms in which torch's functions take the two factors of a product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

#: by how much a score is lowered that does not count any more
HIDDEN = 100.0


@dataclass(frozen=True)
class Mask:
    """Attention mask, read for some queries at a time: the whole of it may be as large as the weights.

    Args:
        given: booleans (True: may be attended to) or what is added to the scores, at most 4 dimensions, the last two
            queries (or 1) and keys; None for no mask.
        causal: True when a query may attend to keys up to its own position, and nothing is given.
        shape: (queries, keys).
        like: any tensor of the precision and on the device of the scores.
    """

    given: torch.Tensor | None
    causal: bool
    shape: tuple[int, int]
    like: torch.Tensor

    def __bool__(self) -> bool:
        return self.causal or self.given is not None

    @property
    def hides_only(self) -> bool:
        """True when it lets scores be as they are or hides them, and never changes them."""
        return self.causal or self.given is None or self.given.dtype == torch.bool

    def _rows(self, start: int, stop: int) -> torch.Tensor:
        if self.causal:
            rows = torch.ones(stop - start, self.shape[1], dtype=torch.bool, device=self.like.device).tril(start)
        else:
            given = rows_of(self.given, start, stop, self.shape[0])
            assert given is not None
            rows = given
        return rows.reshape(*[1] * (4 - rows.dim()), *rows.shape)

    def added(self, start: int, stop: int) -> torch.Tensor | None:
        """Return the summand of the scores of those queries."""
        if not self:
            return None
        rows = self._rows(start, stop)
        if rows.dtype != torch.bool:
            return rows
        lowest = torch.finfo(self.like.dtype).min
        return torch.zeros(rows.shape, dtype=self.like.dtype, device=rows.device).masked_fill(~rows, lowest)

    def allowed(self, start: int, stop: int) -> torch.Tensor:
        """Return [items or 1, heads or 1, queries or 1, keys]: True for what may be attended to."""
        rows = self._rows(start, stop)
        if rows.dtype == torch.bool:
            return rows
        # Some hide by minus infinity, some by the lowest number, Swin by -100 beside 0.
        return (rows > torch.finfo(self.like.dtype).min / 4) & (rows > rows.amax(-1, keepdim=True) - HIDDEN)


def rows_of(mask: torch.Tensor | None, start: int, stop: int, queries: int) -> torch.Tensor | None:
    """Return the rows of a mask or bias for some of the queries."""
    return mask[..., start:stop, :] if mask is not None and mask.shape[-2] == queries else mask


def split_items(state: torch.Tensor, heads: int) -> torch.Tensor | None:
    """Reshape queries, keys or values to [items, heads, positions, width]; windows become items.

    Known forms: that one, [items * heads, positions, width], [items, heads, windows, positions, width] and [items,
    windows, heads, positions, width]; None for any other.
    """
    if state.dim() == 4:
        return state
    if state.dim() == 3 and heads:
        return state.unflatten(0, (-1, heads)) if state.shape[0] % heads == 0 else None
    if state.dim() == 5 and heads in state.shape[1:3]:
        return (state.transpose(1, 2) if state.shape[1] == heads else state).flatten(0, 1)
    return None


def merged_items(original: torch.Tensor, state: torch.Tensor, heads: int) -> torch.Tensor:
    """Invert `split_items`.

    Args:
        original: the tensor in the form that modelling code gave it.
        state: [items, heads, positions, width], windows as items of their own.
        heads: how many attention heads there are.
    """
    if original.dim() == 4:
        return state
    if original.dim() == 3:
        return state.flatten(0, 1)
    windows = original.transpose(1, 2) if original.shape[1] == heads else original
    unfolded = state.unflatten(0, windows.shape[:2])
    return unfolded.transpose(1, 2) if original.shape[1] == heads else unfolded


def with_keys_last(function: Any, args: tuple, weights: torch.Tensor) -> torch.Tensor:
    """Return an operand of a product as weights whose last dimension is the one that is summed over: the keys."""
    if function is torch.einsum and isinstance(args[0], str) and "->" in args[0]:
        terms, result = args[0].replace(" ", "").split("->")
        operands = args[1] if isinstance(args[1], tuple | list) else args[1:]
        for letters, operand in zip(terms.split(","), operands, strict=False):
            summed = [dim for dim, letter in enumerate(letters) if letter not in result and letter != "."]
            if operand is weights and len(summed) == 1 and "." not in letters:
                return weights.movedim(summed[0], -1)
        return weights
    # values^T @ weights^T
    return weights.transpose(-1, -2) if len(args) > 1 and args[-1] is weights and args[-2] is not weights else weights


def by_heads(weights: torch.Tensor, heads: int) -> torch.Tensor | None:
    """Reshape weights to [items, heads, queries, keys]; windows (or chunks) of an item become items.

    Known forms: [items, heads, queries, keys], [items * heads, queries, keys], [items, heads, windows, queries, keys],
    [items, windows, heads, queries, keys], and [items, queries, heads, band].
    """
    if not heads:
        return None
    if weights.dim() == 3:
        return weights.unflatten(0, (-1, heads)) if weights.shape[0] % heads == 0 else None
    if weights.dim() == 5 and heads in weights.shape[1:3]:
        windows = weights.transpose(1, 2) if weights.shape[1] == heads else weights
        return windows.flatten(0, 1)
    if weights.dim() != 4 or heads not in weights.shape[1:3]:
        return None
    return weights if weights.shape[1] == heads else weights.transpose(1, 2)


def is_part(operand: torch.Tensor, weights: torch.Tensor, heads: int) -> bool:
    """Return whether an operand holds weights of a band chunk by chunk, or of some keys alone.

    Args:
        operand: what is multiplied with values, [items * heads, chunks, queries, keys] when it holds chunks.
        weights: the softmax that it was made of, [items, queries, heads, band].
        heads: attention heads of the layer.
    """
    if operand is weights or operand.dim() != 4 or weights.dim() != 4 or by_heads(weights, heads) is None:
        return False
    chunked = heads > 1 and len(operand) == len(weights) * heads
    return chunked or (len(operand) == len(weights) and operand.numel() < weights.numel())


def merged_weights(original: torch.Tensor, split: torch.Tensor, heads: int) -> torch.Tensor:
    """Invert `by_heads`."""
    if original.dim() == 4 and original.shape[1] != heads:
        return split.transpose(1, 2)
    return merged_items(original, split, heads)


def factors_of_product(function: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[int | str, int | str] | None:
    """Return where a product has its two factors: indices of arguments, or names; None for a form that is not read."""
    if function in (torch.baddbmm, torch.Tensor.baddbmm):
        first: int | str = "batch1" if "batch1" in kwargs else 1
        return first, "batch2" if "batch2" in kwargs else 2
    if function in (torch.einsum, torch.Tensor.__rmatmul__):
        return None
    second = next((name for name in ("other", "mat2") if name in kwargs), None)
    return (0, second or 1) if second or len(args) > 1 else None


def argument(name: int | str, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Return an argument by its index or name."""
    return kwargs[name] if isinstance(name, str) else args[name]


def with_arguments(
    names: Sequence[int | str], values: Sequence[Any], args: tuple, kwargs: dict[str, Any]
) -> tuple[tuple, dict[str, Any]]:
    """Return arguments with other values in some indices or names."""
    listed, named = list(args), dict(kwargs)
    for name, value in zip(names, values, strict=True):
        if isinstance(name, str):
            named[name] = value
        else:
            listed[name] = value
    return tuple(listed), named
