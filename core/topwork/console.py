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

    @property
    def rich(self) -> Any:
        if self._rich is None:
            from rich.console import Console as RichConsole

            self._rich = RichConsole(stderr=True, highlight=False)
        return self._rich

    def say(self, text: str) -> None:
        """One line, on the terminal (stderr) and in the log."""
        if self.log is not None:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        if not self.quiet:
            self.rich.print(text, markup=False, soft_wrap=True)

    def progress(self, values: Iterable[Any], total: int | None = None, label: str = "") -> Iterator[Any]:
        """The values, with a progress bar on a terminal, or a line every ten seconds without one."""
        if total is None and isinstance(values, Sized):
            total = len(values)
        if self.quiet:
            yield from values
        elif self.rich.is_terminal:
            from rich.progress import track

            yield from track(values, description=label, total=total, console=self.rich, transient=True)
        else:
            yield from self._lines(values, total, label)

    def _lines(self, values: Iterable[Any], total: int | None, label: str) -> Iterator[Any]:
        last = time.monotonic()
        for number, value in enumerate(values):
            yield value
            if time.monotonic() - last > 10:
                last = time.monotonic()
                print(f"  {label} {number + 1}/{total if total is not None else '?'}", file=sys.stderr, flush=True)

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
