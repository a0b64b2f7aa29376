"""What a stage left that trackers keep: its tables, predictions and images.

Entry points: `as_table`, `predictions_of`, `captions_of`, `images`; `markdown` writes a table for people.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from topwork import Json

#: of one table, and of the images of one stage
MOST_ROWS, MOST_IMAGES = 50, 16


def images(folder: Path) -> list[Path]:
    """Return the first images that a stage left in its folder, sorted by name."""
    files = (file for pattern in ("*.png", "*.jpg", "*/*.png", "*/*.jpg") for file in folder.glob(pattern))
    return sorted(files)[:MOST_IMAGES]


def captions_of(folder: Path) -> dict[str, str]:
    """Return the captions of a stage's pictures, by their paths in its folder."""
    pictures = _read(folder / "pictures.json", list)
    return {
        str(picture["image"]): str(picture.get("caption") or "")
        for picture in pictures
        if isinstance(picture, Mapping) and picture.get("image")
    }


def predictions_of(folder: Path) -> list[dict[str, Json]]:
    """Return the predictions that a stage listed, in the order of its file: row, and truth, prediction and such."""
    listed = _read(folder / "predictions.json", dict).get("predictions") or []
    return [
        {"row": entry.get("row"), **(entry.get("facts") or {"prediction": entry.get("caption")})} for entry in listed
    ]


def _read(file: Path, kind: type) -> Any:
    """Return what a file of a stage holds, empty where it is missing or of another kind."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return kind()
    return content if isinstance(content, kind) else kind()


def as_table(content: Json) -> tuple[list[str], list[list[Json]]] | None:
    """Return columns and rows of a table of a result; None of anything that is not one, such as a text.

    Args:
        content: a list of dicts, {"columns", "rows"}, or a confusion matrix {"labels", "counts"}.
    """
    if isinstance(content, Mapping) and {"labels", "counts"} <= set(content):
        labels = [str(label) for label in content["labels"]]
        return ["", *labels], [[label, *counts] for label, counts in zip(labels, content["counts"], strict=False)]
    if isinstance(content, Mapping) and isinstance(content.get("rows"), list):
        return [str(name) for name in content.get("columns") or ()], [list(row) for row in content["rows"]]
    if isinstance(content, Mapping) and content:
        return ["name", "value"], [[str(name), value] for name, value in content.items()]
    if isinstance(content, list) and content and all(isinstance(line, Mapping) for line in content):
        columns = list(dict.fromkeys(str(name) for line in content for name in line))
        return columns, [[line.get(name, "") for name in columns] for line in content]
    return None


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Json]]) -> str:
    """Return the first rows of a table as Markdown."""
    lines = [columns, ["---"] * len(columns), *rows[:MOST_ROWS]]
    text = "\n".join(f"| {' | '.join(cell(value) for value in line)} |" for line in lines)
    return text if len(rows) <= MOST_ROWS else f"{text}\n\n{len(rows) - MOST_ROWS} more rows"


def cell(value: Any) -> str:
    """Return a value as one cell of a Markdown table."""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
