"""Fused projections whose layout nobody described, found by trying.

Queries, keys and values often come out of one projection, keys and values for fewer groups than there are attention
heads. The two usual orders are tried; a wrong one would take rows of attention heads that stay, which the check sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

from torch import nn

from topwork import AttentionLayer, Slices
from topwork_lens.gates import module_at
from topwork_lens.layers.description import features, is_projection, output_dim, resolve


def candidates(model: nn.Module, layer: AttentionLayer) -> Iterator[dict[str, Any]]:
    """What a fused projection of the layer might look like, as JSON: {"path", "order", "groups"}.

    order "stacked": all queries, then the keys, then the values of all groups; "grouped": for one group after the other
    its queries, its key, its value. Only for a layer of which nothing but the output projection is described.
    """
    if {piece.parameter.rpartition(".")[0] for piece in layer.slices} != {layer.output}:
        return
    heads = len(layer.kept or ())
    for path, below in module_at(model, layer.path).named_modules():
        if path in ("", layer.output) or not is_projection(below) or features(below) % layer.width:
            continue
        groups, odd = divmod(features(below) // layer.width - heads, 2)
        if groups > 0 and not odd and heads % groups == 0:
            for order in ("stacked", "grouped"):
                yield {"path": path, "order": order, "groups": groups}


def with_fused(model: nn.Module, layer: AttentionLayer, said: dict[str, Any]) -> AttentionLayer:
    """The layer with the slices of its fused projection, as one of `candidates` says."""
    path, heads = said["path"], len(layer.kept or ())
    groups = len(layer.groups_left or ()) if layer.removed else said["groups"]
    ratio = heads // max(1, groups)
    if said["order"] == "stacked":
        queries = list(range(heads))
        pairs = [(heads + group, heads + groups + group) for group in range(groups)]
    else:
        queries = [head // ratio * (ratio + 2) + head % ratio for head in range(heads)]
        pairs = [(group * (ratio + 2) + ratio, group * (ratio + 2) + ratio + 1) for group in range(groups)]
    own = [_places((unit,), layer.width) for unit in queries]
    shared = [_places(pair, layer.width) for pair in pairs]
    projection = cast(nn.Module, resolve(module_at(model, layer.path), path))
    parameters = [(f"{path}.weight", output_dim(projection))]
    if getattr(projection, "bias", None) is not None:
        parameters.append((f"{path}.bias", 0))
    added = [Slices(name, dim, own) for name, dim in parameters]
    added += [Slices(name, dim, shared, "group") for name, dim in parameters]
    if layer.removed:
        return replace(layer, slices=(*added, *layer.slices))
    return replace(layer, slices=(*added, *layer.slices), groups=groups, groups_left=tuple(range(groups)))


def _places(units: tuple[int, ...], width: int) -> list[int]:
    return [unit * width + place for unit in units for place in range(width)]
