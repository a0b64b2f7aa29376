"""A freshly built model gets the shape of the saved one, from the manifest, before its weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from topwork import AttentionLayer, CheckpointError, Json
from topwork_lens.gates import keep_gates
from topwork_lens.layers.discovery import find_layers
from topwork_lens.layers.state import is_taught
from topwork_lens.layers.variant import with_variant
from topwork_lens.pruning.job import note
from topwork_lens.pruning.slicing import cut
from topwork_lens.pruning.soft import living_layers, soften


def rebuild(model: nn.Module, manifest: Mapping[str, Json], plugins: Any = None) -> None:
    """Cut the layers that the manifest names, and put its gates back.

    Args:
        manifest: the lens's section of a model's alterations.

    Raises:
        CheckpointError: a layer of the manifest is not in this model, or has another number of attention heads.
    """
    layers = {layer.path: layer for layer in find_layers(model, plugins)}
    for path in manifest.get("taught", {}):
        if path in layers and not is_taught(layers[path]):
            raise CheckpointError(
                "the attention layer was described by a plugin that is not loaded",
                place=path,
                hint="load it with the plugins that it was saved with",
            )
    for path, entry in manifest.get("layers", {}).items():
        layer = _found(layers, path, _whole(entry, path)["heads"])
        if layer.removed:
            raise CheckpointError("the model is pruned already", place=path)
        layer = with_variant(model, layer, entry.get("variant"))
        cut(model, layer, entry["kept"], entry["groups_left"])
        note(model, layer, entry["kept"], entry["groups_left"])
    layers = {layer.path: layer for layer in find_layers(model, plugins)}
    for path, entry in manifest.get("soft", {}).items():
        layer = _found(layers, path, layers[path].heads if path in layers else len(entry["gone"]))
        soften(model, layer, entry["gone"], entry["why"], entry["only"], entry["fused"])
    layers = {layer.path: layer for layer in living_layers(model, plugins)}
    for path, factors in manifest.get("gates", {}).items():
        keep_gates(model, _found(layers, path, len(factors)), factors)


def _whole(entry: Any, path: str) -> Mapping[str, Any]:
    """What the manifest says of a cut layer, if it can be true of any.

    Raises:
        CheckpointError: it cannot.
    """
    try:
        heads, groups, kept, left = (entry[name] for name in ("heads", "groups", "kept", "groups_left"))
        right = sorted(set(kept) & set(range(heads))) == kept and set(left) <= set(range(groups)) and entry["width"] > 0
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"the manifest is damaged: {error!r}", place=path) from error
    if not right or len(left) > heads or (kept and not left):
        raise CheckpointError(f"the manifest is damaged: no layer of {heads} attention heads keeps {kept}", place=path)
    return entry


def _found(layers: Mapping[str, AttentionLayer], path: str, heads: int) -> AttentionLayer:
    layer = layers.get(path)
    if layer is None or layer.heads != heads:
        has = f"{layer.heads} attention heads" if layer else "no such attention layer"
        raise CheckpointError(
            f"the manifest has {heads} attention heads at {path}, the model has {has}",
            hint="load it with the base and the plugins that it was saved with",
        )
    return layer
