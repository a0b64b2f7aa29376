"""Bases from transformers: a Hub id, a saved folder, a folder inside an installed package, or a config.

A config gives random weights. Safetensors only; code that comes with a checkpoint runs only when the recipe says so.
From the start a base has only its config; torch is imported when a module is requested.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork import CheckpointError, DeferredModule, TopworkError, hookimpl, listed
from topwork_bases.transformers import sources as _sources
from topwork_bases.transformers import written as _written

if TYPE_CHECKING:
    from torch import nn

    from topwork import BaseOptions, Json


class TransformersBase:
    """A base of transformers (see `topwork.Base`).

    Args:
        name: as in the recipe, for messages.
        options: what the recipe says.
        location: folder or Hub id; None for a config.
        config: the config object, `options.changes` applied.

    A checkpoint that transformers 4 pruned (its config has `pruned_heads`, its weights are smaller) makes modules that
    a plugin cuts in `unfinished` before their weights come; None when no task is building.
    """

    def __init__(self, name: str, options: BaseOptions, location: str | None, config: Any) -> None:
        self.name, self.options, self.location, self.config = name, options, location, config
        self.scratch = location is None or not options.weights
        self.pruned = _take_pruned(config, f"base {name}")
        self.unfinished: list[DeferredModule] | None = None

    def __repr__(self) -> str:
        return f"TransformersBase({self.name!r})"

    @property
    def origin(self) -> dict[str, Json]:
        """The whole config, and the names that it came from."""
        config = json.loads(self.config.to_json_string(use_diff=False))
        return {
            "kind": "transformers",
            "config": {"model_type": self.config.model_type, **config},
            "model": self.options.model,
            "revision": self.options.revision,
            "processor": self.options.processor,
        }

    def trained_labels(self, *auto: str) -> list[str] | None:
        """Return the label names of the checkpoint's own task head, in the order of its outputs.

        None when the checkpoint has no trained weights for one of the classes behind these auto names, or the recipe
        does not keep its head.
        """
        if self.scratch or self.options.head == "new" or not self._has_trained_head(auto):
            return None
        return [str(self.config.id2label[number]) for number in sorted(self.config.id2label)]

    def _has_trained_head(self, auto: Sequence[str]) -> bool:
        from topwork_bases.transformers import modules as _modules

        trained = set(getattr(self.config, "architectures", None) or ())
        names = (name for entry in auto for name in _modules.class_names(entry, self.config))
        return any(name in trained for name in names)

    def native(
        self, *auto: str, weights: bool = True, subclass: type | None = None, **changes: Any
    ) -> nn.Module | None:
        """Return the architecture's own class with a task head; see `topwork.Base.native`."""
        from topwork_bases.transformers import modules as _modules

        classes = next((name for name in auto if _modules.has(name, self.config, self.options.trust_remote_code)), None)
        if classes is None:
            return None
        requested = changes.get("id2label")
        saved = self.trained_labels(classes)
        if requested is not None and saved is not None:
            wanted = [str(requested[number]) for number in sorted(requested)]
            if wanted != saved:
                raise CheckpointError(
                    f"its task head was trained for the labels {listed(saved, 8)}; wanted are {listed(wanted, 8)}",
                    place=f"base {self.name}",
                    hint="name the data's labels as the checkpoint does, or set `head: new` to replace its task head",
                )
        config = self._changed(changes)
        fresh = self.options.head == "new" and self._has_trained_head([classes])
        location = None if self.scratch or not weights else self.location
        return self._made(classes, location, config, fresh_head=fresh, subclass=subclass)

    def backbone(self, *, weights: bool = True, maps: Sequence[int] = (), **changes: Any) -> nn.Module:
        """Return the network without a task head, of an encoder-decoder the encoder; see `topwork.Base.backbone`."""
        from topwork_bases.transformers import backbones
        from topwork_bases.transformers import modules as _modules

        config = self._changed(changes)
        location = None if self.scratch or not weights else self.location
        auto = "AutoModel"
        if maps and _modules.has("AutoBackbone", config, False):
            auto = "AutoBackbone"
            backbones.choose_stages(config, maps)
        if not _modules.has(auto, config, self.options.trust_remote_code):
            raise CheckpointError(
                f"transformers has no bare model for `{config.model_type}`", place=f"base {self.name}"
            )
        # an optional pooler with weights would be random in checkpoints without one, and untrained under mean pooling
        extra = {"add_pooling_layer": False} if _modules.takes(auto, config, "add_pooling_layer") else {}
        return backbones.wrap(self._made(auto, location, config, **extra), maps)

    def _made(self, auto: str, location: str | None, config: Any, fresh_head: bool = False, **extra: Any) -> Any:
        """Return a module with its weights; `unfinished` handles missing attention heads."""
        from topwork_bases.transformers import modules as _modules

        if location is not None and extra.get("subclass") is None:
            _refuse_altered(self.name, location)  # a shared pair, which its own subclass alone opens rightly
        if not self.pruned:
            if location is None:
                return _modules.from_config(auto, config, self.options, **extra)
            return _modules.from_weights(auto, location, config, self.options, fresh_head=fresh_head, **extra)
        title = f"base {self.name}"
        if self.unfinished is None:
            cause = "it was pruned by transformers 4, and nobody is there to cut the model before its weights come"
            raise CheckpointError(cause, place=title, hint="open it with topwork.build, or as `base` of a recipe")
        module = _modules.from_config(auto, config, self.options, **extra)
        load = None
        if location is not None:
            load = partial(_modules.fill, module, auto, location, config, self.options, fresh_head=fresh_head, **extra)
        hint = "load the plugin `lens`, which cuts a model as transformers 4 did"
        self.unfinished.append(DeferredModule(module, "pruned_heads", self.pruned, load, title, hint))
        return module

    def processor(self, kind: str, **changes: Any) -> Any | None:
        """Return the saved processor of a kind, of `options.processor` if given; see `topwork.Base.processor`."""
        if self.options.trust_remote_code:
            changes = {"trust_remote_code": True, **changes}
        if self.options.processor is not None:
            location = _sources.locate(self.options.processor)
            if location is None:
                raise CheckpointError(
                    "timm keeps no processors in its names", place=f"processor {self.options.processor}"
                )
            return _sources.find_processor(location, kind, None, changes)
        if self.location is None:
            return None
        return _sources.find_processor(self.location, kind, self.options.revision, changes)

    def _changed(self, changes: dict[str, Any]) -> Any:
        config = copy.deepcopy(self.config)
        _sources.apply(config, changes)
        return config


