"""Bases from timm: `timm/<name>`, `config: {model_type: timm_wrapper, architecture: <name>}`, and folders with one.

They go through transformers' TimmWrapper, so that what is trained loads in plain transformers too. With
`weights: false` everything comes from timm's own registry and nothing from the network.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork import CheckpointError, UsageError, hookimpl, nearest
from topwork_bases.transformers import sources as _sources
from topwork_bases.transformers.base import TransformersBase

if TYPE_CHECKING:
    from torch import nn

    from topwork import BaseOptions, Json

#: entries of a config.json of timm, or added here, that TimmWrapperConfig does not list
_EXTRA = ("pretrained_cfg", "image_size", "num_channels", "num_labels", "num_features", "global_pool")


class TimmBase(TransformersBase):
    """A base of timm; what it shares with transformers' bases stands there.

    `config.image_size` is the height and width in pixels that the network takes, whatever timm calls it.
    """

    @property
    def origin(self) -> dict[str, Json]:
        """What makes the same architecture again; see `topwork.Base.origin`."""
        return {**super().origin, "kind": "timm"}

    def _has_trained_head(self, auto: Sequence[str]) -> bool:
        return "AutoModelForImageClassification" in auto and self.config.num_labels > 0

    def native(self, *auto: str, weights: bool = True, **changes: Any) -> nn.Module | None:
        """Return timm's classifier as transformers wraps it; with `head: new` its last layer starts anew."""
        loads = weights and not self.scratch and "AutoModelForImageClassification" in auto
        if not loads or (self.options.head == "keep" and self.config.num_labels > 0):
            return super().native(*auto, weights=weights, **changes)
        from topwork_bases.timm import modules as _timm

        return _timm.with_new_classifier(str(self.location), self._changed(changes), self.options)

    def backbone(self, *, weights: bool = True, maps: Sequence[int] = (), **changes: Any) -> nn.Module:
        """Return the network without its classifier.

        Tokens are those of the last layer (class tokens included), or the last map's pixels; `maps` are stages, or
        layers at even distances of a plain vision transformer.
        """
        from topwork_bases.timm import modules as _timm

        location = str(self.location) if weights and not self.scratch else None
        return _timm.backbone(location, self._changed(changes), self.options, maps)

    def processor(self, kind: str, **changes: Any) -> Any | None:
        """Return the saved image processor of a folder, else that of the weights' training; None from scratch."""
        if self.options.processor is not None:
            return super().processor(kind, **changes)
        if kind != "image_processor":
            return None
        if self.location is not None and Path(self.location).is_dir():
            # the file is named: for folders of timm, transformers would otherwise look into config.json only
            name = {"image_processor_filename": "preprocessor_config.json"}
            saved = _sources.find_processor(str(self.location), kind, None, {**name, **changes})
            if saved is not None:
                return saved
        details = getattr(self.config, "pretrained_cfg", None)
        if self.location is None or not details:
            return None
        from transformers import TimmWrapperImageProcessor

        return TimmWrapperImageProcessor(pretrained_cfg={**details, **changes}, architecture=self.config.architecture)


@hookimpl
def load_base(name: str, options: BaseOptions) -> TimmBase | None:
    """Open `timm/<name>`, `config:timm_wrapper`, or a folder whose config.json is one of timm's; None otherwise.

    Example:
        base: timm/vit_tiny_patch16_224.augreg_in21k
    """
    if options.config is not None:
        if options.config["model_type"] != "timm_wrapper":
            return None
        _refuse_quantised(name, options)
        return TimmBase(name, options, None, _finish(_from_values(options.config, strict=True), options))
    if name.startswith("timm/"):
        _refuse_quantised(name, options)
        return _from_name(name, options)
    folder = Path(_sources.locate(name) or "") if name.startswith("package:") else Path(name).expanduser()
    if not (folder / "config.json").is_file():
        return None
    raw = _sources.read_json(folder / "config.json")
    if raw.get("model_type", "timm_wrapper") != "timm_wrapper" or "architecture" not in raw:
        return None
    _refuse_quantised(name, options)
    if options.weights:
        _check_weights(name, folder)
    return TimmBase(name, options, str(folder), _finish(_from_values(raw), options))


def _refuse_quantised(name: str, options: BaseOptions) -> None:
    if options.quantize is not None:
        cause = "networks of timm are not quantised"
        raise UsageError(cause, place=f"base {name}: quantize", hint="leave `quantize` out")


