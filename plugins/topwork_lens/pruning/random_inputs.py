"""A small random batch for any model, with padding where the model knows padding: what the self-check of pruning runs
on when the caller gives no batch of their own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from topwork_lens.refusals import refuse

_ITEMS, _TOKENS, _SAMPLES, _FRAMES = 2, 12, 4000, 200


def probe_inputs(model: nn.Module) -> dict[str, Any]:
    """Keyword arguments for `model.forward`.

    Raises:
        Refused: nothing is known about the inputs of this model.
    """
    generator = torch.Generator().manual_seed(0)
    config: Any = getattr(model, "config", None)
    main = getattr(model, "main_input_name", None)
    device = next(model.parameters()).device
    dtype = next(model.parameters()).dtype
    if config is None or main is None:
        inputs = _image_model(model, generator)
    elif main == "pixel_values":
        frames = (config.num_frames,) if isinstance(getattr(config, "num_frames", None), int) else ()
        inputs = {main: torch.randn(_ITEMS, *frames, *_image_shape(config), generator=generator)}
    elif main == "input_values":
        inputs = {main: torch.randn(_ITEMS, _SAMPLES, generator=generator)}
    elif main == "input_features":
        width = _number(config, "num_mel_bins", "feature_size", "input_feat_per_channel", default=80)
        inputs = {main: torch.randn(_ITEMS, width, _frames(config), generator=generator)}
    elif main == "input_ids":
        inputs = _tokens(config, generator)
    else:
        raise _unknown(model)
    if hasattr(config, "vision_config") and "pixel_values" in inspect.signature(model.forward).parameters:
        inputs.setdefault("pixel_values", torch.randn(_ITEMS, *_image_shape(config.vision_config), generator=generator))
    if getattr(config, "is_encoder_decoder", False) and main != "pixel_values":
        inputs["decoder_input_ids"] = _tokens(config, generator)["input_ids"]
    moved = {name: value.to(device) for name, value in inputs.items()}
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in moved.items()}


def _unknown(model: nn.Module) -> Exception:
    return refuse(
        "check_failed",
        f"cannot make a batch to check the pruning of {type(model).__name__} with",
        hint="give one: prune_heads(heads, check=batch)",
    )


def _number(config: Any, *names: str, default: int) -> int:
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return default


def _tokens(config: Any, generator: torch.Generator) -> dict[str, torch.Tensor]:
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    vocabulary = _number(text, "vocab_size", default=10)
    ids = torch.randint(0, vocabulary, (_ITEMS, _TOKENS), generator=generator)
    pad = getattr(text, "pad_token_id", None)
    ids = torch.where(ids == pad, (ids + 1) % vocabulary, ids) if isinstance(pad, int) else ids
    mask = torch.ones(_ITEMS, _TOKENS, dtype=torch.long)
    if isinstance(pad, int) and 0 <= pad < vocabulary:
        mask[-1, _TOKENS * 2 // 3 :] = 0
        ids = ids.masked_fill(mask == 0, pad)
    return {"input_ids": ids, "attention_mask": mask}


def _image_shape(config: Any) -> tuple[int, int, int]:
    size = getattr(config, "image_size", None) or 64
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    return _number(config, "num_channels", "in_chans", default=3), height, width


def _frames(config: Any) -> int:
    positions = getattr(config, "max_source_positions", None)
    return 2 * positions if isinstance(positions, int) else _FRAMES


def _image_model(model: nn.Module, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Models without a transformers config: those of timm carry the shape of their input."""
    found: Any = model
    shape = None
    if isinstance(getattr(found, "pretrained_cfg", None), Mapping):
        shape = tuple(found.pretrained_cfg.get("input_size") or ()) or None
    size = getattr(getattr(found, "patch_embed", None), "img_size", None)
    if shape and size:
        shape = (shape[0], *size)
    name = next(iter(inspect.signature(model.forward).parameters), None)
    if shape is None or name is None:
        raise _unknown(model)
    return {name: torch.randn(_ITEMS, *shape, generator=generator)}
