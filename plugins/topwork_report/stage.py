"""The stage `report`: makes the page of a run folder by `page.write_page`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from topwork import Json, Stage

if TYPE_CHECKING:
    from topwork import Run


class Report(Stage):
    """Write `report.html` into the run folder: one offline page with what the stages so far have found."""

    name: ClassVar[str] = "report"
    columns_shown: ClassVar[tuple[str, ...]] = ("sections", "bytes")

    title: str | None = Field(None, description="headline of the page; the run's name when it is not given")

    def __call__(self, run: Run) -> dict[str, Json]:
        """Make the page, on the main process."""
        written: dict[str, Json] = {}
        if run.process.main:
            from topwork_report.page import write_page

            written = write_page(run.root, title=self.title, without=run.folder.name)
            for problem in written["problems"]:
                run.say(f"report: {problem}")
        run.process.barrier()
        return written
