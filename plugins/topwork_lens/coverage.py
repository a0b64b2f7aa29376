"""`topwork architectures`: the outcome of the last run of the architecture matrix for each model type.

The table (`coverage.json`) is written by `tests/architectures/run.py`; nothing here is known in another way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from topwork import Json, unknown

TABLE = Path(__file__).with_name("coverage.json")
OUTCOMES = ("hard", "soft", "refused", "no attention", "not built")


def table() -> dict[str, Json]:
    """Return the table: "date", "versions", "counts", and "types" (model type -> outcome)."""
    return json.loads(TABLE.read_text())


def architectures(
    outcome: Annotated[
        str | None, typer.Argument(help="hard, soft, refused, 'no attention', 'not built', or one model type.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what the lens can do with each model type: prune it hard or soft, or why it refuses."""
    coverage = table()
    types: Mapping[str, Any] = coverage["types"]
    chosen: dict[str, Any]
    if outcome is not None and outcome in types:
        chosen = {outcome: types[outcome]}
    elif outcome is None or outcome in OUTCOMES:
        chosen = {name: line for name, line in types.items() if outcome in (None, line["outcome"])}
    else:
        raise unknown("model type or outcome", outcome, [*OUTCOMES, *types])
    if as_json:
        typer.echo(json.dumps({**coverage, "types": chosen}, indent=1))
        return
    for line in _lines(chosen):
        typer.echo(line)
    counts = ", ".join(f"{count} {name}" for name, count in coverage["counts"].items())
    versions = ", ".join(f"{name} {version}" for name, version in coverage["versions"].items())
    typer.echo(f"{coverage['date']}, {versions}: {counts}")


def _lines(types: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a heading and a line for each model type; for one alone, all the reasons below it."""
    rows = [("model type", "heads", "layers", "neurons", "whole layers", "reason")]
    for name, entry in types.items():
        smaller = [entry.get(column, "-") for column in ("neurons", "layers_whole")]
        rows.append((name, entry["outcome"], str(entry.get("found", "")), *smaller, entry.get("reason", "")))
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    shown = [
        "  ".join([*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]
    reasons = {"neurons": "neurons_reason", "whole layers": "layers_reason"}
    for entry in types.values() if len(types) == 1 else ():
        shown += [f"{what}: {entry[column]}" for what, column in reasons.items() if column in entry]
    return [line.rstrip() for line in shown]
