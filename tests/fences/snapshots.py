"""The committed JSON of the fences: read, and written so that a difference can be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WIDTH = 118
#: what a failing fence says
AGAIN = "if that is meant, write it again: python tests/fences/make.py {}"


def load(name: str) -> Any:
    """The snapshot `<name>.json`."""
    return json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))


def store(name: str, value: Any) -> None:
    """Write the snapshot `<name>.json`."""
    (HERE / f"{name}.json").write_text(f"{dumped(value)}\n", encoding="utf-8")


def dumped(value: Any, indent: int = 0) -> str:
    """JSON in which everything stands on one line that fits on one."""
    line = json.dumps(value, ensure_ascii=False)
    if len(line) + indent <= WIDTH or not isinstance(value, dict | list) or not value:
        return line
    inner = " " * (indent + 1)
    if isinstance(value, dict):
        parts = [f"{json.dumps(key, ensure_ascii=False)}: {dumped(entry, indent + 1)}" for key, entry in value.items()]
    else:
        parts = [dumped(entry, indent + 1) for entry in value]
    first, last = "{}" if isinstance(value, dict) else "[]"
    return f"{first}\n{inner}" + f",\n{inner}".join(parts) + f"\n{' ' * indent}{last}"


def report(differences: list[str], name: str) -> str:
    """The differences and what to do about them."""
    return "\n".join([*sorted(differences), AGAIN.format(name)])
