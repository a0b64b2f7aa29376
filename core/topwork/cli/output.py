"""The loaded plugins and the ways to print that all commands share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TextIO

from topwork.system.output import stdout_to_stderr

if TYPE_CHECKING:
    from topwork.plugins.registry import Plugins


#: codes of terminals (ECMA-48)
_COLOURS = {"green": 32, "red": 31, "yellow": 33}


@dataclass
class Session:
    """Object in `typer.Context.obj` of every command.

    Args:
        plugins: what is loaded.
        quiet: no progress and no log lines.
        debug: show the traceback of an error.
    """

    plugins: Plugins
    quiet: bool = False
    debug: bool = False

    def warn_of_failed(self) -> None:
        """Print the names of the plugins that were left out, in one line on stderr."""
        if self.plugins.failed and os.environ.get("RANK", "0") == "0":  # once, not once a process
            names = ", ".join(plugin.name for plugin in self.plugins.failed)
            say(f"plugins that failed to load: {names}; `topwork plugins` says why")


def say(text: str) -> None:
    """Print a line for people on stderr: stdout is for the output that was requested."""
    print(text, file=sys.stderr)


def coloured(text: str, colour: Literal["green", "red", "yellow"], stream: TextIO | None = None) -> str:
    """Return a text with the codes of a colour if a stream is a terminal and nobody objects by NO_COLOR or TERM=dumb.

    Args:
        text: the text.
        colour: of its letters.
        stream: where it is printed; stdout by default.
    """
    terminal = (stream or sys.stdout).isatty() and os.environ.get("TERM") != "dumb"
    if not terminal or os.environ.get("NO_COLOR"):
        return text
    return f"\033[{_COLOURS[colour]}m{text}\033[0m"


def verdict(ok: bool) -> str:
    """Return what stands before a finding: ok or FAIL, as wide as each other."""
    return coloured("ok  ", "green") if ok else coloured("FAIL", "red")


def print_json(value: Any) -> None:
    """Print JSON on stdout, for scripts."""
    from topwork.files import plain

    print(json.dumps(plain(value), indent=1, ensure_ascii=False))


@contextmanager
def stdout_for_json(as_json: bool) -> Iterator[None]:
    """Send to stderr what code in the block prints, if stdout is to hold JSON alone."""
    if not as_json:
        yield
        return
    with stdout_to_stderr():
        yield


def print_table(title: str, lines: Iterable[Sequence[str]]) -> None:
    """Print a title and aligned columns; on a terminal the last column is cut to its width."""
    import shutil

    lines = [[str(cell) for cell in line] for line in lines]
    print(title)
    if not lines:
        print("  none")
        return
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]) - 1)]
    width = shutil.get_terminal_size((200, 20)).columns if sys.stdout.isatty() else 10**6
    room = width - sum(widths) - 2 * len(widths) - 2
    for line in lines:
        *cells, last = line
        if len(last) > max(room, 40):
            last = last[: max(room, 40) - 3] + "..."
        print("  " + "".join(cell.ljust(width + 2) for cell, width in zip(cells, widths)) + last)
