"""The command `report`: makes the page of a run folder again by `page.write_page`."""

from __future__ import annotations

from pathlib import Path


def report(run: Path) -> None:
    """Make the page of a run folder (report.html) again from the folder's files."""
    import typer

    from topwork_report.page import write_page

    written = write_page(Path(run))
    for problem in written["problems"]:
        typer.echo(problem, err=True)
    typer.echo(str(Path(run) / written["page"]))
