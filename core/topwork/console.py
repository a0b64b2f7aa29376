"""What a run prints: lines, progress bars (plain lines without a terminal), a table of results; and its log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from pathlib import Path
from typing import Any


class Console:
    """Prints for the main process; the others are silent.

    Args:
        quiet: print nothing (the log file is still written).
        log: the log file, or None.
    """

    def __init__(self, quiet: bool = False, log: Path | None = None) -> None:
        self.quiet, self.log = quiet, log
        self._rich: Any = None
        self._live: Any = None

    @property
    def rich(self) -> Any:
        if self._rich is None:
            from rich.console import Console as RichConsole

            self._rich = RichConsole(stderr=True, highlight=False)
        return self._rich

    def say(self, text: str) -> None:
        """One line, on the terminal (stderr) and in the log."""
        self.note(text)
        if not self.quiet:
            self.rich.print(text, markup=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """One line in the log alone."""
        if self.log is not None:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def bar(self, total: int | None, label: str) -> Bar:
        """A progress bar; several may be open at once. Close it."""
        return Bar(self, total, label)

    def progress(self, values: Iterable[Any], total: int | None = None, label: str = "") -> Iterator[Any]:
        """The values, with a progress bar on a terminal, or a line every ten seconds without one."""
        if total is None and isinstance(values, Sized):
            total = len(values)
        bar = self.bar(total, label)
        try:
            for number, value in enumerate(values):
                yield value
                bar.at(number + 1)
        finally:
            bar.close()

    def live(self) -> Any:
        """The one live display of bars: rich allows only one on a terminal."""
        if self._live is None:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = ("  {task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            shown = [TextColumn(one) if isinstance(one, str) else one for one in columns]
            self._live = Progress(*shown, TextColumn("{task.fields[note]}"), console=self.rich, transient=True)
            self._live.start()
        return self._live

    def rest(self) -> None:
        """Take the live display away when its last bar is closed."""
        if self._live is not None and not self._live.tasks:
            self._live.stop()
            self._live = None

    def table(self, title: str, columns: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
        """A table on the terminal, its lines in the log."""
        from rich.table import Table

        table = Table(title=title, title_justify="left")
        for column in columns:
            table.add_column(column, justify="left", overflow="fold")
        kept = [list(map(str, line)) for line in lines]
        for line in kept:
            table.add_row(*line)
        if self.log is not None:
            with self.log.open("a", encoding="utf-8") as file:
                file.writelines("  ".join(line) + "\n" for line in kept)
        if not self.quiet:
            self.rich.print(table)


class Bar:
    """One progress bar of a console: a live one on a terminal, else a line every ten seconds, or nothing when quiet."""

    def __init__(self, console: Console, total: int | None, label: str) -> None:
        self.console, self.total, self.label = console, total, label
        self._last = time.monotonic()
        self._task: Any = None
        if not console.quiet and console.rich.is_terminal:
            self._task = console.live().add_task(label, total=total, note="")

    def at(self, done: int, note: str = "") -> None:
        """So far: `done` of the total, and a few words such as the loss."""
        if self._task is not None:
            self.console.live().update(self._task, completed=done, note=note)
        elif not self.console.quiet and time.monotonic() - self._last > 10:
            self._last = time.monotonic()
            total = self.total if self.total is not None else "?"
            print(f"  {self.label} {done}/{total}{note and ', '}{note}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the bar away."""
        if self._task is not None:
            self.console.live().remove_task(self._task)
            self._task = None
            self.console.rest()


def numbers_in(result: dict[str, Any], keys: Sequence[str] = (), most: int = 7) -> str:
    """The numbers of a stage's result that stand in the summary: `metrics` first, then the plain numbers."""
    metrics = result.get("metrics") or {}
    flat = {**{key: value for key, value in metrics.items() if _is_number(value)}}
    flat.update({key: value for key, value in result.items() if _is_number(value) and key not in flat})
    if keys:
        flat = {key: flat[key] for key in keys if key in flat}
    return ", ".join(f"{key} {_short(value)}" for key, value in list(flat.items())[:most])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"
