"""An attention layer as a variant describes it: what the pattern left out, as the manifest keeps it.

Entry point: `with_variant`. Variants are found by `topwork_lens.pruning.layout_search`, which documents their form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from topwork import AttentionLayer, Size, Slices
from topwork_lens.layers.description import output_dim, positions, resolve


def with_variant(model: nn.Module, layer: AttentionLayer, variant: Mapping[str, Any] | None) -> AttentionLayer:
    """Return the layer with the additions of a variant; what its description has already is not added again."""
    if not variant:
        return layer
    module, described = model.get_submodule(layer.path), {piece.parameter for piece in layer.slices}
    if variant.get("fused") and f"{variant['fused']['path']}.weight" not in described:
        layer = with_fused(model, layer, variant["fused"])
    added = []
    for parameter, dim, per, stack in variant.get("parts", ()):
        if parameter in described:
            continue
        size = cast(torch.Tensor, resolve(module, parameter)).shape[dim]
        count = len(layer.kept) if per == "head" else len(layer.groups_left)
        added.append(Slices(parameter, dim, positions(size, count, stack), per))
    sizes = tuple(Size(*size) for size in variant["sizes"]) if "sizes" in variant else layer.sizes
    return replace(layer, slices=(*layer.slices, *added), sizes=sizes, variant=variant)


def with_fused(model: nn.Module, layer: AttentionLayer, layout: Mapping[str, Any]) -> AttentionLayer:
    """Return the layer with the slices of its fused projection, as one of `candidates` says."""
    path, heads = layout["path"], len(layer.kept)
    groups = len(layer.groups_left) if layer.removed else layout["groups"]
    ratio = heads // max(1, groups)
    if layout["order"] == "stacked":
        queries = list(range(heads))
        pairs = [(heads + group, heads + groups + group) for group in range(groups)]
    else:
        queries = [head // ratio * (ratio + 2) + head % ratio for head in range(heads)]
        pairs = [(group * (ratio + 2) + ratio, group * (ratio + 2) + ratio + 1) for group in range(groups)]
    per_head = [_positions((unit,), layer.width) for unit in queries]
    per_group = [_positions(pair, layer.width) for pair in pairs]
    projection = cast(nn.Module, resolve(model.get_submodule(layer.path), path))
    parameters = [(f"{path}.weight", output_dim(projection))]
    if getattr(projection, "bias", None) is not None:
        parameters.append((f"{path}.bias", 0))
    added = [Slices(name, dim, per_head) for name, dim in parameters]
    added += [Slices(name, dim, per_group, "group") for name, dim in parameters]
    if layer.removed:
        return replace(layer, slices=(*added, *layer.slices))
    return replace(layer, slices=(*added, *layer.slices), groups=groups, groups_left=tuple(range(groups)))


def _positions(units: tuple[int, ...], width: int) -> list[int]:
    return [unit * width + offset for unit in units for offset in range(width)]
