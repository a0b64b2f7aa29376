"""timm's networks behind `Features`, and a new classifier on trained ones.

Parameters keep timm's own names below `backbone.timm_model.`, with maps and without, so that one checkpoint fits both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from topwork import BaseOptions, CheckpointError, Features
from topwork_bases.transformers import modules as _modules
from topwork_bases.transformers.sources import hub_error


def with_new_classifier(location: str, config: Any, options: BaseOptions) -> nn.Module:
    """TimmWrapperForImageClassification with the checkpoint's weights under a classifier with random ones.

    Raises:
        CheckpointError: weights other than the classifier's are missing or have another shape.
    """
    import transformers

    fresh = _modules.from_config("AutoModelForImageClassification", config, options)
    model_class: Any = transformers.TimmWrapperForImageClassification
    try:
        loaded, info = model_class.from_pretrained(
            location,
            config=config,
            revision=options.revision,
            dtype="auto" if options.dtype == "auto" else getattr(torch, options.dtype),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
        )
    except Exception as error:
        raise hub_error(error, location, options.revision) from error
    prefixes = _classifier(loaded)
    wrong = {*(info["missing_keys"] or ()), *(entry[0] for entry in info["mismatched_keys"] or ())}
    wrong = {key for key in wrong if not key.startswith(prefixes)}
    if wrong:
        raise CheckpointError(
            f"{len(wrong)} weights besides the classifier do not fit the checkpoint: {', '.join(sorted(wrong)[:6])}",
            place=f"base {location}",
            hint="is config.json the one that belongs to these weights?",
        )
    new = {key: value for key, value in fresh.state_dict().items() if key.startswith(prefixes)}
    loaded.load_state_dict(new, strict=False)
    return _modules._ready(loaded)


def _classifier(model: Any) -> tuple[str, ...]:
    """Return the names that the classifier's parameters begin with; distilled models have two."""
    names = (model.timm_model.pretrained_cfg or {}).get("classifier") or "head"
    names = (names,) if isinstance(names, str) else tuple(names)
    return tuple(f"timm_model.{name}." for name in names)


def backbone(location: str | None, config: Any, options: BaseOptions, maps: Sequence[int]) -> nn.Module:
    """Return a wrapper around TimmWrapperModel, with the weights at `location` if there is one."""
    if location is None:
        model: Any = _modules.from_config("AutoModel", config, options)
    else:
        model = _modules.from_weights("AutoModel", location, config, options)
    return TimmMaps(model, maps) if maps else TimmTokens(model)


class TimmTokens(nn.Module):
    """A timm network that gives tokens.

    Forward: pixel_values [items, channels, height, width] -> Features with `tokens`, for convolutional networks also
    the last map, and `pooled` where its width is that of the tokens.
    """

    accepts_loss_kwargs = False
    main_input = "pixel_values"

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone = model
        self.config = model.config
        self.width: int = model.timm_model.num_features

    def forward(self, pixel_values: torch.Tensor) -> Features:
        """Return the tokens of images, [items, tokens, width]."""
        network = self.backbone.timm_model
        outputs = network.forward_features(pixel_values.to(self.backbone.dtype))
        pooled = network.forward_head(outputs)
        maps: tuple[torch.Tensor, ...] = ()
        tokens = outputs
        if outputs.dim() == 4:
            channels_last = str(getattr(network, "output_fmt", "NCHW")).endswith("NHWC")
            maps = (outputs.permute(0, 3, 1, 2) if channels_last else outputs,)
            tokens = maps[0].flatten(2).transpose(1, 2)
        same = pooled.dim() == 2 and pooled.shape[1] == self.width
        return Features(tokens=tokens, pooled=pooled if same else None, maps=maps)


class TimmMaps(nn.Module):
    """Forward: pixel_values -> Features with `maps` [items, channels, height, width], finest first.

    Raises:
        CheckpointError: the architecture gives no feature maps, or not so many.
    """

    accepts_loss_kwargs = False
    main_input = "pixel_values"

    def __init__(self, model: Any, maps: Sequence[int]) -> None:
        super().__init__()
        self.backbone = model
        self.config = model.config
        network = model.timm_model
        if not hasattr(network, "forward_intermediates"):
            raise CheckpointError(
                f"timm's {model.config.architecture} gives no feature maps", hint="choose another base"
            )
        self._layers = _layers(network, maps, model.config.architecture)
        self._plain = not _is_pyramid(network)
        shapes, size = self._probe()
        self.map_widths = [shape[1] for shape in shapes]
        self.map_strides = [size // shape[2] for shape in shapes]
        self.width = self.map_widths[-1]

    def _probe(self) -> tuple[list[torch.Size], int]:
        """Return shapes of the maps of an empty image, and its height."""
        channels, height, width = self.config.pretrained_cfg["input_size"]
        parameter = next(self.backbone.parameters())
        image = torch.zeros(1, channels, height, width, device=parameter.device, dtype=parameter.dtype)
        training = self.backbone.training
        with torch.no_grad():
            self.backbone.eval()
            shapes = [entry.shape for entry in self.forward(image).maps]
        self.backbone.train(training)
        return shapes, height

    def forward(self, pixel_values: torch.Tensor) -> Features:
        """Return the maps of images, each [items, channels, height, width]."""
        # a plain transformer's layers are read through its last norm, as transformers' own backbones do
        maps = self.backbone.timm_model.forward_intermediates(
            pixel_values.to(self.backbone.dtype),
            indices=self._layers,
            norm=self._plain,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        return Features(maps=tuple(maps))


def _infos(network: Any) -> list[dict[str, Any]]:
    return list(network.feature_info.info if hasattr(network.feature_info, "info") else network.feature_info)


def _is_pyramid(network: Any) -> bool:
    """Return whether the stages halve the image; a plain transformer keeps its size."""
    return len({info["reduction"] for info in _infos(network)}) > 1


def _layers(network: Any, maps: Sequence[int], name: str) -> list[int]:
    """Return timm's indices of the requested maps: the last stages of a pyramid, or layers at even distances."""
    infos = _infos(network)
    if _is_pyramid(network):
        steps = list(range(len(infos)))[-4:]
    else:
        steps = [max(0, len(infos) * part // 4 - 1) for part in (1, 2, 3, 4)]
    try:
        return sorted({steps[number] for number in maps})
    except IndexError:
        raise CheckpointError(
            f"timm's {name} has {len(steps)} maps, asked for is one of {list(maps)}", code="too_few_maps"
        ) from None
