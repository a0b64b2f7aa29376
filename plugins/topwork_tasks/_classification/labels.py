"""Names of labels, and what a value in a row means among them: one set of rules for all tasks with numbered classes.

Entry points: `label_index`, `given_names`, `check_alike`, `check_spellings`. Rules:

- A string is a name. A name that differs from a known one in case alone means that one, if only one does.
- An integer means what its own source declares (core hands such integers over as names); else the position of a name
  in the option `label_names`, or the key of its mapping; else it is a name itself. That is decided once for a column
  (`integer_names`) and kept with the model.
- Negative integers, None and fractions are no labels; a negative integer that `label_names` names is one. Truth values
  are the names `true` and `false`; whole floats are integers.

Targets of classification rows are made in `targets`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from numbers import Integral, Real
from typing import Any

from topwork import DataError, UsageError, listed, nearest

#: the option `label_names`: names in the order of the data's integers, or a mapping from what is written to names
LabelNames = list[str] | dict[int | str, str] | None
LABEL_NAMES_HELP = (
    "what the data's integers stand for, in order; or a mapping from what is written to the label: {1: bad, 2: good}"
)
_NEGATIVE = re.compile(r"-[1-9][0-9]*(\.0+)?")
#: what may stand between labels in one cell of a table
SEPARATORS = (";", "|", ",")
QUOTES = "\"'\u201c\u201d"
#: what integers stand for: names by position, or by what is written; None where integers are names themselves
Declared = Sequence[str] | Mapping[str, str] | None


def label_config(names: Sequence[str]) -> dict[str, Any]:
    """Return the config entries of a task head whose outputs are these labels, in order: `id2label` and `label2id`."""
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


# ---------------------------------------------------------------- reading one value


def as_label(
    value: Any, row: int | None = None, column: str = "label", further: str = "", named: Collection[str] = ()
) -> str | int:
    """Return a value of a row as a name or an integer.

    Args:
        value: as the row has it.
        row: index of the row, for messages.
        column: name of the column, for messages.
        further: added to hints.
        named: what is known to be a label as it is written, `-1` among them.

    Raises:
        DataError: None, white space, a fraction, a negative integer that is not named, a container: no label.
    """
    if value is None:
        raise DataError(
            "is empty, which is no label", row=row, column=column, hint=f"fill it in or leave the row out{further}"
        )
    if isinstance(value, str):
        if not value.strip() and value not in named:
            raise DataError(
                f"{value!r} is no label", row=row, column=column, hint=f"labels are strings or integers{further}"
            )
        return value
    if isinstance(value, bool) or type(value).__name__ == "bool_":
        return "true" if value else "false"
    if isinstance(value, Real) and not isinstance(value, Integral) and float(value).is_integer():
        value = int(float(value))
    if not isinstance(value, Integral):
        raise DataError(
            f"{value!r} is no label", row=row, column=column, hint=f"labels are strings or integers{further}"
        )
    if value < 0 and str(int(value)) not in named:
        raise _negative(int(value), row, column)
    return int(value)


def _negative(value: Any, row: int | None, column: str) -> DataError:
    return DataError(
        f"{value} is no label: negative integers mark what does not count",
        row=row,
        column=column,
        hint=f"leave such rows out, or name all labels: `label_names: {{{value}: ..., ...}}`",
    )


def label_index(
    value: Any, names: Sequence[str], declared: Declared, row: int | None = None, column: str = "label"
) -> int:
    """Return the index of the model's output that a label of a row stands for.

    Args:
        value: as the row has it: a name or an integer.
        names: label names in the order of the outputs.
        declared: what the data's integers stand for.
        row: index of the row, for messages.
        column: name of the column, for messages.

    Example:
        >>> label_index("no", ["yes", "no"], None), label_index(0, ["yes", "no"], ["no", "yes"])
        (1, 1)
    """
    label = as_label(value, row, column, named=declared if isinstance(declared, Mapping) else names)
    name = _declared_name(label, declared)
    indices, folded = _lookup(tuple(names))
    candidates = [name, str(label)] if name is not None else [str(label)]
    if not isinstance(label, str) and declared is None:
        candidates.append(f"LABEL_{label}")
    for candidate in candidates:
        if candidate in indices:
            return indices[candidate]
    for candidate in candidates:
        if (index := folded.get(candidate.casefold())) is not None:
            return index
    raise DataError(
        f"unknown label {value!r}",
        row=row,
        column=column,
        hint=partial(unknown_hint, candidates[0], names, isinstance(label, int) and declared is None),
    )


def _declared_name(label: str | int, declared: Declared) -> str | None:
    if isinstance(declared, Mapping):
        return declared.get(str(label))
    if declared is not None and isinstance(label, int) and 0 <= label < len(declared):
        return declared[label]
    return None


@lru_cache(maxsize=32)
def _lookup(names: tuple[str, ...]) -> tuple[dict[str, int], dict[str, int]]:
    """Return indices by name, and by name without case where that is one to one."""
    indices = {name: index for index, name in reversed(list(enumerate(names)))}
    folded: dict[str, int] = {}
    for name, index in indices.items():
        folded[name.casefold()] = -1 if name.casefold() in folded else index
    return indices, {name: index for name, index in folded.items() if index >= 0}


def unknown_hint(word: str, names: Sequence[str], bare_integer: bool) -> str:
    """Return the hint for a label that is not known: the nearest name, the known ones, what else might be meant."""
    hint = nearest(word, names).removeprefix("; ")
    hint += f"{'; ' * bool(hint)}known labels: {listed(names)}"
    if bare_integer:
        if word.isdigit() and int(word) < len(names):
            hint += f"; if {word} stands for `{names[int(word)]}`,"
            hint += " say so: `label_names` of the task says what the data's integers stand for"
        else:
            hint += "; `label_names` of the task says what the data's integers stand for"
    return f"{hint}; a base that was trained with other labels takes these with `head: new`"


# ---------------------------------------------------------------- reading a column


def declared_by(rows: Any, column: str) -> list[str] | None:
    """Return the names that the source of rows declares for a column (`label`, `objects.category`), or None."""
    names = getattr(rows, "names", None)
    if isinstance(names, Mapping):
        return list(names[column]) if column in names else None
    feature: Any = getattr(rows, "features", None) or {}
    for part in column.split("."):
        while not isinstance(feature, Mapping) and (hasattr(feature, "feature") or isinstance(feature, list)):
            feature = feature[0] if isinstance(feature, list) else feature.feature
        feature = feature.get(part) if isinstance(feature, Mapping) else None
    while hasattr(feature, "feature") or (isinstance(feature, list) and feature):
        feature = feature[0] if isinstance(feature, list) else feature.feature
    inner = getattr(feature, "names", None)
    return [str(name) for name in inner] if inner else None


def given_names(option: Any) -> tuple[list[str] | None, list[str] | dict[str, str] | None]:
    """Return the names that the option `label_names` lists, and what written values stand for by it.

    Raises:
        UsageError: a name stands twice in the list.
    """
    if not option:
        return None, None
    if isinstance(option, Mapping):
        return list(dict.fromkeys(option.values())), {str(key): name for key, name in option.items()}
    names = list(option)
    if len(set(names)) != len(names):
        raise UsageError(f"`label_names` has a name twice: {names}", place="task.label_names")
    return names, names


def integer_names(
    values: Iterable[Any], option: Any, source: Sequence[str] | None, notes: list[str], column: str = "label"
) -> list[str] | dict[str, str] | None:
    """Decide once what the integers of a column stand for.

    Args:
        values: labels of all rows, flat.
        option: the option `label_names`.
        source: names that the rows' source declares; the values are names then.
        notes: takes a line where both readings fit and differ.
        column: name of the column, for messages.

    Returns:
        names by position or by written value, or None when integers are names themselves.

    Raises:
        DataError: some integers fit only as positions, others only as names.
    """
    names, declared = given_names(option)
    if names is None or declared is None or isinstance(declared, dict):
        return list(source) if source and declared is None else declared
    if source is not None:
        return _renamed(list(source), names)
    integers = {label for value in values if isinstance(label := _tolerant(value, names), int)}
    as_names = {label for label in integers if str(label) in names}
    if not as_names:
        return declared
    if as_names == integers:
        if any(names.index(str(label)) != label for label in integers):
            notes.append(
                f"{column}: the integers {_listed(integers)} are read as the names in `label_names`, not as positions"
            )
        return None
    beyond = sorted(label for label in integers if label >= len(names))
    if beyond:
        only = min(as_names - set(range(len(names))), default=min(as_names))
        raise DataError(
            f"{only} is a name in `label_names` and {min(integers - as_names)} is none",
            column=column,
            hint="give all names, or a mapping `label_names: {written: name}`",
        )
    notes.append(
        f"{column}: the integers {_listed(integers)} are read as positions in `label_names`, though some are names"
    )
    return declared


def _tolerant(value: Any, named: Collection[str]) -> Any:
    try:
        return as_label(value, named=named)
    except DataError:
        return None


def _listed(values: Collection[int]) -> str:
    return ", ".join(map(str, sorted(values)[:6])) + (", ..." if len(values) > 6 else "")


def _renamed(source: list[str], names: list[str]) -> list[str] | dict[str, str]:
    """Map the source's label names to those of the option, by index where the names differ."""
    if set(source) <= set(names):
        return names
    by_integer = {str(index): name for index, name in enumerate(names)}
    return {**by_integer, **{old: new for old, new in zip(source, names) if old not in names}}


