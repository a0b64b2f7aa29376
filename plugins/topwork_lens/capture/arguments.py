"""What a capture is asked for, looked at before anything runs; and what has no meaning for an attention layer.

A distance needs queries and keys that are positions of one sequence, a mass needs keys at the positions that are
named. Where that is not so, numbers would be wrong: `Captured` refuses to hand them out and says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from topwork import UsageError, unknown
from topwork_lens.capture.attention_call import AttentionCall

#: queries whose mask is looked at together
_ROWS = 32


def names_asked(what: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """What is to be captured.

    Raises:
        UsageError: nothing, or something that is not known.
    """
    if not what:
        raise UsageError("nothing is to be captured", hint=f"name one or more of {', '.join(sorted(known))}")
    for name in what:
        if name not in known:
            raise unknown("capture", str(name), known)
    return tuple(what)


def block_asked(block: Any) -> int:
    """How many queries' weights may exist at a time."""
    if not isinstance(block, int) or isinstance(block, bool) or block < 1:
        raise UsageError(f"`block` must be a number of queries, at least 1, not {block!r}")
    return block


def device_asked(device: Any) -> torch.device:
    """Where what was captured is kept."""
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise UsageError(f"there is no device {device!r}", hint="name one as torch does: cpu, cuda:0") from error


def keys_asked(keys: Any) -> list[int] | None:
    """Positions for "mass"."""
    if keys is None:
        return None
    try:
        found = torch.as_tensor(keys)
    except (TypeError, ValueError, RuntimeError):
        found = torch.zeros(0)
    if not found.numel() or found.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        raise UsageError(f"`keys` must be positions, not {keys!r}", hint="give whole numbers, such as keys=[0]")
    return found.flatten().tolist()


def places_asked(places: Any) -> torch.Tensor | None:
    """[positions, d] coordinates for "distance"."""
    if places is None:
        return None
    try:
        found = torch.as_tensor(places, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError("`places` are no coordinates", hint="give a tensor [positions, d]") from error
    if found.dim() == 1:
        found = found[:, None]
    if found.dim() != 2 or not found.numel():
        raise UsageError(f"`places` have the shape {tuple(found.shape)}", hint="give a tensor [positions, d]")
    return found


def heads_asked(heads: Mapping[str, Sequence[int]] | None) -> Mapping[str, Sequence[int]] | None:
    """Which attention heads of each layer, by path; None for all."""
    for path, numbers in (heads or {}).items():
        if not numbers:
            raise UsageError("no attention head is chosen", place=path, hint="name some, or leave the layer out")
    return heads


def unfit(
    name: str, call: AttentionCall, keys: Sequence[int] | None, places: torch.Tensor | None, offset: int | None
) -> str | None:
    """Why a reduction has no meaning for this computation of attention; None when it has."""
    queries, count = call.shape[2:]
    if name == "mass" and not all(-count <= place < count for place in keys or ()):
        return f"mass is asked for keys {list(keys or ())}, and there are {count}"
    if name != "distance":
        return None
    if call.layer.kind == "cross":
        return "there is no distance between positions of two sequences"
    if places is not None and len(places) != count:
        return f"`places` names {len(places)} positions, and there are {count} keys"
    if offset is None:
        return f"where {queries} queries stand among {count} keys is not known"
    return None


def offset_of(call: AttentionCall) -> int | None:
    """The position of the first query among the keys; None when it has none, or it cannot be known."""
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
    for start in range(0, queries, _ROWS):
        anywhere = call.allowed(start, min(queries, start + _ROWS)).flatten(0, -2).any(0).nonzero()
        last = max(last, int(anywhere[-1]) if len(anywhere) else -1)
    return last - (queries - 1) if last >= queries - 1 else None
