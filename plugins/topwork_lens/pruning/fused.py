"""Fused projections whose layout nobody described, found by trying.

Queries, keys and values often come out of one projection, keys and values for fewer groups than there are attention
heads. The two usual orders are tried; a wrong one would take rows of attention heads that stay, which the check sees.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from topwork import AttentionLayer
from topwork_lens.gates import module_at
from topwork_lens.layers.description import features, is_projection


def candidates(model: nn.Module, layer: AttentionLayer) -> Iterator[dict[str, Any]]:
    """What a fused projection of the layer might look like, as JSON: {"path", "order", "groups"}.

    order "stacked": all queries, then the keys, then the values of all groups; "grouped": for one group after the other
    its queries, its key, its value. Only for a layer of which nothing but the output projection is described.
    """
    if {piece.parameter.rpartition(".")[0] for piece in layer.slices} != {layer.output}:
        return
    heads = len(layer.kept)
    for path, below in module_at(model, layer.path).named_modules():
        if path in ("", layer.output) or not is_projection(below) or features(below) % layer.width:
            continue
        groups, odd = divmod(features(below) // layer.width - heads, 2)
        if groups > 0 and not odd and heads % groups == 0:
            for order in ("stacked", "grouped"):
                yield {"path": path, "order": order, "groups": groups}
