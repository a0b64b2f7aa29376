"""Inputs for a model, made from the signature of its forward and from its config; mended by what the model says."""

from __future__ import annotations

import inspect
import re
from itertools import combinations
from typing import Any

import torch

ITEMS, TOKENS, IDS = 2, 12, 128


def configs(config: Any) -> list[Any]:
    """The config and all configs in it."""
    from transformers import PreTrainedConfig

    found = [config]
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            found += configs(value)
    return found


def text_config(config: Any) -> Any:
    """Of the config's parts the one that counts tokens: where two do, that of what is read."""
    if not hasattr(config, "get_text_config"):
        return config
    try:
        return config.get_text_config()
    except ValueError:
        return config.get_text_config(encoder=True)


class Feed:
    """What is known while inputs are made."""

    def __init__(self, model: Any, model_type: str) -> None:
        self.model, self.type, self.config = model, model_type, model.config
        self.generator = torch.Generator().manual_seed(1)
        self.names = inspect.signature(model.forward).parameters
        self.all = configs(model.config)
        self.vision = next(
            (c for c in self.all if (c is not self.config and hasattr(c, "patch_size")) or hasattr(c, "image_size")),
            self.config,
        )
        for c in self.all:
            if "vision" in str(getattr(c, "model_type", "")) and hasattr(c, "patch_size"):
                self.vision = c
        self.text = text_config(model.config)

    def get(self, *names: str, default: Any = None) -> Any:
        """The first of these entries that any config has."""
        for config in (self.config, self.vision, *self.all):
            for name in names:
                value = getattr(config, name, None)
                if value is not None and not isinstance(value, bool):
                    return value
        return default

    def randn(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator)

    def image(self) -> tuple[int, int, int]:
        size = getattr(self.vision, "image_size", None) or self.get("image_size", "img_size", "input_size", default=64)
        if isinstance(size, dict):
            size = [size["height"], size["width"]]
        height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
        channels = getattr(self.vision, "num_channels", None) or self.get(
            "num_channels", "in_chans", "in_channels", default=3
        )
        return channels if isinstance(channels, int) else 3, height, width

    def patch(self) -> int:
        size = getattr(self.vision, "patch_size", None) or 8
        return size if isinstance(size, int) else size[-1]


def ids(feed: Feed, length: int = TOKENS) -> torch.Tensor:
    vocabulary = getattr(feed.text, "vocab_size", None) or feed.get("vocab_size", default=20)
    low, high = (3, 30) if vocabulary >= 60 else (0, vocabulary)
    found = torch.randint(low, min(high, vocabulary), (ITEMS, length), generator=feed.generator)
    for config in feed.all:
        for name, value in vars(config).items():
            if re.search(r"(image|audio|video).*(token_id|token_index)$", name) and isinstance(value, int):
                # A placeholder that stands there by chance would want an image.
                found[found == value] = 4 if value != 4 else 5
    return found


