"""Everything that is named, in one table: what the README shows."""

from __future__ import annotations

from named import audio, dense, sequence, text, vision
from named.harness import Case

CASES: list[Case] = [case for room in (text, sequence, audio, vision, dense) for case in room.CASES]


def by_task() -> dict[str, dict[str, list[str]]]:
    """Task -> "native" or "generic" -> families."""
    found: dict[str, dict[str, list[str]]] = {}
    for case in CASES:
        found.setdefault(case.task, {"native": [], "generic": []})[case.form].append(case.family)
    return found
