"""Soft pruning: compact parameters, scattered to their full width whenever the model reads them.

Entry points: `soften` and `living_layers`. The module's code stays as it is and sees parameters of the sizes that it
knows; rows and columns of removed attention heads are zeros that are not stored. That saves parameters and disk, and no
time. A removed attention head has an output projection of zeros, so that it is exactly masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn
from torch.nn.utils import parametrize

from topwork import AttentionLayer
from topwork_lens.layers.context import module_at
from topwork_lens.layers.description import resolve
from topwork_lens.layers.discovery import find_layers
from topwork_lens.layers.state import noted, write
from topwork_lens.layers.variant import with_fused
from topwork_lens.pruning.slicing import Undo, by_parameter, groups_of, index_of, put


class Scatter(nn.Module):
    """Parametrization that puts a compact parameter at its positions along one dimension, and zeros elsewhere."""

    positions: torch.Tensor

    def __init__(self, positions: Sequence[int], dim: int, size: int) -> None:
        super().__init__()
        self.dim, self.size = dim, size
        self.register_buffer("positions", torch.tensor(positions, dtype=torch.long), persistent=False)

    def forward(self, compact: torch.Tensor) -> torch.Tensor:
        """Return the full parameter."""
        shape = list(compact.shape)
        shape[self.dim] = self.size
        return compact.new_zeros(shape).index_copy(self.dim, self.positions, compact)

    def right_inverse(self, full: torch.Tensor) -> torch.Tensor:
        """Return the compact parameter; `parametrize` calls this when a whole value is assigned."""
        return full.index_select(self.dim, self.positions)


def soften(
    model: nn.Module,
    layer: AttentionLayer,
    removed: Sequence[int],
    why: str,
    only: Sequence[str] | None = None,
    fused: dict[str, Any] | None = None,
) -> Undo:
    """Make the parameters of removed attention heads compact.

    Args:
        model: the model that the layer is part of.
        layer: as its module stands: every attention head that is computed.
        removed: original numbers of all softly removed attention heads, earlier ones included.
        why: the reason, kept in the manifest.
        only: the parameters that become compact; None for all that belong to single attention heads. The output
            projection must be among them.
        fused: where its fused projection lies, when the description does not say it (see `layout_search`).

    Returns:
        What takes it back.
    """
    module, undo = module_at(model, layer.path), Undo()
    layer = with_fused(model, layer, fused) if fused else layer
    numbers, left = list(layer.kept), groups_of(layer)
    heads = [index for index, number in enumerate(numbers) if number not in set(removed)]
    ratio = max(1, len(numbers) // len(left)) if left else 1
    groups = sorted({index // ratio for index in heads})
    before = soft_entry(model, layer.path)
    try:
        for (parameter, dim), pieces in by_parameter(layer).items():
            if only is not None and parameter not in only:
                continue
            owner_path, _, name = parameter.rpartition(".")
            owner = cast(nn.Module, resolve(module, owner_path))
            index = index_of(pieces, heads, groups, getattr(owner, name).shape[dim])
            undo.calls.append(_scatter(owner, name, dim, index))
        write(model, "soft", layer, {"gone": sorted(removed), "why": why, "only": only, "fused": fused})
        undo.calls.append(lambda: write(model, "soft", layer, before))
    except BaseException:
        undo.restore()
        raise
    return undo


def _scatter(owner: nn.Module, name: str, dim: int, index: Sequence[int]) -> Any:
    """Give a parameter its compact form; return what takes that back."""
    whole = getattr(owner, name).detach()
    device = whole.device
    rest = sorted(set(range(whole.shape[dim])) - set(index))
    removed = whole.index_select(dim, torch.tensor(rest, dtype=torch.long, device=device))
    earlier = _earlier_positions(owner, name, dim)
    if earlier is not None:
        parametrize.remove_parametrizations(owner, name, leave_parametrized=True)
    size = whole.shape[dim]
    if len(index) < size:
        parametrize.register_parametrization(owner, name, Scatter(index, dim, size).to(device))

    def take_back() -> None:
        full = getattr(owner, name).detach().clone()
        full.index_copy_(dim, torch.tensor(rest, dtype=torch.long, device=device), removed)
        if len(index) < size:
            parametrize.remove_parametrizations(owner, name, leave_parametrized=True)
        put(owner, name, full)
        if earlier is not None:
            parametrize.register_parametrization(owner, name, Scatter(earlier, dim, size).to(device))

    return take_back


def _earlier_positions(owner: nn.Module, name: str, dim: int) -> list[int] | None:
    """Return the positions that an earlier scatter of the parameter kept, or None when it is whole."""
    if not parametrize.is_parametrized(owner, name):
        return None
    steps: Any = cast(Any, owner).parametrizations[name]
    scatters = [step for step in steps if isinstance(step, Scatter) and step.dim == dim]
    return scatters[0].positions.tolist() if scatters else None


def soft_entry(model: nn.Module, path: str) -> dict[str, Any] | None:
    """Return what the manifest says of a softly pruned layer: its "gone" numbers, "why", "only" and "fused"."""
    return noted(model, "soft", path)


def living_layers(model: nn.Module, plugins: Any = None) -> list[AttentionLayer]:
    """Return the attention layers of a model without softly removed attention heads."""
    return [surviving(model, layer) for layer in find_layers(model, plugins)]


def surviving(model: nn.Module, layer: AttentionLayer) -> AttentionLayer:
    """Return a layer, given as its module stands, without softly removed attention heads.

    Its context still has them, as zeros behind the output projection: `split` leaves them out, `merge` puts zeros.
    """
    note = soft_entry(model, layer.path)
    if note is None or not set(note["gone"]) & set(layer.kept):
        return layer
    numbers = list(layer.kept)
    indices = [index for index, number in enumerate(numbers) if number not in set(note["gone"])]
    kept = tuple(numbers[index] for index in indices)
    inner_split, inner_merge, width = layer.split, layer.merge, layer.width

    def split(context: torch.Tensor) -> torch.Tensor:
        heads = inner_split(context) if inner_split is not None else context.unflatten(-1, (len(numbers), width))
        return heads.index_select(-2, torch.tensor(indices, dtype=torch.long, device=heads.device))

    def merge(heads: torch.Tensor) -> torch.Tensor:
        shape = (*heads.shape[:-2], len(numbers), heads.shape[-1])
        index = torch.tensor(indices, dtype=torch.long, device=heads.device)
        whole = heads.new_zeros(shape).index_copy(-2, index, heads)
        return inner_merge(whole) if inner_merge is not None else whole.flatten(-2)

    return replace(layer, kept=kept, split=split, merge=merge, prunable="soft", why=note["why"])
