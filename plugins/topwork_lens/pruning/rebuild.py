"""Pruning of a freshly built model to the shape that a manifest describes, before its weights are loaded.

Entry point: `rebuild`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from topwork import AttentionLayer, CheckpointError, Json
from topwork_lens.gates import keep_gates
from topwork_lens.layers.discovery import find_layers
from topwork_lens.layers.state import is_taught
from topwork_lens.layers.variant import with_variant
from topwork_lens.pruning.slicing import cut
from topwork_lens.pruning.soft import living_layers, soften
from topwork_lens.pruning.strategies import note as write_note


def rebuild(model: nn.Module, manifest: Mapping[str, Json], plugins: Any = None) -> None:
    """Prune the layers that the manifest names, and put its gates back.

    Args:
        model: the model as its config builds it.
        manifest: the lens's section of a model's alterations.
        plugins: plugins that describe attention layers; None loads the installed ones.

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
    for path, note in manifest.get("layers", {}).items():
        layer = _layer_at(layers, path, _checked(note, path)["heads"])
        if layer.removed:
            raise CheckpointError("the model is pruned already", place=path)
        layer = with_variant(model, layer, note.get("variant"))
        cut(model, layer, note["kept"], note["groups_left"])
        write_note(model, layer, note["kept"], note["groups_left"])
    layers = {layer.path: layer for layer in find_layers(model, plugins)}
    for path, note in manifest.get("soft", {}).items():
        layer = _layer_at(layers, path, layers[path].heads if path in layers else len(note["gone"]))
        soften(model, layer, note["gone"], note["why"], note["only"], note["fused"])
    layers = {layer.path: layer for layer in living_layers(model, plugins)}
    for path, factors in manifest.get("gates", {}).items():
        keep_gates(model, _layer_at(layers, path, len(factors)), factors)


def _checked(note: Any, path: str) -> Mapping[str, Any]:
    """Return what the manifest says of a pruned layer, if it can be true of any.

    Raises:
        CheckpointError: it cannot.
    """
    try:
        heads, groups, kept, left = (note[name] for name in ("heads", "groups", "kept", "groups_left"))
        right = sorted(set(kept) & set(range(heads))) == kept and set(left) <= set(range(groups)) and note["width"] > 0
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"the manifest is damaged: {error!r}", place=path) from error
    if not right or len(left) > heads or (kept and not left):
        raise CheckpointError(f"the manifest is damaged: no layer of {heads} attention heads keeps {kept}", place=path)
    return note


def _layer_at(layers: Mapping[str, AttentionLayer], path: str, heads: int) -> AttentionLayer:
    layer = layers.get(path)
    if layer is None or layer.heads != heads:
        has = f"{layer.heads} attention heads" if layer else "no such attention layer"
        raise CheckpointError(
            f"the manifest has {heads} attention heads at {path}, the model has {has}",
            hint="load it with the base and the plugins that it was saved with",
        )
    return layer
