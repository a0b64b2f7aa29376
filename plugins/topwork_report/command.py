"""The command `report`: the page of a run again, the page of a run that goes on, or several runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from topwork import UsageError


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="A run folder, several to be shown side by side, or that of a sweep.")
    ],
    live: Annotated[bool, typer.Option("--live", help="Write the page again and again while the run goes on.")] = False,
    every: Annotated[int, typer.Option(min=1, help="Seconds between two pages of --live.")] = 5,
    out: Annotated[
        Path | None, typer.Option(help="File of several runs' page; compare.html in this folder by default.")
    ] = None,
) -> None:
    """Make the page of a run folder (report.html) again from the folder's files, or a page of several runs."""
    folders = [runs] if isinstance(runs, str | Path) else list(runs)
    if len(folders) > 1:
        if live:
            raise UsageError("--live watches a single run", hint="leave the other folders out")
        from topwork_report.pages.compare import write_comparison

        compared = write_comparison([Path(folder) for folder in folders], Path(out or "compare.html"))
        _print(compared["problems"], Path(compared["page"]))
        return
    if out is not None:
        hint = "leave --out away, or name several runs"
        raise UsageError("the page of one run is its report.html", place="--out", hint=hint)
    from topwork_report.pages.repetitions import is_repeated, write_repetitions

    if is_repeated(Path(folders[0])) and not live:
        repeated = write_repetitions(Path(folders[0]))
        _print(repeated["problems"], Path(repeated["page"]))
        return
    from topwork_report.pages.sweep import is_sweep, write_sweep

    if is_sweep(Path(folders[0])) and not live:
        _print([], Path(str(write_sweep(Path(folders[0]))["page"])))
        return
    from topwork_report.page import write_page
    from topwork_report.pages.live import watch

    folder = Path(folders[0])
    written = watch(folder, every, typer.echo) if live and folder.is_dir() else write_page(folder)
    _print(written["problems"], folder / written["page"])


def _print(problems: list[str], page: Path) -> None:
    for problem in problems:
        typer.echo(problem, err=True)
    typer.echo(str(page))
