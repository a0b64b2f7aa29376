"""Tracker of a run: curves of trainings, metrics, tables and images of stages, written to one of the `sinks`.

Entry point: `make`. The names under which a sink is chosen stand in `topwork_workbench.plugin`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from topwork import Json, UsageError, hookimpl
from topwork_workbench.trackers.content import as_table, captions_of, cell, images, predictions_of
from topwork_workbench.trackers.sinks import SINKS, Sink

if TYPE_CHECKING:
    from topwork import Run, Stage


def make(name: str, run: Run) -> Tracker:
    """Return the tracker of that name for a run.

    Raises:
        UsageError: the package of the tracker is not installed.
    """
    try:
        sink = SINKS[name](run)
    except ImportError as error:
        raise UsageError(
            f"the tracker `{name}` needs a package that is not installed: {error}",
            place="track",
            hint=f"pip install 'topwork[{name}]'",
        ) from error
    return Tracker(sink)


class Tracker:
    """Observer that hands the news of a run to a sink."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        #: position of the running stage, from 1
        self.position = 0

    @hookimpl
    def run_started(self, run: Run) -> None:
        """Write the recipe beside the numbers."""
        recipe = run.root / "recipe.yaml"
        if recipe.is_file():
            self.sink.text("recipe", f"```yaml\n{recipe.read_text(encoding='utf-8')}\n```")

    @hookimpl
    def stage_started(self, index: int) -> None:
        """Note which stage the next numbers belong to."""
        self.position = index + 1

    @hookimpl
    def step_logged(self, stage: Stage, step: int, numbers: Mapping[str, float]) -> None:
        """Write the numbers of a training; those of several trainings have names of their own."""
        for name, number in numbers.items():
            self.sink.scalar(f"{self.position:02d}-{stage.name}/{name}", number, step)

    @hookimpl
    def stage_done(self, run: Run, stage: Stage, index: int, result: Mapping[str, Json]) -> None:
        """Write the metrics, tables and images of a stage."""
        title = f"{index + 1:02d}-{stage.name}"
        for name, number in (result.get("metrics") or {}).items():
            if isinstance(number, int | float):
                self.sink.scalar(f"metrics/{name}", float(number), index + 1)
        for name, content in (result.get("tables") or {}).items():
            if (table := as_table(content)) is None:
                self.sink.text(f"{title}/{name}", cell(content))
            else:
                self.sink.table(f"{title}/{name}", *table)
        if (predictions := as_table(predictions_of(run.folder))) is not None:
            self.sink.table(f"{title}/predictions", *predictions)
        captions = captions_of(run.folder)
        for file in images(run.folder):
            caption = captions.get(file.relative_to(run.folder).as_posix(), "")
            self.sink.image(f"{title}/{file.stem}", file, caption)

    @hookimpl
    def run_failed(self) -> None:
        """Close the sink of a run that ended with an error."""
        self.sink.close(failed=True)

    @hookimpl
    def run_done(self) -> None:
        """Close the sink."""
        self.sink.close(failed=False)
