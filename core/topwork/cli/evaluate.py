"""`evaluate`: the metrics of a saved model over rows, with standard errors."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from topwork.cli.output import Session, print_json, stdout_for_json
from topwork.cli.rows import (
    BatchSize,
    Columns,
    ModelFolder,
    Precision,
    Split,
    Trusted,
    check_columns,
    check_settings,
    read_rows,
    split_pair,
)
from topwork.cli.shards import (
    STALE_AFTER,
    MaxErrors,
    ShardCount,
    Share,
    StaleAfter,
    check_shards,
    destination,
    measure_share,
)
from topwork.errors import UsageError


def evaluate_command(
    context: typer.Context,
    model: ModelFolder,
    rows: Annotated[
        list[str], typer.Argument(help="Rows with targets: files (csv, jsonl ...), folders, data sets, sample:<name>.")
    ],
    column: Columns = None,
    split: Split = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Measure this many rows of each source.")] = None,
    on_error: Annotated[
        str, typer.Option(help="Rows that cannot be used: raise ends here; skip leaves them out and counts them.")
    ] = "raise",
    batch_size: BatchSize = 32,
    precision: Precision = "float32",
    groups: Annotated[
        int, typer.Option(min=0, help="Groups of rows for standard errors (jackknife); 0: no standard errors.")
    ] = 20,
    output: Annotated[
        str | None, typer.Option(help="With --shards: a folder that all processes share, or its address.")
    ] = None,
    shards: ShardCount = None,
    max_errors: MaxErrors = None,
    stale_after: StaleAfter = STALE_AFTER,
    trust: Trusted = False,
) -> None:
    """Measure a saved model: its metrics over rows as JSON, with standard errors.

    Example: topwork evaluate runs/reviews-1/model reviews.csv -c label=stars
    """
    session: Session = context.obj
    check_settings(model, on_error, precision)
    target = destination(output, shards)
    shards = check_shards(shards, target, rows, max_errors)
    if target is not None and shards is None:
        raise UsageError("only shards need a folder", place="--output", hint="give --shards as well")
    columns = dict(split_pair(text, "-c") for text in column or ())
    from topwork.api import load
    from topwork.runs.execute import silence_libraries
    from topwork.shards.measuring import measure_rows
    from topwork.shards.sources import Sources

    silence_libraries()
    loaded = load(model, trust_remote_code=trust, plugins=session.plugins)
    settings = {"on_error": "skip" if max_errors is not None else on_error, "items": batch_size, "precision": precision}
    with tempfile.TemporaryDirectory() as scratch, session.plugins.blaming(), stdout_for_json(True):
        sources = [read_rows(path, split, limit, session.plugins, Path(scratch)) for path in rows]
        if target is not None and shards is not None:
            options = {"columns": columns, "split": split, "limit": limit, "groups": groups}
            share = Share(target, shards or None, max_errors, stale_after, session)
            result = measure_share(share, loaded, model, sources, rows, settings, options)
        else:
            for source in sources:
                check_columns(type(loaded.task), list(source.column_names), columns, targets=True)
            result = measure_rows(loaded, Sources(sources, type(loaded.task), columns, targets=True), settings, groups)
    print_json(result)
