"""Tokens of a text that stand for images, videos or sounds: as many as the model makes of what it is given.

Entry point: `with_placeholders`. A model of transformers that reads texts and images names the token in its config
(`image_token_id`) and makes the features in a method (`get_image_features`); a text without enough of these tokens is
refused by the model, and one without images leaves the layers that read them out.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from topwork_lens.model_state import quiet, text_config
from topwork_lens.pruning.made_inputs.sizes import Sizes

_KINDS = {"image": "pixel_values", "video": "pixel_values_videos", "audio": "input_features"}
#: what `mm_token_type_ids` says of a token of each kind; 0 of texts
_TYPES = {"image": 1, "video": 2, "audio": 3}
_MOST_TOKENS = 4096


def with_placeholders(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the inputs with tokens for what they hold beside texts; None where nothing is to be added.

    Args:
        model: of transformers.
        inputs: keyword arguments of forward, rows of equal length.
    """
    ids, config = inputs.get("input_ids"), getattr(model, "config", None)
    if not isinstance(ids, torch.Tensor) or ids.dim() != 2 or config is None:
        return None
    result, sizes = dict(inputs), Sizes(config)
    for kind, name in _KINDS.items():
        token = next(iter(sizes.all(f"{kind}_token_id", f"{kind}_token_index")), None)
        if token is None or name not in inputs:
            continue
        count = _count(model, kind, inputs)
        if count is None or count % len(ids) or not 0 < count // len(ids) <= _MOST_TOKENS:
            continue
        _insert(result, token, count // len(ids))
        if "mm_token_type_ids" in inspect.signature(model.forward).parameters:
            types = result.get("mm_token_type_ids", torch.zeros_like(result["input_ids"]))
            result["mm_token_type_ids"] = types.masked_fill(result["input_ids"] == token, _TYPES[kind])
    return result if result["input_ids"] is not ids else None


def _insert(inputs: dict[str, Any], token: int, count: int) -> None:
    """Put tokens behind the first two of each row; what goes along the tokens grows with them."""
    length = inputs["input_ids"].shape[1]
    fillers = {"input_ids": token, "attention_mask": 1, "mm_token_type_ids": 0, "token_type_ids": 1}
    for name, filler in fillers.items():
        tensor = inputs.get(name)
        if isinstance(tensor, torch.Tensor) and tensor.dim() == 2 and tensor.shape[1] == length:
            added = torch.full((len(tensor), count), filler, dtype=tensor.dtype, device=tensor.device)
            inputs[name] = torch.cat([tensor[:, :2], added, tensor[:, 2:]], 1)


def _count(model: nn.Module, kind: str, inputs: Mapping[str, Any]) -> int | None:
    """Return how many tokens the features of all rows take; None where the model does not make them by a method."""
    method = next(
        (
            getattr(owner, f"get_{kind}_features")
            for owner in (model, getattr(model, "model", None))
            if callable(getattr(owner, f"get_{kind}_features", None))
        ),
        None,
    )
    width = getattr(text_config(model.config), "hidden_size", None)
    if method is None or not isinstance(width, int):
        return None
    takes = inspect.signature(method).parameters
    given = {name: value for name, value in inputs.items() if name in takes and name != "attention_mask"}
    with suppress(Exception), quiet(model):
        features = method(**given)
        pooled = getattr(features, "pooler_output", None)
        return _numbers(features if pooled is None else pooled) // width
    return None


def _numbers(features: Any) -> int:
    if isinstance(features, torch.Tensor):
        return features.numel()
    return sum(_numbers(part) for part in features if part is not None)
