"""The page of a run: the stage `report`, and the command that makes the page of any run folder again.

What the page shows is read from the run folder's files only, never from memory, so a page made a year later on another
machine is the same. This module stays light: the template engine is imported when a page is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from topwork import Declaration, hookimpl


@hookimpl
def register_stages() -> list[Declaration]:
    """Declare the stage `report`."""
    about = "Write `report.html` into the run folder: one offline page with what the stages so far have found."
    return [Declaration("report", "topwork_report.stage:Report", about)]


@hookimpl
def register_commands() -> list[Declaration]:
    """Declare the command `report`."""
    return [Declaration("report", "topwork_report.command:report")]


@hookimpl
def notebook_view(subject: str, content: Any) -> str | None:
    """Return the page of a run, or of attention, for a notebook."""
    from topwork_report.pages.notebook import view

    return view(subject, content)


@hookimpl
def step_logged(run: Any, step: int, numbers: Any) -> None:
    """Note the numbers of a training that goes on, for `topwork report RUN --live`."""
    from topwork_report.step_log import note_step

    note_step(run.folder, step, numbers)


@hookimpl
def repetitions_page(folder: Path) -> str:
    """Write the page of a recipe's repetitions."""
    from topwork_report.pages.repetitions import write_repetitions

    return Path(write_repetitions(folder)["page"]).name


@hookimpl
def sweep_page(folder: Path) -> str:
    """Write the page of a sweep."""
    from topwork_report.pages.sweep import write_sweep

    return Path(str(write_sweep(folder)["page"])).name


@hookimpl
def profile_page(profile: Any, file: Path) -> bool:
    """Write the page of a profile of rows."""
    from topwork_report.pages.profile_page import write_profile

    write_profile(profile, file)
    return True