def _from_name(name: str, options: BaseOptions) -> TimmBase:
    """Open `timm/<architecture>` or `timm/<architecture>.<tag>`."""
    import timm

    model = name.removeprefix("timm/")
    architecture = model.split(".")[0]
    _check_architecture(architecture, f"base {name}")
    tags = timm.list_pretrained(f"{architecture}.*")
    if "." in model and model not in tags:
        raise UsageError(
            f"timm knows no weights `{model}`{nearest(model, tags)}",
            place=f"base {name}",
            hint=f"it knows: {', '.join(tags) or 'none'}",
        )
    known = timm.get_pretrained_cfg(model)
    if not options.weights:
        values = {"architecture": architecture, "pretrained_cfg": known.to_dict() if known else {}}
        return TimmBase(name, options, None, _finish(_from_values(values), options))
    location = name if "." in model else known and known.hf_hub_id
    if not location:
        raise UsageError("timm has no weights on the Hub for it", place=f"base {name}", hint="set `weights: false`")
    file = _sources.find_file(location, "config.json", options.revision)
    if file is None:
        raise CheckpointError(
            f"`{location}` is not in the local cache and has no config.json on the Hub within reach",
            place=f"base {name}",
            hint=f"fetch it once online (`hf download {location}`), or set `weights: false`",
        )
    return TimmBase(name, options, location, _finish(_from_values(_sources.read_json(file)), options))


def _check_architecture(architecture: str, location: str) -> None:
    import timm

    if not timm.is_model(architecture):
        raise UsageError(
            f"timm has no model `{architecture}`{nearest(architecture, timm.list_models())}",
            place=location,
            hint="timm.list_models() names them all",
        )


def _check_weights(name: str, folder: Path) -> None:
    if (folder / "topwork.safetensors").is_file():
        raise CheckpointError(
            "is a model of topwork with a task head of its own, or pruned: it is no plain base",
            place=f"base {name}",
            hint="open it with topwork.load(folder) and train on from there, or set `weights: false`",
        )
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError("has no weights (model.safetensors)", place=f"base {name}", hint="set `weights: false`")


def _from_values(values: dict[str, Any], strict: bool = False) -> Any:
    """Make a TimmWrapperConfig from the entries of a recipe, or of a config.json of transformers or of timm."""
    from transformers import TimmWrapperConfig

    values = {key: value for key, value in copy.deepcopy(values).items() if key not in ("model_type", "label2id")}
    location = "base config:timm_wrapper"
    if "architecture" not in values:
        raise UsageError("`architecture` is missing", place=location, hint="name a model of timm, such as resnet18")
    _check_architecture(values["architecture"], location)
    numbered = values.pop("id2label", None)
    if numbered:
        values["label_names"] = [str(numbered[key]) for key in sorted(numbered, key=int)]
    known = {*TimmWrapperConfig().to_dict(), *_EXTRA}
    for key in values if strict else ():
        if key not in known:
            raise UsageError(f"`config.{key}` is no entry of TimmWrapperConfig{nearest(key, known)}", place=location)
    count = values.pop("num_labels", None) or len(values.get("label_names") or ()) or None
    details = values.get("pretrained_cfg") or {}
    values.setdefault("num_classes", count or details.get("num_classes") or 2)
    return TimmWrapperConfig.from_dict(values)


def _finish(config: Any, options: BaseOptions) -> Any:
    """Apply the recipe's changes; set one input size, and all that the image processor needs to be made again."""
    import timm

    changes = dict(options.changes)
    arguments = changes.pop("model_args", None)
    if arguments is not None:
        config.model_args = {**(config.model_args or {}), **arguments}
    _sources.apply(config, changes, strict=True)
    details = getattr(config, "pretrained_cfg", None)
    if not details:
        known = timm.get_pretrained_cfg(config.architecture, allow_unregistered=True)
        details = known.to_dict() if known else {}
    details = {key: value for key, value in details.items() if key != "num_classes"}
    channels, height, width = details.get("input_size") or (3, 224, 224)
    arguments = config.model_args or {}
    requested = arguments.get("img_size")
    height, width = (requested, requested) if isinstance(requested, int) else requested or (height, width)
    channels = arguments.get("in_chans", channels)
    if [channels, height, width] != list(details.get("input_size") or ()):
        details.update(input_size=[channels, height, width], crop_pct=1.0)
    config.pretrained_cfg = json.loads(json.dumps(details))
    config.image_size = height if height == width else [height, width]
    config.num_channels = channels
    return config
