"""Tracker of a run: curves of trainings, metrics, tables and images of stages, written to one of the `sinks`.

Entry point: `make`. The names under which a sink is chosen stand in `topwork_workbench.plugin`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork import Json, UsageError, hookimpl
from topwork_workbench.trackers.sinks import SINKS, Sink

if TYPE_CHECKING:
    from topwork import Run, Stage

#: of one table, and of the images of one stage
MOST_ROWS, MOST_IMAGES = 50, 16


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
        for name, table in (result.get("tables") or {}).items():
            self.sink.text(f"{title}/{name}", markdown(table))
        for file in images(run.folder):
            self.sink.image(f"{title}/{file.stem}", file)

    @hookimpl
    def run_failed(self) -> None:
        """Close the sink of a run that ended with an error."""
        self.sink.close(failed=True)

    @hookimpl
    def run_done(self) -> None:
        """Close the sink."""
        self.sink.close(failed=False)


def images(folder: Path) -> list[Path]:
    """Return the first images that a stage left in its folder, sorted by name."""
    files = (file for pattern in ("*.png", "*.jpg", "*/*.png", "*/*.jpg") for file in folder.glob(pattern))
    return sorted(files)[:MOST_IMAGES]


def markdown(table: Json) -> str:
    """Return a table of a result as Markdown, its first rows.

    Args:
        table: a list of dicts, {"columns", "rows"}, or a confusion matrix {"labels", "counts"}.
    """
    if isinstance(table, Mapping) and "labels" in table:
        labels = [str(label) for label in table["labels"]]
        columns = ["", *labels]
        rows = [[label, *counts] for label, counts in zip(labels, table["counts"], strict=True)]
    elif isinstance(table, Mapping):
        columns, rows = list(table.get("columns") or ()), list(table.get("rows") or ())
    else:
        columns = list(dict.fromkeys(name for line in table for name in line))
        rows = [[line.get(name, "") for name in columns] for line in table]
    lines = [columns, ["---"] * len(columns), *rows[:MOST_ROWS]]
    text = "\n".join(f"| {' | '.join(_cell(value) for value in line)} |" for line in lines)
    return text if len(rows) <= MOST_ROWS else f"{text}\n\n{len(rows) - MOST_ROWS} more rows"


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
