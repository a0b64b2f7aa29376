"""Faults of input rows, and what each task documents about them.

A task documents them in `bad_input.md` beside its module. Tasks with one base class (the three classifications; the
sequence-to-sequence tasks) share a page beside that class, with a section for all and one for each. Rows are such as

    | `audio`, `label`: missing; None | refused |
    | `audio`: longer than the model | refused in training, handled in predictions: in chunks |

columns, what is wrong with them, and what happens: refused or handled, perhaps only in training, evaluation or
predictions, and how. Faults of target columns do not matter to predictions, unless it says "also in predictions".
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from topwork import Task
from topwork_tasks._classification.classifier import Classifier
from topwork_tasks.sequence_to_sequence import SequenceToSequence

Row = dict[str, Any]
MODES = ("training", "evaluation", "predictions")


@dataclass(frozen=True)
class Form:
    """Rows as a data set may have them, and the model that learns them.

    Args:
        rows: makes them of the task's example rows.
        options: of the task. config: of the model, instead of the usual one.
    """

    name: str = ""
    rows: Callable[[list[Row]], list[Row]] = list
    options: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] | None = None


PLAIN = Form()


@dataclass(frozen=True)
class Fault:
    """A way in which rows are bad, or odd: `spoil` makes such a row of a good one. With `everywhere` all rows are like
    that, as when a column is missing."""

    column: str
    name: str
    spoil: Callable[[Row], Row]
    form: Form = PLAIN
    everywhere: bool = False

    def __str__(self) -> str:
        return f"{self.column}: {self.name}"


def named(column: str, values: dict[str, Any], form: Form = PLAIN) -> Iterator[Fault]:
    """Faults that are a value of a column; a function makes it of the row, a value for several columns is a dict of
    the class `Cells`."""
    for name, value in values.items():
        yield Fault(column, name, partial(_put, column, value), form)


class Cells(dict):
    """Values of several columns."""


def _put(column: str, value: Any, row: Row) -> Row:
    made = value(row) if callable(value) else value
    return {**row, **made} if isinstance(made, Cells) else {**row, column: made}


def without(column: str, row: Row) -> Row:
    return {key: value for key, value in row.items() if key != column}


# ---------------------------------------------------------------- the documented table

_LINE = re.compile(r"^\s*\| (?P<columns>`\w+`(?:, `\w+`)*): (?P<faults>.+?) \| (?P<verdict>.+?) \|$", re.MULTILINE)
_VERDICT = re.compile(r"\b(refused|handled)\b(?: in (\w+)(?: and (\w+))?)?")


def documented(task: type[Task]) -> str:
    """The text that holds a task's table: `bad_input.md` beside its module, or its sections of the shared one."""
    shared = next((base for base in (Classifier, SequenceToSequence) if issubclass(task, base)), None)
    text = Path(inspect.getfile(shared or task)).with_name("bad_input.md").read_text(encoding="utf-8")
    if shared is None:
        return text
    sections = re.split(r"^## ", text, flags=re.MULTILINE)
    return "\n".join(section for section in sections if section.startswith(("All", task.name)))


def told(task: type[Task]) -> dict[str, dict[str, str]]:
    """`column: fault` -> by mode "refused" or "handled", as the task documents it."""
    found: dict[str, dict[str, str]] = {}
    for line in _LINE.finditer(documented(task)):
        parts = _VERDICT.findall(line["verdict"].split(":")[0])
        assert parts, f"{task.name}: {line['verdict']!r} begins with neither `refused` nor `handled`"
        by_mode = {mode: verdict for verdict, *only in parts for mode in ([name for name in only if name] or MODES)}
        assert set(by_mode) <= set(MODES), f"{task.name}: {line['verdict']!r} speaks of something that there is not"
        for column in re.findall(r"`(\w+)`", line["columns"]):
            # who predicts does not look at the truth
            unseen = task.columns[column].target and "also in predictions" not in line["verdict"]
            for name in line["faults"].split("; "):
                assert f"{column}: {name}" not in found, f"{task.name} tells {column}: {name} twice"
                found[f"{column}: {name}"] = {**by_mode, "predictions": "handled"} if unseen else by_mode
    return found
