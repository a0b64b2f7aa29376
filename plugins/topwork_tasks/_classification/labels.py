"""Labels of classification rows: their names, and the targets that rows become.

Three kinds: "single" (one label of several), "multi" (any number of labels) and "regression" (one number). Labels in
the data are mapped by *name*: a string is a name, an integer is the number of a name that the data set's `ClassLabel`
feature (or the option `label_names`) lists. Label names that a checkpoint carries win.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

from topwork import Base, DataError, Row, TopworkError, nearest

if TYPE_CHECKING:
    import torch

Kind = Literal["single", "multi", "regression"]
TEXT_HEAD = ("AutoModelForSequenceClassification",)


# ---------------------------------------------------------------- label names


def class_names(rows: Any, column: str) -> list[str] | None:
    """The names of a `ClassLabel` column (or of a list of them), in the order of its integers; None without one."""
    feature = (getattr(rows, "features", None) or {}).get(column)
    inner = getattr(feature, "feature", feature)
    if isinstance(inner, list) and inner:
        inner = inner[0]
    names = getattr(inner, "names", None)
    return [str(name) for name in names] if names else None


def learn_labels(
    rows: Any, column: str, kind: Kind, base: Base, auto: Sequence[str] = TEXT_HEAD, names: Sequence[str] | None = None
) -> list[str]:
    """Label names in the order of the model's outputs.

    Those of the checkpoint's trained task head win; else the names that the data set declares (or `names`, the
    option); else the distinct values of the column, sorted. A regression has the one name "LABEL_0", as transformers
    calls it.
    """
    if kind == "regression":
        return ["LABEL_0"]
    trained = base.trained_labels(*auto)
    if trained is not None:
        return list(trained)
    found = list(names or ()) or class_names(rows, column) or _distinct(rows, column, kind)
    if len(set(found)) < (2 if kind == "single" else 1):
        raise DataError(f"has only the label {found}", column=column, hint="give rows with two labels or more")
    if len(set(found)) != len(found):
        raise DataError(f"declares a label name twice: {found}", column=column, hint="give every label its own name")
    return found


def _distinct(rows: Any, column: str, kind: Kind) -> list[str]:
    if rows is None:
        raise TopworkError(
            "the label names are not known",
            hint="give training rows, the option `label_names`, or a base with a trained task head",
        )
    values: set[Any] = set()
    for number, value in enumerate(_column(rows, column)):
        entries = _entries(value, number, column) if kind == "multi" else [value]
        for entry in entries:
            check_alike(entry, values, number, column, "; for numbers set `regression: true`")
            values.add(entry)
    return [str(value) for value in sorted(values)]


def check_alike(value: Any, known: Collection[Any], row: int, column: str, further: str = "") -> None:
    """Refuse what is no label, and integers among names, or names among integers, that rows before had."""
    if isinstance(value, bool) or not isinstance(value, str | Integral) or value == "":
        hint = f"labels are strings or integers{further}"
        raise DataError(f"{value!r} is no label", row=row, column=column, hint=hint)
    other = next(iter(known), value)
    if isinstance(other, str) != isinstance(value, str):
        cause = f"{value!r} beside {other!r}: labels are either names or numbers"
        raise DataError(cause, row=row, column=column, hint="write all labels alike")


def _column(rows: Any, column: str) -> Iterable[Any]:
    if hasattr(rows, "column_names"):
        if column not in (rows.column_names or [column]):
            raise DataError("is missing", column=column, hint="map it in `data.columns`")
        return rows[column] if hasattr(rows, "__len__") else (row.get(column) for row in rows)
    return (row.get(column) for row in rows)


def _entries(value: Any, row: int | None, column: str) -> list[Any]:
    if value is None or isinstance(value, str | int | float) or not isinstance(value, Iterable):
        raise DataError(
            f"{value!r} is no list of labels", row=row, column=column, hint="write a list, empty for no label"
        )
    return list(value)


def label_number(
    value: Any, names: Sequence[str], declared: Sequence[str] | None, row: int | None = None, column: str = "label"
) -> int:
    """The model's output that a label of the data stands for; `declared` names the data's integers."""
    name = value
    if isinstance(value, bool) or not isinstance(value, str | Integral):
        raise DataError(f"{value!r} is no label", row=row, column=column, hint="labels are strings or integers")
    if not isinstance(value, str):
        if declared is not None and 0 <= int(value) < len(declared):
            name = declared[int(value)]
        elif declared is None and f"LABEL_{value}" in names:
            name = f"LABEL_{value}"
        else:
            name = str(value)
    try:
        return names.index(name)
    except ValueError:
        hint = f"known labels: {', '.join(names[:12])}{', ...' if len(names) > 12 else ''}"
        if not isinstance(value, str) and declared is None:
            hint += "; `label_names` of the task says what the data's integers stand for"
        hint += "; a base that was trained with other labels takes these with `head: new`"
        raise DataError(
            f"unknown label {value!r}{nearest(str(name), names)}", row=row, column=column, hint=hint
        ) from None


def target(
    row: Row,
    kind: Kind,
    names: Sequence[str],
    declared: Sequence[str] | None,
    number: int | None = None,
    column: str = "label",
) -> int | list[int] | float:
    """A row's target: the label's number, a list of numbers ("multi") or a float ("regression")."""
    if column not in row:
        raise DataError("is missing", row=number, column=column, hint="map it in `data.columns`")
    value = row[column]
    if kind == "multi":
        return sorted(
            {label_number(entry, names, declared, number, column) for entry in _entries(value, number, column)}
        )
    if kind == "single":
        return label_number(value, names, declared, number, column)
    try:
        result = float(value)
    except (TypeError, ValueError):
        result = math.nan
    if not math.isfinite(result):
        raise DataError(
            f"{value!r} is no finite number", row=number, column=column, hint="correct it or leave the row out"
        )
    return result


def target_tensor(targets: Sequence[Any], kind: Kind, count: int) -> torch.Tensor:
    """Targets of a batch: long [rows], or float [rows, labels] of zeros and ones, or float [rows]."""
    import torch

    if kind == "single":
        return torch.tensor(targets, dtype=torch.long)
    if kind == "regression":
        return torch.tensor(targets, dtype=torch.float32)
    result = torch.zeros(len(targets), count)
    for row, labels in enumerate(targets):
        result[row, labels] = 1.0
    return result
