"""Checkpoints that transformers 4 pruned: their config has `pruned_heads`, their weights are smaller.

Entry points: `load` and `shape`. transformers 5 builds such a model unpruned and then fails on the sizes of its
weights. Here the fresh model is pruned to the noted shape before the weights are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from topwork import AttentionLayer, CheckpointError
from topwork_lens.layers.discovery import find_layers
from topwork_lens.pruning.slicing import cut
from topwork_lens.pruning.strategies import note, plan


def recorded_heads(config: Any) -> dict[Any, Any]:
    """Return what a config says was pruned by transformers 4.

    Returns:
        Numbers of attention heads by layer number, and by the name of a part what the config of that part says.
    """
    heads_by_layer = getattr(config, "pruned_heads", None) or {}
    pruned: dict[Any, Any] = {int(layer): sorted(map(int, heads)) for layer, heads in heads_by_layer.items() if heads}
    parts = {part: recorded_heads(getattr(config, part, None)) for part in getattr(config, "sub_configs", None) or {}}
    return pruned | {part: inner for part, inner in parts.items() if inner}


def shape(model: nn.Module, heads: Mapping[Any, Any], plugins: Any = None, under: str = "") -> None:
    """Cut a fresh model to the shape that transformers 4 gave it; the numbers in its parameters mean nothing yet.

    transformers 4 pruned self-attention alone, and no encoder-decoder.

    Args:
        model: the model, with weights of no meaning yet.
        heads: indices of attention heads by layer index, as in `pruned_heads`; of a model made of several, the same by
            the names of its parts (entries of its config).
        plugins: plugins that describe attention layers; None loads the installed ones.
        under: the path of the module that they are counted in, when the checkpoint is a part of the model.

    Raises:
        CheckpointError: the model has no such layer or attention head, or this layer cannot be cut.
    """
    parts = {name: inner for name, inner in heads.items() if isinstance(inner, Mapping)}
    for name, inner in parts.items():
        shape(model, inner, plugins, _part(model, under, name))
    by_layer = {int(key): sorted(map(int, numbers)) for key, numbers in heads.items() if key not in parts}
    for number, removed in sorted(by_layer.items()):
        layers = _counted(model, plugins, under)
        if number >= len(layers):
            raise CheckpointError(
                f"the config says that attention heads of layer {number} are pruned; this model has {len(layers)} "
                "layers with self-attention",
                place=under or type(model).__name__,
            )
        layer = layers[number]
        if not set(removed) <= set(layer.kept) or layer.prunable != "hard":
            raise CheckpointError(
                f"the config says that attention heads {removed} of layer {number} are pruned; this model has "
                f"{layer.heads}" + (f" ({layer.why})" if layer.why else ""),
                place=layer.path,
            )
        positions, groups_kept, left = plan(layer, removed)
        cut(model, layer, positions, groups_kept)
        note(model, layer, [layer.kept[position] for position in positions], left)


def _part(model: nn.Module, under: str, name: str) -> str:
    """Return the path of the module that a part of the config describes."""
    whole: Any = model.get_submodule(under)
    wanted = getattr(whole.config, name)
    for path, module in whole.named_modules():
        if getattr(module, "config", None) is wanted:
            return ".".join(step for step in (under, path) if step)
    cause = f"the config says that attention heads of its part `{name}` are pruned; this model has no such part"
    raise CheckpointError(cause, place=under or type(model).__name__)


def _counted(model: nn.Module, plugins: Any, under: str) -> list[AttentionLayer]:
    """Return the layers that transformers 4 counted."""
    layers = [layer for layer in find_layers(model, plugins) if layer.kind == "self"]
    layers = [layer for layer in layers if not under or f"{layer.path}.".startswith(f"{under}.")]
    if len(sides := sorted({layer.side for layer in layers})) > 1:
        cause = f"transformers 4 pruned no model with attention on several sides ({', '.join(sides)})"
        raise CheckpointError(f"the config has `pruned_heads`, but {cause}", place=under or type(model).__name__)
    return layers


def load(folder: str | Path, model_class: Any, plugins: Any = None, **options: Any) -> nn.Module:
    """Load a checkpoint that transformers 4 pruned as a model of `model_class` that is pruned in the same way.

    Args:
        folder: where the checkpoint lies, or its name on the Hub.
        model_class: a model class of transformers, such as `BertForSequenceClassification`.
        plugins: plugins that describe attention layers; None loads the installed ones.
        **options: for `from_pretrained`.

    Raises:
        CheckpointError: weights are missing or do not fit the shape that the config notes.
    """
    config = options.pop("config", None) or model_class.config_class.from_pretrained(folder)
    heads = recorded_heads(config)

    def build(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        model_class.__init__(self, config, *args, **kwargs)
        shape(self, heads, plugins)

    # `from_pretrained` builds the class that it is called on: a class of its own for this one call.
    pruned_class: Any = type(
        model_class.__name__, (model_class,), {"__init__": build, "__module__": model_class.__module__}
    )
    try:
        model, info = pruned_class.from_pretrained(folder, config=config, output_loading_info=True, **options)
    except RuntimeError as error:
        raise CheckpointError(f"its weights do not fit its `pruned_heads`: {error}", place=str(folder)) from error
    model.__class__ = model_class
    wrong = [*info["missing_keys"], *info["mismatched_keys"]]
    if wrong:
        raise CheckpointError(f"weights are missing or do not fit: {wrong[0]}", place=str(folder))
    _clear_notes(model.config)
    return model.eval()


def _clear_notes(config: Any) -> None:
    """Remove the notes of transformers 4 from a config: they now stand in the model's alterations."""
    if getattr(config, "pruned_heads", None):
        config.pruned_heads = {}
    for part in getattr(config, "sub_configs", None) or {}:
        _clear_notes(getattr(config, part, None))
