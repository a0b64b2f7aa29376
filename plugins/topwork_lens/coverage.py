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
    width = max(map(len, chosen), default=0)
    for name, line in chosen.items():
        layers = f"{line['found']:>3}" if "found" in line else "   "
        typer.echo(f"{name:<{width}}  {line['outcome']:<12}  {layers}  {line.get('reason', '')}".rstrip())
    counts = ", ".join(f"{count} {name}" for name, count in coverage["counts"].items())
    versions = ", ".join(f"{name} {version}" for name, version in coverage["versions"].items())
    typer.echo(f"{coverage['date']}, {versions}: {counts}")
