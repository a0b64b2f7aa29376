"""Arguments of a capture: checked before anything runs; and why a reduction has no meaning for an attention layer.

A distance needs queries and keys that are positions of one sequence, a mass needs keys at the chosen positions. Where
that is not so, numbers would be wrong: `Captured` refuses to hand them out and says why. Keys are checked in `keys`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from topwork import UsageError, unknown
from topwork_lens.capture.attention_call import AttentionCall


def names_argument(what: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Check the names of what is to be captured.

    Raises:
        UsageError: there is none, or one is not known.
    """
    if not what:
        raise UsageError("nothing is to be captured", hint=f"name one or more of {', '.join(sorted(known))}")
    for name in what:
        if name not in known:
            raise unknown("capture", str(name), known)
    return tuple(what)


def count_argument(value: Any, name: str, what: str) -> int:
    """Check a positive whole number.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"`{name}` must be a number of {what}, at least 1, not {value!r}")
    return value


def device_argument(device: Any) -> torch.device:
    """Check where what was captured is kept.

    Raises:
        UsageError: there is no such device.
    """
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
        return chosen
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"there is no device {device!r}", hint="name one as torch does: cpu, cuda:0") from error


def places_argument(places: Any) -> torch.Tensor | None:
    """Check the coordinates for "distance": [positions, d], or [positions] for one dimension.

    Raises:
        UsageError: these are no coordinates; NaN stands for all coordinates of a position, or for none.
    """
    if places is None:
        return None
    try:
        given = torch.as_tensor(places)
        coordinates = given.to(dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError("`places` are no coordinates", hint="give a tensor [positions, d]") from error
    if coordinates.dim() == 1:
        coordinates = coordinates[:, None]
    if coordinates.dim() != 2 or not coordinates.numel():
        raise UsageError(f"`places` have the shape {tuple(given.shape)}", hint="give a tensor [positions, d]")
    nowhere = coordinates.isnan()
    partly = bool((nowhere.any(1) != nowhere.all(1)).any())
    if given.dtype == torch.bool or given.is_complex() or bool(coordinates.isinf().any()) or partly:
        hint = "give finite numbers, and NaN in all coordinates of a position that stands nowhere"
        raise UsageError("`places` are no coordinates", hint=hint)
    return coordinates


def heads_argument(heads: Mapping[str, Sequence[int]] | None) -> Mapping[str, Sequence[int]] | None:
    """Check which attention heads of each layer, by path, are captured; None for all.

    Raises:
        UsageError: a layer is named with none.
    """
    for path, indices in (heads or {}).items():
        if not indices:
            raise UsageError("no attention head is chosen", place=path, hint="name some, or leave the layer out")
    return heads


def unfit_for_distance(call: AttentionCall, places: torch.Tensor | None, offset: int | None) -> str | None:
    """Return why "distance" has no meaning for a computation of attention; None when it has."""
    queries, keys = call.shape[2:]
    if call.layer.kind == "cross":
        return "there is no distance between positions of two sequences"
    if places is not None and len(places) != keys:
        return f"`places` names {len(places)} positions, and there are {keys} keys"
    if offset is None:
        return f"where {queries} queries stand among {keys} keys is not known"
    return None


def offset_of(call: AttentionCall) -> int | None:
    """Return the position of the first query among the keys; None when it has none, or it cannot be known."""
    _, _, queries, keys = call.shape
    if call.layer.kind == "cross" or call.layer.form in ("deformable", "banded"):
        return None
    if queries == keys:
        return 0
    if queries > keys or call.layer.side != "decoder":
        return None
    # With a cache of keys the queries are the last positions; a cache of a fixed size is not full yet.
    if call.allowed is None:
        return keys - queries
    last = -1
    for start in range(0, queries, call.block_size):
        attended = call.allowed(start, min(queries, start + call.block_size)).flatten(0, -2).any(0).nonzero()
        last = max(last, int(attended[-1]) if len(attended) else -1)
    return last - (queries - 1) if last >= queries - 1 else None
