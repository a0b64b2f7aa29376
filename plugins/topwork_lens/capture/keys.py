"""The keys whose share of attention "mass" sums up: positions, masks, or names such as "previous" and "separator".

Entry point: `keys_argument`, which checks what a caller gives. What is meant for each row stays apart: nothing is
flattened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from topwork import UsageError, unknown
from topwork_lens.capture.attention_call import AttentionCall

#: name -> position of the key, counted from the query
RELATIVE = {"previous": -1, "self": 0, "next": 1}
#: names of kinds of tokens
TOKENS = ("special", "separator")
NAMES = (*RELATIVE, *TOKENS)

#: (call, name of a kind of tokens) -> [items, keys] booleans; None when the tokens of the keys are not known
TokenMask = Callable[[AttentionCall, str], torch.Tensor | None]


@dataclass(frozen=True)
class KeyChoice:
    """Chosen keys.

    Args:
        positions: one list for all rows, or a list for each row; negative positions count from the end.
        mask: [keys] or [rows, keys] booleans.
        names: some of `NAMES`.
    """

    positions: tuple[tuple[int, ...], ...] = ()
    mask: torch.Tensor | None = None
    names: tuple[str, ...] = ()

    @property
    def shifts(self) -> tuple[int, ...]:
        """Positions counted from the query."""
        return tuple(RELATIVE[name] for name in self.names if name in RELATIVE)

    def unfit(self, call: AttentionCall, offset: int | None, tokens: TokenMask) -> str | None:
        """Return why the choice has no meaning for a call; None when it has.

        Args:
            call: a computation of attention.
            offset: position of the first query among the keys; None when that is not known.
            tokens: finds kinds of tokens.
        """
        items, _, _, keys = call.shape
        rows = len(self.positions) if self.mask is None or self.mask.dim() == 1 else len(self.mask)
        if rows > 1 and rows != items:
            return f"`keys` are given for {rows} rows, and there are {items}"
        outside = sorted({position for row in self.positions for position in row if not -keys <= position < keys})
        if outside:
            return f"mass is asked for keys {outside}, and there are {keys}"
        if self.mask is not None and self.mask.shape[-1] != keys:
            return f"the mask of `keys` has {self.mask.shape[-1]} positions, and there are {keys} keys"
        if self.shifts and offset is None:
            return "where the queries stand among the keys is not known"
        for name in self.names:
            if name in TOKENS and tokens(call, name) is None:
                return f"which keys are {name} tokens is not known"
        return None

    def chosen(self, call: AttentionCall, tokens: TokenMask) -> torch.Tensor:
        """Return [items or 1, keys] booleans, but for what depends on the query (`shifts`)."""
        keys = call.shape[3]
        chosen = torch.zeros(max(1, len(self.positions)), keys, dtype=torch.bool)
        for row, positions in zip(chosen, self.positions, strict=False):
            row[list(positions)] = True
        if self.mask is not None:
            chosen = self.mask.cpu().reshape(-1, keys)
        for name in self.names:
            if name in TOKENS and (mask := tokens(call, name)) is not None:
                chosen = chosen | mask.cpu()
        return chosen.to(call.device)


def keys_argument(keys: Any) -> KeyChoice | None:
    """Check the argument `keys`.

    Raises:
        UsageError: it is no choice of keys.
    """
    if keys is None:
        return None
    if isinstance(keys, str):
        keys = [keys]
    if isinstance(keys, list | tuple) and keys and all(isinstance(name, str) for name in keys):
        for name in keys:
            if name not in NAMES:
                raise unknown("kind of key", name, NAMES)
        return KeyChoice(names=tuple(dict.fromkeys(keys)))
    rows = _ragged(keys)
    if rows is not None:
        return KeyChoice(positions=rows)
    try:
        values = torch.as_tensor(keys)
    except (TypeError, ValueError, RuntimeError):
        values = torch.zeros(0)
    if values.dtype == torch.bool and values.dim() in (1, 2) and values.numel():
        return KeyChoice(mask=values)
    whole = not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)
    if not values.numel() or not whole:
        raise _no_keys(keys)
    if values.dim() > 2:
        hint = "give [positions] for all rows, or [rows, positions]"
        raise UsageError(f"`keys` have the shape {tuple(values.shape)}", hint=hint)
    positions = values.tolist() if values.dim() == 2 else [values.reshape(-1).tolist()]
    return KeyChoice(positions=tuple(map(tuple, positions)))


def _ragged(keys: Any) -> tuple[tuple[int, ...], ...] | None:
    """Return rows with different numbers of positions."""
    if not isinstance(keys, list | tuple) or not all(isinstance(row, list | tuple) for row in keys):
        return None
    if len({len(row) for row in keys}) < 2:
        return None
    if not all(type(position) is int for row in keys for position in row):
        raise _no_keys(keys)
    return tuple(map(tuple, keys))


def _no_keys(keys: Sequence[Any]) -> UsageError:
    hint = f"give whole numbers, such as keys=[0]; a mask [rows, keys]; or one of {', '.join(NAMES)}"
    return UsageError(f"`keys` must be positions, a mask or names, not {keys!r}", hint=hint)
