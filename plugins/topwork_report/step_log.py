"""Log of a training that goes on, for the page that shows it: written step by step, read whole.

The log stands in the stage's scratch folder, which the run removes when the stage is done.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topwork import Json

_LOGGED = Path("checkpoints") / "logged.jsonl"


def note_step(folder: Path, step: int, numbers: Mapping[str, Any]) -> None:
    """Add the numbers of a step to the log of a stage that trains.

    Args:
        folder: of the stage.
        step: optimizer steps so far.
        numbers: what was logged: "loss", "learning_rate", "eval_<metric>" ...
    """
    file = Path(folder) / _LOGGED
    file.parent.mkdir(parents=True, exist_ok=True)
    plain = {str(key): value for key, value in numbers.items() if isinstance(value, int | float)}
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"step": step, **plain}) + "\n")


def logged_steps(folder: Path) -> list[dict[str, Json]]:
    """Return what a stage that trains has logged so far; a line that is still being written is left out."""
    try:
        lines = (folder / _LOGGED).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    by_step: dict[Any, dict[str, Json]] = {}  # a training that was resumed has logged some steps twice
    for line in lines:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(entry, dict):
            by_step.setdefault(entry.get("step"), {}).update(entry)
    return list(by_step.values())
