"""Backbones of transformers behind one answer: `Features` (tokens, their mask, the pooled vector, feature maps).

What differs between architectures and must not reach a task head is settled here: masks after strided convolutions,
maps of convolutional networks as tokens, class tokens and registers of vision transformers, which hidden states make a
pyramid. The wrapped network's parameters are called `backbone.<its own names>`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES

from topwork import CheckpointError, Features

_WIDTHS = ("hidden_size", "d_model", "dim", "n_embd", "hidden_dim", "num_features")
_LAST_WIDTHS = ("hidden_sizes", "embed_dim", "embed_dims", "neck_hidden_sizes")


def width_of(config: Any) -> int:
    """Return the width of the last hidden states that a config describes."""
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    if getattr(config, "add_adapter", False) and getattr(config, "output_hidden_size", None):
        return int(config.output_hidden_size)
    for name in _LAST_WIDTHS:
        value = getattr(config, name, None)
        if isinstance(value, list | tuple) and value:
            return int(value[-1])
    for name in _WIDTHS:
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    raise CheckpointError(f"the width of a `{config.model_type}` backbone is not known", hint="use a native task head")


def choose_stages(config: Any, maps: Sequence[int]) -> None:
    """Make an `AutoBackbone` config answer the stages of a pyramid; of a plain transformer, evenly spaced layers."""
    names = list(config.stage_names)
    stages = [number for number, name in enumerate(names) if name != "stem"]
    config.out_indices = sorted(_pick(stages, maps, hierarchical=_hierarchical(config)))


def _hierarchical(config: Any) -> bool:
    return any(
        isinstance(getattr(config, name, None), list | tuple) for name in ("hidden_sizes", "depths", "embed_dims")
    )


def _pick(stages: Sequence[int], maps: Sequence[int], hierarchical: bool) -> list[int]:
    """Return indices of the requested maps: stages, or four layers at even distances of a plain transformer."""
    steps = list(stages) if hierarchical else [stages[max(0, (len(stages) * part) // 4 - 1)] for part in (1, 2, 3, 4)]
    try:
        return list(dict.fromkeys(steps[number] for number in maps))
    except IndexError:
        raise CheckpointError(
            f"the backbone has {len(steps)} maps, asked for is one of {list(maps)}", code="too_few_maps"
        ) from None


def wrap(model: Any, maps: Sequence[int]) -> nn.Module:
    """Return the wrapper that fits a bare model."""
    if maps:
        return MapBackbone(model, maps)
    if getattr(model.config, "is_encoder_decoder", False) and hasattr(model, "get_encoder"):
        return Backbone(model.get_encoder(), model.config)
    return Backbone(model, model.config)


class Backbone(nn.Module):
    """Tokens, mask and pooled vector of a bare transformers model.

    Args:
        model: the bare model, or the encoder of an encoder-decoder.
        config: its config.

    Forward takes the model's own inputs by name and answers `Features`; the mask is `attention_mask` where tokens are
    its positions, and what is left of it after strided convolutions (speech).
    """

    accepts_loss_kwargs = False

    def __init__(self, model: Any, config: Any) -> None:
        super().__init__()
        self.backbone = model
        self.config = config
        self.main_input: str = model.main_input_name
        if config.model_type in MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES:
            cause = f"`{config.model_type}` is a network for texts and one for images, with no hidden states in common"
            raise CheckpointError(cause, hint="choose one of the two, or another base")
        self.width = width_of(config)
        self._caches = "use_cache" in inspect.signature(model.forward).parameters
        self._masks = "attention_mask" in inspect.signature(model.forward).parameters

    def forward(self, **inputs: Any) -> Features:
        """Return tokens [items, tokens, width], their mask, the pooled vector and the last map, as far as there are."""
        mask = inputs.get("attention_mask")
        if mask is not None and not self._masks:
            inputs = {name: value for name, value in inputs.items() if name != "attention_mask"}
        outputs = self.backbone(**inputs, **({"use_cache": False} if self._caches else {}))
        tokens = outputs.last_hidden_state
        maps: tuple[torch.Tensor, ...] = ()
        if tokens.dim() == 4 and tokens.shape[1] != self.width == tokens.shape[3]:  # patches of several series
            tokens = tokens.flatten(1, 2)
        if tokens.dim() == 4:  # a convolutional network
            maps = (tokens,)
            tokens = tokens.flatten(2).transpose(1, 2)
        pooled = getattr(outputs, "pooler_output", None)
        return Features(tokens, self._token_mask(mask, tokens), None if pooled is None else pooled.flatten(1), maps)

    def _token_mask(self, mask: torch.Tensor | None, tokens: torch.Tensor) -> torch.Tensor | None:
        if mask is None or mask.shape[1] == tokens.shape[1]:
            return mask
        after = getattr(self.backbone, "_get_feature_vector_attention_mask", None)
        if after is not None:
            return after(tokens.shape[1], mask).to(mask.dtype)
        if mask.shape[1] == 2 * tokens.shape[1]:  # whisper halves the frames
            return mask[:, ::2]
        raise CheckpointError(
            f"{type(self.backbone).__name__} makes {tokens.shape[1]} tokens of {mask.shape[1]} positions, "
            "in a way that is not known"
        )


class MapBackbone(nn.Module):
    """Feature maps of an `AutoBackbone`, or of a plain vision transformer whose tokens tile the image.

    Forward answers `Features` with `maps`, finest first, and with the tokens when the model gives them.
    """

    accepts_loss_kwargs = False

    def __init__(self, model: Any, maps: Sequence[int]) -> None:
        super().__init__()
        self.backbone = model
        self.config = model.config
        self.main_input: str = model.main_input_name
        if self.main_input != "pixel_values":
            cause = f"`{self.config.model_type}` is no network for images"
            raise CheckpointError(cause, hint="choose another base")
        self._is_auto = hasattr(model, "channels") and hasattr(model, "out_features")
        self._maps = tuple(maps)
        probe = self._probe()
        self.map_widths = [entry.shape[1] for entry in probe[1]]
        self.map_strides = [probe[0] // entry.shape[-1] for entry in probe[1]]
        self.width = self.map_widths[-1]

    def _probe(self) -> tuple[int, Sequence[torch.Tensor]]:
        """Return the size of an empty image and its maps: configs have no common name for their widths and strides."""
        size = getattr(self.config, "image_size", None) or 64
        size = size[0] if isinstance(size, list | tuple) else size
        parameter = next(self.backbone.parameters())
        image = torch.zeros(1, getattr(self.config, "num_channels", 3), size, size, dtype=parameter.dtype)
        training = self.backbone.training
        with torch.no_grad():
            outputs = self.backbone.eval() and self.forward(pixel_values=image.to(parameter.device)).maps
        self.backbone.train(training)
        return size, outputs

    def forward(self, pixel_values: torch.Tensor, **inputs: Any) -> Features:
        """Return the maps of images, each [items, channels, height, width], and the tokens of a plain transformer."""
        if self._is_auto:
            return Features(maps=tuple(self.backbone(pixel_values=pixel_values, **inputs).feature_maps))
        outputs = self.backbone(pixel_values=pixel_values, output_hidden_states=True, **inputs)
        states = [*outputs.hidden_states[:-1], outputs.last_hidden_state]
        if _hierarchical(self.config):
            by_size = {entry.shape[1:]: entry for entry in (self._as_map(state, pixel_values) for state in states)}
            pyramid = list({entry.shape[-2:]: entry for entry in by_size.values()}.values())
            maps = [pyramid[number] for number in _pick(range(len(pyramid)), self._maps, hierarchical=True)]
        else:
            layers = _pick(range(1, len(states)), self._maps, hierarchical=False)
            maps = [self._as_map(states[layer], pixel_values) for layer in layers]
        tokens = outputs.last_hidden_state
        return Features(tokens=tokens if tokens.dim() == 3 else None, maps=maps)

    def _as_map(self, tokens: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        if tokens.dim() == 4:
            return tokens
        if _hierarchical(self.config):
            rows = columns = math.isqrt(tokens.shape[1])
        else:
            patch = self.config.patch_size
            high, wide = (patch, patch) if isinstance(patch, int) else (patch[0], patch[1])
            rows, columns = pixels.shape[-2] // high, pixels.shape[-1] // wide
        behind = getattr(self.config, "num_detection_tokens", 0)  # yolos puts these at the end
        before = tokens.shape[1] - behind - rows * columns  # class tokens and registers stand in front
        if before < 0:
            raise CheckpointError(f"the tokens of {type(self.backbone).__name__} do not tile its images")
        patches = tokens[:, before : before + rows * columns]
        return patches.transpose(1, 2).reshape(tokens.shape[0], -1, rows, columns)
