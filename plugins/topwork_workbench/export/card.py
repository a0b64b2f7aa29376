"""Card of an exported folder: what the card of its model says of data, metrics, removals, seed and recipe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from topwork import write_text

CARD = "README.md"
#: all up to the end of the first fenced block, which says how the folder is loaded
_HEAD = re.compile(r"\A.*?^```\w*\n.*?^```\n", re.DOTALL | re.MULTILINE)


def copy_facts(source: Path, card: Path) -> None:
    """Give the card of an exported folder the facts of its model's card; nothing changes where that has none.

    Args:
        source: card of the model.
        card: card of the exported folder, which keeps its own text on what the folder is and how it is loaded.
    """
    from huggingface_hub import ModelCard

    if not source.is_file():
        return
    model, exported = (
        ModelCard(file.read_text(encoding="utf-8"), ignore_metadata_errors=True) for file in (source, card)
    )
    facts, head = _HEAD.match(model.text), _HEAD.match(exported.text)
    if facts is None or head is None:  # somebody has written another card
        return
    data: Any = model.data  # of a class that does not list its entries
    data.library_name = exported.data.get("library_name")
    write_text(card, f"---\n{data.to_yaml()}\n---\n{head[0].lstrip()}{model.text[facts.end() :]}")
