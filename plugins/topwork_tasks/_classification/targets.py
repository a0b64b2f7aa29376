"""Targets of classification rows: one label, several labels, or a number.

Entry points: `learn_targets`, which reads the label column of training rows once, and `Targets`, which reads rows. What
a single value means stands in `labels`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from topwork import Base, DataError, Json, Row, TopworkError, list_in_text
from topwork_tasks._classification import labels

if TYPE_CHECKING:
    import torch

#: one label of several, any number of labels, or one number
Kind = Literal["single", "multi", "regression"]


@dataclass
class Targets:
    """Reader of the targets of rows.

    Args:
        kind: of the targets.
        names: label names in the order of the model's outputs.
        declared: what the data's integers stand for, see `labels`.
        multi_hot: rows with several labels are vectors of zeros and ones.
        separator: between the labels of a cell of text; None for cells that hold one label.
        column: that holds the targets.
    """

    kind: Kind
    names: list[str]
    declared: labels.Declared = None
    multi_hot: bool = False
    separator: str | None = None
    column: str = "label"

    @classmethod
    def from_values(cls, values: Mapping[str, Json]) -> Targets:
        """Return the reader that a model's state describes."""
        return cls(
            values["kind"],
            values["label_names"],
            values["declared"],
            values.get("multi_hot", False),
            values.get("separator"),
        )

    def values(self) -> dict[str, Json]:
        """Return what `from_values` needs, as JSON."""
        declared = dict(self.declared) if isinstance(self.declared, Mapping) else self.declared
        made: dict[str, Json] = {"kind": self.kind, "label_names": self.names, "declared": declared}
        if self.multi_hot:
            made["multi_hot"] = True
        if self.separator is not None:
            made["separator"] = self.separator
        return made

    def index(self, value: Any, row: int | None = None, column: str | None = None) -> int:
        """Return the output that a label stands for."""
        return labels.label_index(value, self.names, self.declared, row, column or self.column)

    def of(self, row: Row, index: int | None = None) -> int | list[int] | float:
        """Return the target of a row: the label's index, a list of indices ("multi") or a float ("regression").

        Args:
            row: the row.
            index: of the row, for errors.
        """
        if self.column not in row:
            raise DataError("is missing", row=index, column=self.column, hint="map it in `data.columns`")
        value = row[self.column]
        if self.kind == "single":
            return self.index(value, index)
        if self.kind == "regression":
            return number_of(value, index, self.column)
        entries = entries_of(value, index, self.column, self.separator)
        if self.multi_hot and not any(isinstance(entry, str) and entry not in ("0", "1") for entry in entries):
            return self._marked(entries, index)
        return sorted({self.index(entry, index) for entry in entries})

    def _marked(self, entries: Sequence[Any], index: int | None) -> list[int]:
        if len(entries) != len(self.names) or not is_binary(entries):
            raise DataError(
                f"{list(entries)!r} is no vector of {len(self.names)} zeros and ones",
                row=index,
                column=self.column,
                hint="write a 1 for each label that the row has, or lists of names in all rows",
            )
        return [position for position, entry in enumerate(entries) if entry not in (0, "0")]

    def tensor(self, targets: Sequence[Any]) -> torch.Tensor:
        """Return targets of a batch: long [rows], floats [rows, labels] of zeros and ones, or floats [rows]."""
        import torch

        if self.kind == "single":
            return torch.tensor(targets, dtype=torch.long)
        if self.kind == "regression":
            return torch.tensor(targets, dtype=torch.float32)
        result = torch.zeros(len(targets), len(self.names))
        for row, indices in enumerate(targets):
            result[row, indices] = 1.0
        return result


def number_of(value: Any, row: int | None, column: str) -> float:
    """Return the finite number that a regression's target is or writes."""
    try:
        result = float(value)
    except (TypeError, ValueError):
        result = math.nan
    if not math.isfinite(result):
        cause = "is empty, which is no finite number" if value is None else f"{value!r} is no finite number"
        decimals = isinstance(value, str) and re.fullmatch(r"\s*[-+]?\d+,\d+\s*", value)
        hint = "write a point for the decimals" if decimals else "correct it or leave the row out"
        raise DataError(cause, row=row, column=column, hint=hint)
    return result


