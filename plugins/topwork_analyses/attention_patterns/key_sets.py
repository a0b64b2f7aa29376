"""Named sets of keys whose share of attention is measured: tokens and offsets, patches by direction, frames by lag.

Entry point: `key_sets`. What the positions of an input are is said by the task (`topwork.Units`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from topwork import AttentionLayer, Units, UsageError

#: offset of the key from the query -> name
OFFSETS = {-1: "previous", 0: "self", 1: "next"}
#: lags in seconds up to which keys count as near in time
LAGS = (0.1, 0.5)
#: distances in patches up to which keys count as near in an image
DISTANCES = (1.5, 3.5)


@dataclass(frozen=True)
class KeySet:
    """A set of keys for each query.

    Args:
        name: of the set.
        mask: [queries, keys] booleans.
        queries: [queries] booleans, the queries that are averaged over; None for all.
    """

    name: str
    mask: torch.Tensor
    queries: torch.Tensor | None = None


def key_sets(
    units: Units, layer: AttentionLayer, queries: int, keys: int, *, decoder_names: bool, tokens: Sequence[str] = ()
) -> list[KeySet]:
    """Return the sets of keys that have a meaning for a layer; none where its positions are not those of the input.

    Sequences: "self", "previous", "next", "elsewhere" (the rest, so that the four add up to 1); each special token by
    its name, "special" (all of them); further tokens by name; "NAME from NAME" for the attention of a special token to
    its like. Images: "self", "left", "right", "above", "below" (the nearer of the two axes), "special" (class tokens
    and registers), which add up to 1; "near" and "around" by distance. Time: "self", "earlier", "later", which add up
    to 1, and lags up to some tenths of a second.

    Args:
        units: what the positions of the input are.
        layer: the attention layer.
        queries: of the layer.
        keys: of the layer.
        decoder_names: whether positions of decoder self-attention are those of the input (models without encoder).
        tokens: names of further tokens.
    """
    if layer.form != "dense":
        return []
    is_self = layer.kind == "self" and queries == keys
    is_input = layer.kind == "cross" or layer.side != "decoder" or decoder_names
    sets: list[KeySet] = []
    count = len(units.special) + (units.grid[0] * units.grid[1] if units.grid else 0)
    if units.grid is not None and is_input and keys == count:
        return list(_of_grid(units, queries, keys)) if is_self else list(_of_special(units, queries, keys))
    if is_self and (units.seconds is not None and is_input):
        return list(_of_time(units.seconds, keys))
    if is_self:
        sets += _of_offsets(keys)
    if is_input and units.names and len(units.names) == keys:
        sets += _of_tokens(units, queries, keys, tokens, is_self)
    return sets


def require_tokens(tokens: Sequence[str], measured: Sequence[str], option: str) -> None:
    """Refuse tokens that stood in no row.

    Args:
        tokens: that were wanted.
        measured: names of what was measured.
        option: where they were written.

    Raises:
        UsageError: names the first token that stood nowhere.
    """
    for token in tokens:
        if f"share {token}" not in measured:
            hint = "write tokens as the tokenizer names them; images and sound have none"
            raise UsageError(f"no row has the token {token!r}", place=option, hint=hint)


def _of_offsets(keys: int) -> Iterator[KeySet]:
    positions = torch.arange(keys)
    offset = positions[None] - positions[:, None]
    for shift, name in OFFSETS.items():
        yield KeySet(name, offset == shift)
    yield KeySet("elsewhere", offset.abs() > 1)


def _of_special(units: Units, queries: int, keys: int) -> Iterator[KeySet]:
    if units.special:
        yield KeySet("special", _columns(units.special, keys).expand(queries, keys))


def _of_tokens(units: Units, queries: int, keys: int, tokens: Sequence[str], is_self: bool) -> Iterator[KeySet]:
    names = [name.strip() for name in units.names]
    special = {names[position] for position in units.special}
    yield from _of_special(units, queries, keys)
    for name in sorted({*special, *tokens}):
        columns = _columns([position for position, known in enumerate(names) if known == name], keys)
        if not bool(columns.any()):
            continue
        yield KeySet(name, columns.expand(queries, keys))
        if is_self and name in special:
            yield KeySet(f"{name} from {name}", columns.expand(queries, keys), columns)


def _of_grid(units: Units, queries: int, keys: int) -> Iterator[KeySet]:
    assert units.grid is not None
    special = _columns(units.special, keys)
    where = torch.full((keys, 2), float("nan"))
    where[~special] = torch.cartesian_prod(torch.arange(units.grid[0]), torch.arange(units.grid[1])).float()
    down, right = (where[None, :, axis] - where[:, None, axis] for axis in (0, 1))
    distance = (down**2 + right**2).sqrt()
    seen = ~special  # a class token stands nowhere: its queries have no directions
    sideways = right.abs() >= down.abs()
    names = ("earlier", "later") if units.seconds is not None else ("left", "right")
    here = torch.eye(keys, dtype=torch.bool)
    for name, mask in (
        (names[0], sideways & (right < 0)),
        (names[1], sideways & (right > 0)),
        ("above", ~sideways & (down < 0)),
        ("below", ~sideways & (down > 0)),
        ("self", here),
        ("near", (distance > 0) & (distance <= DISTANCES[0])),
        ("around", (distance > 0) & (distance <= DISTANCES[1])),
    ):
        yield KeySet(name, mask, seen)
    if units.special:
        yield KeySet("special", special.expand(queries, keys), seen)
        yield KeySet("special from special", special.expand(queries, keys), special)


def _of_time(seconds: float, keys: int) -> Iterator[KeySet]:
    positions = torch.arange(keys)
    lag = (positions[None] - positions[:, None]) * seconds
    yield KeySet("self", lag == 0)
    yield KeySet("earlier", lag < 0)
    yield KeySet("later", lag > 0)
    yield KeySet("previous", positions[None] - positions[:, None] == -1)
    yield KeySet("next", positions[None] - positions[:, None] == 1)
    for most in LAGS:
        yield KeySet(f"within {most:g} s", lag.abs() <= most)


def _columns(positions: Sequence[int], keys: int) -> torch.Tensor:
    mask = torch.zeros(keys, dtype=torch.bool)
    mask[list(positions)] = True
    return mask
