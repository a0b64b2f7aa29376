"""Replacements of an activation: a number, a tensor, a mean, values of other rows, captured values, an edit.

Entry points: `Selection`, which part of an activation is replaced, and `replaced`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from topwork import UsageError, unknown
from topwork_lens.activations.sites import NETWORKS, OPERANDS, STATES, Site

MEAN, RESAMPLE = "mean", "resample"


@dataclass(frozen=True)
class Selection:
    """Part of an activation.

    Args:
        heads: positions of the attention heads among those that the layer has now; None for all.
        positions: token positions (of scores and weights: queries); None for all.
        neurons: indices along the last dimension; None for all.
    """

    heads: tuple[int, ...] | None = None
    positions: tuple[int, ...] | None = None
    neurons: tuple[int, ...] | None = None

    def indices(self, site: Site, value: torch.Tensor) -> list[tuple[int, torch.Tensor]]:
        """Return (dimension, indices) for each selected dimension of an activation.

        Raises:
            UsageError: the activation has no such dimension, or fewer entries along it.
        """
        chosen = []
        for name, wanted in (("heads", self.heads), ("positions", self.positions), ("neurons", self.neurons)):
            if wanted is None:
                continue
            dim = _dimension(site, value, name)
            if dim is None:
                cause = f"{site.name} of shape {tuple(value.shape)} has no {name} to choose from"
                raise UsageError(cause, place=site.path, hint="give a function that edits the whole of it")
            size = value.shape[dim]
            wrong = [index for index in wanted if not -size <= index < size]
            if wrong:
                raise UsageError(f"there is no index {wrong[0]} among {size} {name}", place=site.path)
            chosen.append((dim, torch.tensor([index % size for index in wanted], device=value.device)))
        return chosen


def _dimension(site: Site, value: torch.Tensor, name: str) -> int | None:
    """Return the dimension of an activation along which heads, positions or neurons lie; None when there is none."""
    dims = value.dim()
    if site.name in OPERANDS:
        last = None if site.name in ("scores", "weights") else dims - 1
        return {"heads": 1, "positions": 2, "neurons": last}[name]
    if site.name in ("context", "head_output"):
        return {"heads": dims - 2, "positions": 1 if dims == 4 else None, "neurons": dims - 1}[name]
    is_image = site.name in STATES and dims > 3
    positions = 1 if dims == 3 else None
    return {"heads": None, "positions": positions, "neurons": None if is_image else dims - 1}[name]


def replaced(site: Site, value: torch.Tensor, selection: Selection, given: Any, seed: int) -> torch.Tensor:
    """Return an activation, part of it replaced.

    Args:
        site: where the activation is.
        value: the activation.
        selection: the part.
        given: "mean", "resample", a number, a tensor (of the shape of the activation or of the part, or one that is
            repeated to it), or an edit of the part.
        seed: of "resample".

    Raises:
        UsageError: the given value fits neither the activation nor the part.
    """
    indices = selection.indices(site, value)
    part = _select(value, indices)
    if isinstance(given, str):
        changed = _by_name(site, part, given, seed)
    elif callable(given):
        changed = given(part)
        if not isinstance(changed, torch.Tensor) or changed.shape != part.shape:
            shape = tuple(changed.shape) if isinstance(changed, torch.Tensor) else type(changed).__name__
            cause = f"the edit of {site.name} returned {shape}, and the part has the shape {tuple(part.shape)}"
            raise UsageError(cause, place=site.path)
    else:
        changed = _tensor(site, given, value, part, indices)
    changed = changed.to(dtype=value.dtype, device=value.device)
    return _put(value, indices, changed) if indices else changed


def _by_name(site: Site, part: torch.Tensor, name: str, seed: int) -> torch.Tensor:
    if name == MEAN:
        return part.mean(_averaged(site, part), keepdim=True).expand_as(part)
    if name != RESAMPLE:
        raise unknown("patch", name, (MEAN, RESAMPLE))
    items = part.shape[0]
    if items < 2:
        raise UsageError("one row alone has no other to take values from", place=site.path, hint="run several rows")
    # One cycle through all items in random order: none keeps its own values, and all layers take from the same ones.
    order = torch.randperm(items, generator=torch.Generator().manual_seed(seed))
    source = torch.empty_like(order)
    source[order] = order.roll(1)
    return part[source.to(part.device)]


def _averaged(site: Site, part: torch.Tensor) -> list[int]:
    """Return dimensions of items and positions."""
    dims = part.dim()
    if site.name in OPERANDS:
        return [0, 2]
    if site.name in ("context", "head_output"):
        return list(range(dims - 2))
    if site.name in STATES and dims > 3:
        return [0, *range(2, dims)]
    return list(range(dims - 1)) if site.name in (*NETWORKS, *STATES, "attention_output") else [0]


def _tensor(
    site: Site, given: Any, value: torch.Tensor, part: torch.Tensor, indices: Sequence[tuple[int, torch.Tensor]]
) -> torch.Tensor:
    """Return a number or a tensor in the shape of the part."""
    try:
        tensor = torch.as_tensor(given).to(dtype=value.dtype, device=value.device)
    except (TypeError, ValueError, RuntimeError) as error:
        hint = "give a number, a tensor, 'mean', 'resample', what was captured, or a function"
        raise UsageError(
            f"nothing can be replaced with a {type(given).__name__}", place=site.path, hint=hint
        ) from error
    if isinstance(given, float) and math.isnan(given):
        raise UsageError(f"{site.name} cannot be replaced with nan", place=site.path, hint="give a number")
    whole = _expanded(tensor, value.shape)
    if whole is not None:
        return _select(whole, indices)
    expanded = _expanded(tensor, part.shape)
    if expanded is None:
        cause = f"a value of shape {tuple(tensor.shape)} fits neither {site.name} of shape {tuple(value.shape)}"
        raise UsageError(f"{cause} nor the part of shape {tuple(part.shape)} that is replaced", place=site.path)
    return expanded


def _expanded(tensor: torch.Tensor, shape: torch.Size) -> torch.Tensor | None:
    try:
        return tensor.expand(shape)
    except RuntimeError:
        return None


def _select(value: torch.Tensor, indices: Sequence[tuple[int, torch.Tensor]]) -> torch.Tensor:
    for dim, index in indices:
        value = value.index_select(dim, index)
    return value


def _put(value: torch.Tensor, indices: Sequence[tuple[int, torch.Tensor]], part: torch.Tensor) -> torch.Tensor:
    (dim, index), *rest = indices
    inner = _put(value.index_select(dim, index), rest, part) if rest else part
    return value.index_copy(dim, index, inner)