def entries_of(value: Any, row: int | None, column: str, separator: str | None = None) -> list[Any]:
    """Return the labels of a row that may have several: a list, JSON, or text with separators.

    Raises:
        DataError: none of these.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = value if (labels_in := list_in_text(value)) is None else labels_in
    if isinstance(value, str) and separator is not None:
        return [part.strip() for part in value.split(separator) if part.strip()]
    if value is None or isinstance(value, str | int | float) or not isinstance(value, Iterable):
        cause = "is empty, which is no list of labels" if value is None else f"{value!r} is no list of labels"
        hint = "write a list, empty for no label; or say what stands between labels: `label_separator`"
        raise DataError(cause, row=row, column=column, hint=hint)
    entries = value.tolist() if hasattr(value, "tolist") else list(value)
    return [entries] if not isinstance(entries, list) else entries


def is_binary(entries: Sequence[Any]) -> bool:
    """Return True if all entries are 0 or 1, of any type of number or truth value, or written as text."""
    return all(entry in ("0", "1") if isinstance(entry, str) else entry in (0, 1) for entry in entries)


# ---------------------------------------------------------------- learning


def learn_targets(
    rows: Any,
    kind: Kind,
    base: Base,
    auto: Sequence[str],
    option: Any = None,
    separator: str | None = None,
    notes: list[str] | None = None,
    column: str = "label",
) -> Targets:
    """Learn label names and how they are written.

    Names are those of the checkpoint's trained task head, else those of the option `label_names`, else those that the
    rows' source declares, else the distinct values of the column, sorted. A regression has the one name "LABEL_0", as
    transformers calls it.

    Args:
        rows: training rows, or None.
        kind: "single", "multi" or "regression".
        base: the base, which may have a trained task head.
        auto: the auto classes whose heads the base may have.
        option: `label_names`.
        separator: between labels of a cell; found in the column when it is None.
        notes: takes lines for the log.
        column: name of the column.

    Raises:
        DataError: rows that have no usable labels.
        TopworkError: no rows and no names.
    """
    notes = [] if notes is None else notes
    if kind == "regression":
        return Targets(kind, ["LABEL_0"], column=column)
    values = None if rows is None else column_values(rows, column)
    source = labels.declared_by(rows, column)
    given, _ = labels.given_names(option)
    trained = base.trained_labels(*auto)
    multi_hot = False
    if kind == "multi" and values is not None:
        separator = separator or _separator(values, column, notes)
        values = [_parsed(value, index, column, separator) for index, value in enumerate(values)]
        multi_hot = source is None and _is_multi_hot(values, trained or given or source)
    names = trained or given or (source and labels.source_names(source, column))
    if multi_hot:
        width = len(values[0]) if values else 0
        declared: Any = None
        names = names or [str(position) for position in range(width)]
        notes.append(f"{column}: vectors of {width} zeros and ones, one for each label")
    else:
        flat = [] if values is None else list(labels.flattened(values))
        declared = labels.integer_names(flat, option, source, notes, column)
    if not names:
        names = _distinct(values, column, kind)
        notes += [f"{column}: {doubt}" for doubt in labels.name_doubts(names)] if kind == "single" else []
    names = list(names)
    if len(set(names)) < (2 if kind == "single" else 1):
        raise DataError(f"has only the label {names}", column=column, hint="give rows with two labels or more")
    if len(set(names)) != len(names):
        raise DataError(f"declares a label name twice: {names}", column=column, hint="give every label its own name")
    return Targets(kind, names, declared, multi_hot, separator if kind == "multi" else None, column)


def column_values(rows: Any, column: str) -> list[Any]:
    """Return the values of a column of training rows.

    Raises:
        DataError: there is no such column.
    """
    if hasattr(rows, "column_names") and column not in (rows.column_names or [column]):
        raise DataError("is missing", column=column, hint="map it in `data.columns`")
    if hasattr(rows, "column_names") and hasattr(rows, "__len__"):
        return list(rows[column])
    return [row.get(column) for row in rows]


def _parsed(value: Any, row: int, column: str, separator: str | None) -> list[Any]:
    return entries_of(value, row, column, separator)


def _distinct(values: Sequence[Any] | None, column: str, kind: Kind) -> list[str]:
    if values is None:
        raise TopworkError(
            "the label names are not known",
            hint="give training rows, the option `label_names`, or a base with a trained task head",
        )
    pairs: Iterable[tuple[int, Any]] = enumerate(values)
    if kind == "multi":
        pairs = ((row, entry) for row, entries in enumerate(values) for entry in entries)
    further = "; for numbers set `regression: true`, for lists of labels `multi_label: true`"
    return labels.distinct_labels(pairs, column, further)


def _separator(values: Sequence[Any], column: str, notes: list[str]) -> str | None:
    """Return the separator of labels in cells of text; None where no cell is text.

    Raises:
        DataError: several could.
    """
    texts = [value for value in values if isinstance(value, str) and not value.lstrip().startswith("[")]
    if not texts:
        return None
    present = [mark for mark in labels.SEPARATORS if any(mark in text for text in texts)]
    if len(present) > 1:
        raise DataError(
            f"has {' and '.join(repr(mark) for mark in present)} in its cells, and either may stand between labels",
            column=column,
            hint="say which one does: `label_separator`",
        )
    if not present:
        return None
    notes.append(f"{column}: {present[0]!r} stands between the labels of a cell")
    return present[0]


def _is_multi_hot(values: Sequence[Sequence[Any]], names: Sequence[str] | None) -> bool:
    """Return whether lists are vectors of zeros and ones, all as long as the list of names if that is known.

    Without names a repeated entry in a row is the proof: a list of labels names none twice. So are rows of two entries
    in both orders: as lists of labels all rows would have the same ones.
    """
    lengths = {len(entries) for entries in values}
    if len(lengths) != 1 or not all(map(is_binary, values)):
        return False
    (length,) = lengths
    if names is not None:
        are_names = any(isinstance(entry, str) for entries in values for entry in entries) and {"0", "1"} & set(names)
        return length == len(names) and not are_names
    rows = {tuple(str(int(entry)) for entry in entries) for entries in values}
    return length > 1 and (len(rows) > 1 or any(len(set(row)) < length for row in rows))
