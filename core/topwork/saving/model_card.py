"""The README.md of a model folder: what the model is, how to load it, what it reached, for people and for the Hub."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from topwork.items import Json
from topwork.saving.alterations import alterations

if TYPE_CHECKING:
    from topwork.saving.parts import TaskParts

#: entries of a list that the card shows
_LISTED = 100


def model_card(work: TaskParts, plainly: bool, numbers: Mapping[str, Json], program: str | None = None) -> str:
    """Return the README.md of a model folder, with the Hub's front matter.

    Args:
        work: the task and its model.
        plainly: plain transformers can load the model.
        numbers: metric -> value.
        program: the format, where the folder holds an exported program in the place of weights.
    """
    import yaml

    task = work.task
    origins = work.origins or {role: {"origin": base.origin} for role, base in task.bases.items()}
    origin = next(iter(origins.values()))["origin"]
    front: dict[str, Json] = {
        "library_name": "transformers" if plainly else "topwork",
        "pipeline_tag": task.name,
        "tags": ["topwork"],
    }
    named = str(origin.get("model") or "")
    if named and not named.startswith("./") and not Path(named).exists():
        front["base_model"] = named
    lines = [f"---\n{yaml.safe_dump(front, sort_keys=False)}---", f"# {task.name}", ""]
    count = sum(parameter.numel() for parameter in work.model.parameters())
    lines.append(f"{type(work.model).__name__}, {count:,} parameters, made with topwork.")
    lines.append("")
    how = "It loads in plain transformers, and with" if plainly else "It loads with topwork alone:"
    if program is not None:
        how = f"It is an exported program ({program}), which `topwork predict` runs too:"
    lines += [how, "", "```python", "import topwork", "", 'work = topwork.load("path/of/this/folder")', "```", ""]
    lines += [f"- {key}: {_plain_text(value)}" for key, value in task.describe().items()]
    if altered := sorted(alterations(work.model)):
        lines.append(f"- structure altered by the plugins: {', '.join(altered)} (`alterations` in topwork.json)")
    if numbers:
        lines += [
            "",
            "| metric | value |",
            "|---|---|",
            *(f"| {key} | {value:.4f} |" for key, value in numbers.items()),
        ]
    return "\n".join(lines) + "\n"


def _plain_text(value: Json) -> str:
    """Return a value as text without markup: label names come from anybody's rows, and a card is shown as a page."""
    text = str(value)
    if isinstance(value, list):
        more = f" and {len(value) - _LISTED} more" if len(value) > _LISTED else ""
        text = ", ".join(map(str, value[:_LISTED])) + more
    text = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", text)