def check_alike(value: Any, known: Collection[Any], row: int, column: str, further: str = "") -> None:
    """Refuse what is no label, and integers among names or names among integers that rows before had.

    A negative integer is no label in text either: a column of names that has `-1` marks rows without a label by it.

    Raises:
        DataError: with the row.
    """
    label = as_label(value, row, column, further)
    if isinstance(label, str) and _NEGATIVE.fullmatch(label):
        raise _negative(label, row, column)
    earlier = next(iter(known), label)
    is_truth_value = isinstance(value, bool) or type(value).__name__ == "bool_"
    if isinstance(earlier, str) != isinstance(label, str) or (is_truth_value and earlier not in ("true", "false")):
        raise DataError(
            f"{value!r} beside {earlier!r}: labels are either names or numbers",
            row=row,
            column=column,
            hint="write all labels alike",
        )


def check_spellings(first_rows: Mapping[str, int | None], column: str) -> None:
    """Refuse two labels that differ by white space, by invisible characters or by Unicode form alone.

    Args:
        first_rows: label -> index of the first row that has it, None where no row is known.
        column: name of the column, for messages.

    Raises:
        DataError: with both spellings and the row of the later one.
    """
    known: dict[str, str] = {}
    for name, row in first_rows.items():
        plain = " ".join(_visible(unicodedata.normalize("NFKC", name)).split())
        earlier = known.setdefault(plain, name)
        if earlier != name:
            how = "white space" if "".join(earlier.split()) == "".join(name.split()) else "Unicode form"
            if _visible(earlier) == _visible(name):
                how = "invisible characters"
            raise DataError(
                f"the labels {earlier!a} and {name!a} differ by {how} alone",
                row=row,
                column=column,
                hint="write one of them everywhere, or name both: `label_names: {written: label}`",
            )


