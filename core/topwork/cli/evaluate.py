"""`evaluate`: the metrics of a saved model over rows, with standard errors."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from topwork.cli.output import Session, print_json, stdout_for_json
from topwork.cli.predict import PRECISIONS
from topwork.cli.rows import check_columns, read_rows, split_pair
from topwork.cli.shards import STALE_AFTER, Share, check_shards, measure_share
from topwork.errors import UsageError, unknown


def evaluate_command(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="A model folder that the stage `save` wrote.")],
    rows: Annotated[
        list[str], typer.Argument(help="Rows with targets: files (csv, jsonl ...), folders, data sets, sample:<name>.")
    ],
    column: Annotated[
        list[str] | None, typer.Option("-c", "--column", help="task's column=data set's column, repeatable.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of a data set, slices allowed: test[:20].")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Measure this many rows of each source.")] = None,
    on_error: Annotated[
        str, typer.Option(help="Rows that cannot be used: raise ends here; skip leaves them out and counts them.")
    ] = "raise",
    batch_size: Annotated[int, typer.Option(min=1, help="Most items in a batch.")] = 32,
    precision: Annotated[str, typer.Option(help=f"{', '.join(PRECISIONS)}.")] = "float32",
    groups: Annotated[
        int, typer.Option(min=0, help="Groups of rows for standard errors (jackknife); 0: no standard errors.")
    ] = 20,
    output: Annotated[Path | None, typer.Option(help="With --shards: a folder that all processes share.")] = None,
    shards: Annotated[
        int | None,
        typer.Option(min=0, help="Divide the rows among all processes that run this command; 0: a suitable number."),
    ] = None,
    max_errors: Annotated[
        float | None,
        typer.Option(min=0, help="With --shards: leave out at most so many rows, or, below 1, such a share of them."),
    ] = None,
    stale_after: Annotated[
        float, typer.Option(min=1, help="With --shards: take over from processes that were silent for so many seconds.")
    ] = STALE_AFTER,
    trust: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that lies beside the weights.")
    ] = False,
) -> None:
    """Measure a saved model: its metrics over rows as JSON, with standard errors.

    Example: topwork evaluate runs/reviews-1/model reviews.csv -c label=stars
    """
    session: Session = context.obj
    if not model.is_dir():
        raise UsageError(f"there is no model folder `{model}`")
    for value, known, name in ((on_error, ("raise", "skip"), "--on-error"), (precision, PRECISIONS, "--precision")):
        if value not in known:
            raise unknown(f"value of `{name}`", value, known)
    shards = check_shards(shards, output, rows, max_errors)
    if output is not None and shards is None:
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
        if output is not None and shards is not None:
            options = {"columns": columns, "split": split, "limit": limit, "groups": groups}
            share = Share(output, shards or None, max_errors, stale_after, session)
            result = measure_share(share, loaded, model, sources, rows, settings, options)
        else:
            for source in sources:
                check_columns(type(loaded.task), list(source.column_names), columns, targets=True)
            result = measure_rows(loaded, Sources(sources, type(loaded.task), columns, targets=True), settings, groups)
    print_json(result)