def _take_pruned(config: Any, location: str) -> dict[str, Any]:
    """Take out of a config what transformers 4 noted in it as pruned: indices of attention heads by layer index.

    The notes in the configs of parts stand under the names of the parts. transformers 5 would keep the note, build the
    model unpruned and fail on its weights.

    Raises:
        CheckpointError: it cannot be read.
    """
    pruned = getattr(config, "pruned_heads", None)
    if hasattr(config, "pruned_heads"):
        del config.pruned_heads
    try:
        noted = {str(int(layer)): sorted({int(head) for head in heads}) for layer, heads in (pruned or {}).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"`pruned_heads` in config.json is no list of attention heads by layer ({error})", place=location
        ) from error
    inner = {part: getattr(config, part, None) for part in getattr(config, "sub_configs", None) or {}}
    present = {part: section for part, section in inner.items() if section is not None}
    parts = {part: _take_pruned(section, f"{location}, {part}") for part, section in present.items()}
    return {key: heads for key, heads in {**noted, **parts}.items() if heads}


@hookimpl(trylast=True)
def load_base(name: str, options: BaseOptions) -> TransformersBase | None:
    """Open folders with a transformers config, Hub ids, `package:<package>/<folder>`, and `config:<model_type>`.

    Example:
        base: google-bert/bert-base-uncased    # a Hub id, or the path of a folder
        # the same architecture from random weights, smaller:
        # base: {config: {model_type: bert, hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4}}
    """
    from topwork_bases.transformers.quantized import check_quantize

    check_quantize(name, options)
    if options.config is not None:
        config = _sources.make_config(options.config)
        _sources.apply(config, options.changes, strict=True)
        _sources.refuse_uneven(config, f"base {name}")
        return TransformersBase(name, options, None, config)
    location = _sources.locate(name)
    if location is None:
        return None
    if options.weights and not _is_shared_pair(location):
        _refuse_altered(name, location)
    base = _sources.read_config(location, options.revision, options.trust_remote_code)
    if base is None:
        return None
    _sources.apply(base, options.changes, strict=True)
    _sources.refuse_uneven(base, f"base {name}")
    if options.weights:
        _need_safetensors(name, location)
    return TransformersBase(name, options, location, base)


@hookimpl(trylast=True)
def base_opens(name: str, options: BaseOptions) -> bool | None:
    """Return True where a config fits its class without doubt and the weights are there; see `written`."""
    try:
        return _opens(name, options) or None
    except TopworkError:
        return None


def _opens(name: str, options: BaseOptions) -> bool:
    """Return whether a base is opened without doubt.

    Raises:
        TopworkError: it cannot be opened here.
    """
    from topwork_bases.transformers.quantized import check_quantize

    location = None if options.config is not None else _sources.locate(name)
    file = Path(location or "") / "config.json"
    if options.trust_remote_code or not (options.config is not None or (location is not None and file.is_file())):
        return False
    config = _sources.read_json(file) if options.config is None else options.config
    if not _written.surely_fits(config, options.changes, strict=options.config is not None):
        return False
    check_quantize(name, options)
    if location is not None and options.weights:
        if not _is_shared_pair(location):
            _refuse_altered(name, location)
        _need_safetensors(name, location)
    return True


def _refuse_altered(name: str, location: str) -> None:
    if (Path(location) / "topwork.safetensors").is_file():
        raise CheckpointError(
            "is a model of topwork with a task head of its own, or pruned: it is no plain base",
            place=f"base {name}",
            hint="open it with topwork.load(folder) and train on from there, or set `weights: false`",
        )


def _is_shared_pair(location: str) -> bool:
    """Return whether a folder holds an encoder and a decoder that share their weights, and nothing was altered."""
    folder = Path(location)
    config, manifest = (folder / name for name in ("config.json", "topwork.json"))
    if not (config.is_file() and manifest.is_file() and _sources.read_json(config).get("tie_encoder_decoder")):
        return False
    return not _sources.read_json(manifest).get("alterations")


def _need_safetensors(name: str, location: str) -> None:
    folder = Path(location)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        old = sorted(path.name for path in folder.glob("*.bin"))
        raise CheckpointError(
            f"has its weights as pickles only ({', '.join(old)})" if old else "has no weights (model.safetensors)",
            place=f"base {name}",
            hint="save it as safetensors with transformers' save_pretrained"
            if old
            else "set `weights: false` to start from random ones",
        )