def _visible(text: str) -> str:
    """Return a text without format characters, such as a zero width space or a byte order mark."""
    return "".join(sign for sign in text if unicodedata.category(sign) != "Cf")


def distinct_labels(values: Iterable[tuple[int, Any]], column: str, further: str = "") -> list[str]:
    """Return the distinct labels of (row, value), sorted: integers by size, names by alphabet.

    Raises:
        DataError: a value is no label, names and integers are mixed, or two spellings of one name occur.
    """
    first_rows: dict[str | int, int] = {}
    faults: list[DataError] = []
    for row, value in values:
        try:
            check_alike(value, first_rows, row, column, further)
        except DataError as error:
            faults.append(error)
            continue
        first_rows.setdefault(as_label(value), row)
    if faults:
        faults[0].rows = [error.row for error in faults if error.row is not None]
        raise faults[0]
    check_spellings({str(label): row for label, row in first_rows.items()}, column)
    return [str(label) for label in sorted(first_rows)]


def name_doubts(names: Iterable[str]) -> list[str]:
    """Return doubts about names of labels, one sentence each: several names in one, names that differ by case alone."""
    known, doubts = set(names), []
    folded: dict[str, str] = {}
    for name in sorted(known):
        if name != name.strip():
            doubts.append(f"the label {name!r} begins or ends with white space")
        if len(name.strip()) > 1 and name.strip()[0] in QUOTES and name.strip()[-1] in QUOTES:
            doubts.append(f"the label {name.strip()} stands in quotation marks")
        parts = next((parts for mark in SEPARATORS if len(parts := _parts(name, mark)) > 1), ())
        if parts and set(parts) <= known:
            doubts.append(
                f"the label {name!r} joins {' and '.join(map(repr, parts))}: several labels? `multi_label: true`"
            )
        earlier = folded.setdefault(name.casefold(), name)
        if earlier != name:
            doubts.append(f"the labels {earlier!r} and {name!r} differ by case alone")
    return doubts


def spelling_doubts(names: Iterable[Any], column: str) -> list[str]:
    """Return doubts about names of entries (tags, categories): two that differ by a detail, and those of `name_doubts`.

    Args:
        names: of all entries; what is no text is left out.
        column: name of the column, for messages.
    """
    known = sorted({name for name in names if isinstance(name, str)})
    try:
        check_spellings(dict.fromkeys(known), column)
    except DataError as error:
        return [f"column `{column}`: {error.cause}; {error.hint}"]
    return name_doubts(known)


def _parts(name: str, mark: str) -> list[str]:
    return [part.strip() for part in name.split(mark) if part.strip()]


def source_names(names: Sequence[str], column: str) -> list[str]:
    """Return the names that a source declares for its integers, as the names of outputs.

    Raises:
        DataError: two of them differ by white space, invisible characters or Unicode form alone.
    """
    check_spellings(dict.fromkeys(names), column)
    return list(names)


def flattened(values: Iterable[Any]) -> Iterator[Any]:
    """Yield the entries of lists, and what is no list as it is."""
    for value in values:
        if isinstance(value, list | tuple) or type(value).__name__ == "ndarray":
            yield from value
        else:
            yield value