def token_mask(length: int = TOKENS) -> torch.Tensor:
    mask = torch.ones(ITEMS, length, dtype=torch.long)
    mask[-1, length * 2 // 3 :] = 0
    return mask


def grid(feed: Feed) -> torch.Tensor:
    return torch.tensor([[1, 4, 4]] * ITEMS)


def pixels(feed: Feed) -> torch.Tensor:
    channels, height, width = feed.image()
    if "image_grid_thw" in feed.names or "grid_thw" in feed.names:
        time = getattr(feed.vision, "temporal_patch_size", None) or getattr(feed.vision, "patch_temporal", None) or 1
        return feed.randn(ITEMS * 16, channels * time * feed.patch() ** 2)
    frames = getattr(feed.config, "num_frames", None)
    if isinstance(frames, int) and feed.config.model_type not in ("siglip",):
        return feed.randn(ITEMS, frames, channels, height, width)
    return feed.randn(ITEMS, channels, height, width)


def mel(feed: Feed) -> torch.Tensor:
    width = feed.get(
        "num_mel_bins", "input_feat_per_channel", "feature_size", "input_dim", "input_feat_size", "n_mels", default=80
    )
    length = feed.get("max_source_positions")
    frames = 2 * length if isinstance(length, int) else 64
    return feed.randn(ITEMS, width, frames)


def past(feed: Feed) -> torch.Tensor:
    length, channels = feed.get("context_length", default=32), feed.get("num_input_channels")
    return feed.randn(ITEMS, length, channels) if channels else feed.randn(ITEMS, length)


def videos(feed: Feed) -> torch.Tensor:
    channels, height, width = feed.image()
    return feed.randn(ITEMS, feed.get("num_frames", default=4), channels, height, width)


def frames_mask(feed: Feed) -> torch.Tensor:
    frames = mel(feed).shape[-1]
    mask = torch.ones(ITEMS, frames, dtype=torch.long)
    mask[-1, frames * 3 // 4 :] = 0
    return mask


def required(feed: Feed, name: str) -> bool:
    return feed.names[name].default is inspect.Parameter.empty


MAKERS: dict[str, Any] = {
    "input_features_mask": frames_mask,
    "feature_attention_mask": frames_mask,
    "mm_token_type_ids": lambda feed: torch.zeros(ITEMS, TOKENS, dtype=torch.long),
    "pixel_values_videos": lambda feed: videos(feed) if required(feed, "pixel_values_videos") else None,
    "high_res_pixel_values": pixels,
    "hidden_states": lambda feed: pixels(feed) if "grid_thw" in feed.names else None,
    "pixel_attention_mask": lambda feed: (
        torch.ones(ITEMS, 16, dtype=torch.long) if "spatial_shapes" in feed.names else None
    ),
    "spatial_shapes": lambda feed: torch.tensor([[4, 4]] * ITEMS),
    "query_embeds": lambda feed: feed.randn(ITEMS, 8, feed.config.hidden_size),
    "past_values": lambda feed: past(feed),
    "past_values_padding": lambda feed: torch.zeros(ITEMS, feed.get("context_length"), dtype=torch.long),
    "freq": lambda feed: torch.zeros(ITEMS, 1, dtype=torch.long),
    "input_ids": ids,
    "attention_mask": lambda feed: token_mask(),
    "decoder_input_ids": ids,
    "pixel_values": pixels,
    "image_grid_thw": grid,
    "grid_thw": grid,
    "input_features": mel,
    "input_values": lambda feed: feed.randn(ITEMS, 4000),
    "bbox": lambda feed: torch.randint(0, 50, (ITEMS, TOKENS, 4), generator=feed.generator).sort(-1).values,
    "pixel_mask": lambda feed: pixel_mask(feed),
}


def pixel_mask(feed: Feed) -> torch.Tensor:
    _, height, width = feed.image()
    mask = torch.ones(ITEMS, height, width, dtype=torch.long)
    mask[-1, :, width * 3 // 4 :] = 0
    return mask


def inputs_for(model: Any, model_type: str) -> dict[str, Any]:
    """Keyword arguments with which the model runs."""
    feed = Feed(model, model_type)
    found: dict[str, Any] = {}
    for name in feed.names:
        maker = MAKERS.get(name)
        value = maker(feed) if maker else None
        if value is not None:
            found[name] = value
    if "input_ids" not in found and "query_embeds" not in found:
        found.pop("attention_mask", None)
    from architectures.passes import with_passes
    from architectures.special_inputs import SPECIAL

    found.update(SPECIAL[model_type](feed) if model_type in SPECIAL else {})
    found = {name: value for name, value in found.items() if value is not None}
    if "use_cache" in feed.names:
        found["use_cache"] = False
    first: Exception | None = None
    for ways in [(), *combinations(WAYS, 1)]:
        if any(name not in found or not isinstance(found[name], torch.Tensor) for name, _ in ways):
            continue
        tried = dict(found)
        try:
            for name, change in ways:
                tried[name] = change(tried[name])
            return attempt(feed, with_passes(feed, tried))
        except Exception as error:
            first = first or error
    assert first
    raise first


#: other shapes in which an input may be wanted
WAYS: list[tuple[str, Any]] = [
    ("input_features", lambda x: x.transpose(1, 2)),
    ("input_values", lambda x: x[:, None]),
    ("input_values", lambda x: x[:, : 64 * 16].reshape(ITEMS, 64, 16)),
    ("pixel_values", lambda x: x[:, None]),
    ("pixel_values", lambda x: x.reshape(ITEMS, -1, *x.shape[1:])),
    ("input_features", lambda x: x.transpose(1, 2)[:, None]),
]


def attempt(feed: Feed, found: dict[str, Any], depth: int = 0) -> dict[str, Any]:
    """Run the model, adding the placeholders for images and sounds that it asks for."""
    try:
        with torch.no_grad():
            feed.model(**found)
        return found
    except Exception as error:
        message = str(error)
        count = re.search(r"tokens: (?P<tokens>\d+), features:? (?P<features>\d+)", message)
        count = count or re.search(r"Got (?P<features>\d+) feature vectors for (?P<tokens>\d+)", message)
        if not count or "input_ids" not in found or depth > 3:
            raise
        missing = int(count["features"]) - int(count["tokens"])
        # Some count tokens, some numbers.
        last = error
        for each in (missing, missing // (getattr(feed.text, "hidden_size", 0) or 1)):
            if 0 < each <= 2000 and each % ITEMS == 0:
                trial = dict(found)
                if more_tokens(feed, trial, message, each):
                    try:
                        return attempt(feed, trial, depth + 1)
                    except Exception as another:
                        last = another
        raise last from None


def more_tokens(feed: Feed, found: dict[str, Any], message: str, features: int) -> bool:
    kind = "audio" if "udio" in message else "video" if "ideo" in message else "image"
    token = feed.get(f"{kind}_token_id", f"{kind}_token_index")
    if token is None:
        return False
    each = features // ITEMS
    rows = found["input_ids"]
    extra = torch.full((ITEMS, each), token)
    found["input_ids"] = torch.cat([rows[:, :2], extra, rows[:, 2:]], 1)
    if "attention_mask" in found:
        mask = found["attention_mask"]
        found["attention_mask"] = torch.cat([mask[:, :2], torch.ones(ITEMS, each, dtype=mask.dtype), mask[:, 2:]], 1)
    if "mm_token_type_ids" in found:
        found["mm_token_type_ids"] = (found["input_ids"] == token).long()
    return True
