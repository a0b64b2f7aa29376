"""Small files in the layouts that people have, and how a recipe's `path` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

import topwork
from topwork import RowsOptions

PLUGINS = topwork.load_plugins()


def load(path: Any, **options: Any) -> Any:
    """Return the rows of a path, as options of a role read them."""
    return PLUGINS.load_rows(RowsOptions(path=str(path), **options))


def write(path: Path, content: str | bytes) -> Path:
    """Write a file, and the folders that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def image(path: Path, size: tuple[int, int] = (20, 10), value: int = 0) -> Path:
    """Write a grey image of one value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)
    return path
