"""Sizes of inputs, by the names that configs of transformers have for them.

Entry point: `Sizes`.
"""

from __future__ import annotations

from typing import Any, TypeGuard

from topwork_lens.model_state import text_config


class Sizes:
    """Sizes that a config and the configs in it name.

    Args:
        config: of the model.
    """

    def __init__(self, config: Any) -> None:
        self.config, self.parts = config, _configs(config)
        self.text = text_config(config)
        described = [part for part in self.parts if hasattr(part, "image_size") or hasattr(part, "patch_size")]
        # A part of its own describes images better than the whole.
        self.vision = next((part for part in described if part is not config), described[0] if described else config)

    def all(self, *names: str) -> list[int]:
        """Return all sizes of these names, those of the whole config first, each once."""
        values = [getattr(part, name, None) for part in self.parts for name in names]
        return list(dict.fromkeys(value for value in values if _is_size(value)))

    def first(self, *names: str, default: int) -> int:
        """Return the first of these sizes."""
        return next(iter(self.all(*names)), default)

    @property
    def image(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        size: Any = None
        for part in (self.vision, *self.parts):
            for name in ("image_size", "img_size", "input_size"):
                size = size or getattr(part, name, None)
        if isinstance(size, dict):
            size = (size.get("height"), size.get("width"))
        height, width = (size, size) if _is_size(size) else tuple(size or (64, 64))[-2:]
        return self.first("num_channels", "in_chans", "in_channels", default=3), height, width

    @property
    def patch(self) -> int:
        """Height of a patch."""
        size: Any = getattr(self.vision, "patch_size", None) or 8
        return size if _is_size(size) else int(list(size)[-1])

    @property
    def vocabulary(self) -> int:
        """Number of tokens that a text may have, without those at its end, which often stand for something else."""
        sizes = self.all("vocab_size", "text_vocab_size")
        text: Any = getattr(self.text, "vocab_size", None)
        return text if _is_size(text) else min(sizes, default=10)


def _configs(config: Any) -> list[Any]:
    """Return the config and all configs in it."""
    inner = [value for value in vars(config).values() if hasattr(value, "model_type") and hasattr(value, "to_dict")]
    return [config, *(part for value in inner for part in _configs(value))]


def _is_size(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
