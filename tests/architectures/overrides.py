"""What the rules of `shrink.py` get wrong, by model type: data. Keys are paths of config entries; "drop" keeps the
architecture's own default."""

from __future__ import annotations

from typing import Any

OVERRIDES: dict[str, dict[str, Any]] = {}

#: the level of `Shrinker` that works, where it is not the first
LEVELS: dict[str, int] = {}
