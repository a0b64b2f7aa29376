"""The output of a run: `Console` prints lines, progress bars and a table of results, and writes the log file.

Without a terminal, bars become plain lines. The hooks at the end make this module a plugin like any other: they print
a line for each stage and the table.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork.hookspecs import hookimpl
from topwork.notebook.bar import NotebookBar, in_notebook

if TYPE_CHECKING:
    from topwork import Run  # the public name: a contract stands below the run that keeps it
    from topwork.stage import Stage


class Console:
    """Printer of the main process; the other processes are silent.

    Args:
        quiet: print nothing (the log file is still written).
        log: the log file, or None.
        bars: whether progress is shown; None: unless it is quiet.
    """

    def __init__(self, quiet: bool = False, log: Path | None = None, bars: bool | None = None) -> None:
        self.quiet, self.log = quiet, log
        self.bars = not quiet if bars is None else bars
        self._rich: Any = None
        self._live: Any = None

    @property
    def rich(self) -> Any:
        """The console of rich, made when it is first needed."""
        if self._rich is None:
            from rich.console import Console as RichConsole

            self._rich = RichConsole(stderr=True, highlight=False)
        return self._rich

    def say(self, text: str) -> None:
        """Print a line on the terminal (stderr) and write it to the log."""
        self.note(text)
        if not self.quiet:
            self.rich.print(text, markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Write a line to the log alone."""
        if self.log is not None and self.log.parent.is_dir():  # the run notices itself that its folder was removed
            with self.log.open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def bar(self, total: int | None, label: str) -> Bar:
        """Open a progress bar; several may be open at once. The caller closes it."""
        return Bar(self, total, label)

    def progress(self, values: Iterable[Any], total: int | None = None, label: str = "") -> Iterator[Any]:
        """Yield the values, with a progress bar on a terminal or in a notebook, else a line every ten seconds."""
        if total is None and isinstance(values, Sized):
            total = len(values)
        bar = self.bar(total, label)
        try:
            for count, value in enumerate(values, 1):
                yield value
                bar.at(count)
        finally:
            bar.close()

    def live(self) -> Any:
        """Return the live display of all bars: rich allows only one on a terminal."""
        if self._live is None:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = ("  {task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            shown = [TextColumn(column) if isinstance(column, str) else column for column in columns]
            self._live = Progress(*shown, TextColumn("{task.fields[note]}"), console=self.rich, transient=True)
            self._live.start()
        return self._live

    def rest(self) -> None:
        """Remove the live display when its last bar is closed."""
        if self._live is not None and not self._live.tasks:
            self._live.stop()
            self._live = None

    def table(self, title: str, columns: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
        """Print a table on the terminal and write its lines to the log."""
        from rich.table import Table

        table = Table(title=title, title_justify="left")
        for column in columns:
            table.add_column(column, justify="left", overflow="fold")
        kept = [list(map(str, line)) for line in lines]
        for line in kept:
            table.add_row(*line)
        if self.log is not None and self.log.parent.is_dir():  # the run notices itself that its folder was removed
            with self.log.open("a", encoding="utf-8") as file:
                file.writelines("  ".join(line) + "\n" for line in kept)
        if not self.quiet:
            self.rich.print(table)


class Bar:
    """Progress bar of a console: a live one on a terminal or in a notebook, else a line every ten seconds."""

    def __init__(self, console: Console, total: int | None, label: str) -> None:
        self.console, self.total, self.label = console, total, label
        self._last = time.monotonic()
        self._task: Any = None
        self._notebook = NotebookBar(total, label) if console.bars and in_notebook() else None
        if console.bars and self._notebook is None and console.rich.is_terminal:
            self._task = console.live().add_task(label, total=total, note="")

    def at(self, done: int, note: str = "") -> None:
        """Show that `done` of the total are done, with a few words such as the loss."""
        if self._notebook is not None:
            self._notebook.at(done, note)
        elif self._task is not None:
            self.console.live().update(self._task, completed=done, note=note)
        elif self.console.bars and time.monotonic() - self._last > 10:
            self._last = time.monotonic()
            total = self.total if self.total is not None else "?"
            print(f"  {self.label} {done}/{total}{note and ', '}{note}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Remove the bar."""
        if self._notebook is not None:
            self._notebook.close()
            self._notebook = None
        if self._task is not None:
            self.console.live().remove_task(self._task)
            self._task = None
            self.console.rest()


def numbers_in(result: dict[str, Any], keys: Sequence[str] = (), most: int = 7) -> str:
    """Format the numbers of a stage's result for the summary: `metrics` first, then plain numbers.

    Of plain numbers those in `tables` come first: they say what the metrics leave out. Its short sentences follow.
    """
    flat: dict[str, Any] = {}
    for values in (result.get("metrics"), result.get("tables"), result):
        if isinstance(values, dict):
            flat.update({key: value for key, value in values.items() if _is_number(value) and key not in flat})
    notes = [
        f"{key.replace('_', ' ')} {value}" for key, value in (result.get("tables") or {}).items() if _is_note(value)
    ]
    if keys:
        flat = {key: flat[key] for key in keys if key in flat}
    numbers = [f"{key} {_short(value)}" for key, value in list(flat.items())[:most]]
    return ", ".join([*numbers, *([] if keys else notes)])


def _is_note(value: Any) -> bool:
    return isinstance(value, str) and " " in value and len(value) < 60


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"


# ---------------------------------------------------------------- the plugin


@hookimpl
def run_started(run: Run) -> None:
    """Print the task, the model and the run folder."""
    count = sum(parameter.numel() for parameter in run.model.parameters())
    run.say(
        f"{run.task.name}: {type(run.model).__name__} ({run.work.form} task head), {count:,} parameters, "
        f"on {run.device}{f' x {run.process.count}' if run.process.count > 1 else ''}; {run.root}"
    )


@hookimpl
def stage_started(run: Run, stage: Stage, index: int) -> None:
    """Print the name of the stage."""
    run.say(f"[{index + 1}] {stage.name} ...")


@hookimpl
def stage_done(run: Run, stage: Stage, index: int, result: dict[str, Any]) -> None:
    """Print the result of the stage."""
    shown = numbers_in(result, stage.columns_shown)
    seconds = run.results[-1]["seconds"]
    run.say(f"[{index + 1}] {stage.name}: {shown + ', ' if shown else ''}{seconds:.1f} s")


@hookimpl
def run_failed(run: Run, error: BaseException) -> None:
    """Log the error, and print how to go on."""
    # whoever started the run gets the error itself, and prints it
    run.console.note(f"failed: {type(error).__name__}: {error}")
    if isinstance(error, Exception) and (run.root / "stages").is_dir():
        run.say(f"`topwork resume {run.root}` goes on from the last finished stage")


@hookimpl
def run_done(run: Run) -> None:
    """Print the table of results."""
    stages = run.plugins.stages
    lines = []
    for record in run.results:
        keys = stages[record["stage"]].columns_shown
        lines.append(
            (str(record["index"] + 1), record["stage"], f"{record['seconds']:.1f}", numbers_in(record["result"], keys))
        )
    run.console.table(f"{run.name or run.task.name}: {run.root}", ["", "stage", "seconds", "result"], lines)
