"""`topwork architectures`: what the lens can do with each model type, as the last run of the matrix found it.

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
    """The table: "date", "versions", "counts", and "types" (model type -> what came out)."""
    return json.loads(TABLE.read_text())


def architectures(
    outcome: Annotated[
        str | None, typer.Argument(help="hard, soft, refused, 'no attention', 'not built', or one model type.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what the lens can do with each model type: prune it hard or soft, or why it refuses."""
    found = table()
    types: Mapping[str, Any] = found["types"]
    chosen: dict[str, Any]
    if outcome is not None and outcome in types:
        chosen = {outcome: types[outcome]}
    elif outcome is None or outcome in OUTCOMES:
        chosen = {name: entry for name, entry in types.items() if outcome in (None, entry["outcome"])}
    else:
        raise unknown("model type or outcome", outcome, [*OUTCOMES, *types])
    if as_json:
        typer.echo(json.dumps({**found, "types": chosen}, indent=1))
        return
    width = max(map(len, chosen), default=0)
    for name, entry in chosen.items():
        layers = f"{entry['found']:>3}" if "found" in entry else "   "
        typer.echo(f"{name:<{width}}  {entry['outcome']:<12}  {layers}  {entry.get('reason', '')}".rstrip())
    counts = ", ".join(f"{entry} {name}" for name, entry in found["counts"].items())
    versions = ", ".join(f"{name} {entry}" for name, entry in found["versions"].items())
    typer.echo(f"{found['date']}, {versions}: {counts}")
