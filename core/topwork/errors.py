"""Every error that topwork raises on purpose: each names the place, the cause and the hint.

The command line prints these without a traceback; anything else that escapes is a bug in topwork or in a plugin.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from topwork.deprecation import warn_renamed

#: problems of a recipe that its message lists; all of them are in `problems`
MOST_PROBLEMS = 50
#: characters of the line of a problem
_LONGEST = 2500


class TopworkError(Exception):
    """Error with its location, its cause and a hint: base class of all errors that topwork raises on purpose.

    Args:
        cause: what is wrong, in one sentence without a full stop.
        place: location: a file position, a stage, a row and column, a module path.
        hint: what to do about it; a function that returns it is called when the hint is read, for hints that cost time.
        code: stable identifier of the error, for code that reacts to it; messages may change, codes do not.
        mend: deprecated name of `hint`.
    """

    exit_code = 1

    def __init__(
        self,
        cause: str,
        *,
        place: str | None = None,
        hint: str | Callable[[], str] | None = None,
        code: str | None = None,
        mend: str | None = None,
    ) -> None:
        if mend is not None:
            warn_renamed("mend", "hint")
        self.cause, self.place, self.code = cause, place, code
        self._hint = hint if hint is not None else mend
        super().__init__(cause)

    @property
    def hint(self) -> str | None:
        """What to do about the error."""
        if callable(self._hint):
            self._hint = self._hint()
        return self._hint

    @hint.setter
    def hint(self, hint: str | None) -> None:
        self._hint = hint

    @property
    def mend(self) -> str | None:
        """Deprecated name of `hint`."""
        warn_renamed("mend", "hint")
        return self.hint

    def __str__(self) -> str:
        text = f"{self.place}: {self.cause}" if self.place else self.cause
        return printable(f"{text}; {self.hint}" if self.hint else text)

    def __reduce__(self) -> tuple:
        return _rebuild, (type(self), dict(self.__dict__))


def _rebuild(kind: type[TopworkError], attributes: dict) -> TopworkError:
    error = kind.__new__(kind)
    Exception.__init__(error, attributes.get("cause", ""))
    error.__dict__.update(attributes)
    return error


class UsageError(TopworkError):
    """The caller asked for something that does not exist or does not fit (exit code 2 on the command line)."""

    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One located fault of a recipe. `place` is `file:line:column` or an override's text; `path` the key's path."""

    place: str
    path: str
    message: str

    def __str__(self) -> str:
        text = f"{self.place}: {self.path}: {self.message}" if self.path else f"{self.place}: {self.message}"
        text = printable(text.replace("\n", "\\n"))  # one line each: a key or an override may hold line ends
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 300]} ... {text[-250:]}"


class RecipeError(UsageError):
    """All problems of a recipe at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        count = len(self.problems)
        super().__init__(f"{count} problem{'s' * (count != 1)} in the recipe")

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems[:MOST_PROBLEMS]]
        hidden = len(self.problems) - len(lines)
        return "\n".join([*lines, f"{self.problems[0].place}: and {hidden} more problems"] if hidden else lines)


class DataError(TopworkError):
    """Row that the task cannot use. With `data.on_error: skip` such rows are skipped and counted.

    Args:
        row: index of the row in the list that the task was given; the row's number in its file once it is known.
        column: the task's column.
        rows: indices of all rows with this fault, where a whole column was looked at.

    Attributes:
        index: index of the row among the rows of its role, once known.
        file, line: file and line (from 1) that the row was read from, where known.
        quotation: the beginning of the row's first text.
    """

    def __init__(
        self,
        cause: str,
        *,
        row: int | None = None,
        column: str | None = None,
        hint: str | Callable[[], str] | None = None,
        place: str | None = None,
        code: str | None = None,
        mend: str | None = None,
        rows: Sequence[int] = (),
    ) -> None:
        self.row, self.column, self.rows = row, column, list(rows)
        self.index: int | None = None
        self.file: str | None = None
        self.line: int | None = None
        self.quotation: str | None = None
        super().__init__(cause, hint=hint, place=place, code=code, mend=mend)

    def __str__(self) -> str:
        parts = []
        if self.row is not None:
            parts.append(f"row {self.row}")
        if self.column is not None:
            parts.append(f"column {self.column!r}")
        location = ", ".join([*([self.place] if self.place else []), *parts])
        text = f"{location}: {self.cause}" if location else self.cause
        text = f"{text}; {self.hint}" if self.hint else text
        return printable(f'{text} (the row begins "{self.quotation}")' if self.quotation else text)

    def note(self) -> dict[str, object]:
        """Return what is known of a row that is left out: row, column and cause; file and line where known.

        `index` is the index of the row among those of its role, where that is not the number `row` of its file.
        """
        index = self.index if self.index != self.row else None
        origin = {"index": index, "file": self.file, "line": self.line}
        known = {key: value for key, value in origin.items() if value is not None}
        return {"row": self.row, "column": self.column, "cause": self.cause, **known}


class CheckpointError(TopworkError):
    """A base or a model folder that does not hold what it should."""


class PluginError(TopworkError):
    """A plugin that is broken, missing, or contradicts another."""


class Refused(TopworkError):
    """Something that would give a wrong number, and is therefore not done. `reason` is a short stable word."""

    def __init__(
        self, cause: str, *, place: str | None = None, reason: str, hint: str | None = None, mend: str | None = None
    ) -> None:
        self.reason = reason
        super().__init__(cause, place=place, hint=hint, code=reason, mend=mend)


def printable(text: str) -> str:
    """Return a text for a terminal: control characters escaped, words of more than 1,000 characters shortened."""
    escaped = "".join(_escape(character) for character in text) if not text.isprintable() else text
    return re.sub(r"\S{1000,}", lambda match: f"{match.group()[:200]}...{match.group()[-200:]}", escaped)


def _escape(character: str) -> str:
    if character in "\n\t" or character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a question for the nearest known word, or an empty string when none is near.

    Example:
        >>> nearest("evalute", ["evaluate", "train"])
        '; did you mean `evaluate`?'
    """
    match = get_close_matches(str(word), [str(name) for name in known], n=1, cutoff=0.6)
    return f"; did you mean `{match[0]}`?" if match else ""


def listed(names: Iterable[object], most: int = 12) -> str:
    """Return names for a message: all of them, or the first ones and how many there are.

    Args:
        names: what is listed, such as the columns of a table.
        most: how many names are written out.

    Example:
        >>> listed(["text", "label"]), listed(range(5000), 2), listed([])
        ('text, label', '0, 1, ... (5,000 in all)', 'none')
    """
    known = [str(name) for name in names]
    if len(known) <= most:
        return ", ".join(known) or "none"
    return f"{', '.join(known[:most])}, ... ({len(known):,} in all)"


def unknown(kind: str, word: str, known: Iterable[str]) -> UsageError:
    """Return the error for a name that nobody registered; it names the nearest match, and all that there are.

    Args:
        kind: what the name is of, such as "task".
        word: the unknown name.
        known: the names that there are.
    """
    known = sorted(known)
    hint = nearest(word, known)
    return UsageError(f"unknown {kind} `{word}`{hint}", hint=f"known: {listed(known, 100)}")
