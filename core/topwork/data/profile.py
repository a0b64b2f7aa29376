"""Profile of a recipe's rows before training: counts, distributions and doubts, role by role.

`profile_rows` is the entry point; the command `topwork data` prints its result and plugins draw it. Rows are read as a
run would read them (`Roles`); what only a task can see comes from `Task.rows_view`.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from topwork.data.cells import FILES
from topwork.data.columns import column_names, row_count
from topwork.data.roles import Roles
from topwork.data.table import Table
from topwork.errors import DataError
from topwork.items import Json, Row

if TYPE_CHECKING:
    from topwork.task import Column, Task

#: rows of each role that are read when no other number is given
MOST_ROWS = 10_000
#: distinct values of a target column up to which they are counted as labels
MOST_LABELS = 2_000
#: largest label count / smallest label count from which an imbalance is reported
IMBALANCE = 20.0
#: rows of each role whose files are decoded to look for what training would refuse
MOST_DECODED = 100
#: kinds of targets that somebody annotates; a task may have several of which one is enough
_ANNOTATED = ("label", "labels", "tags", "spans", "mask", "boxes", "segments", "depth", "answers")
_SHOWN = 5


@dataclass
class ColumnProfile:
    """Distribution of one column.

    Args:
        name: the task's column.
        source: the column of the rows that it is read from.
        description: what the task reads in it.
        target: True for a column that holds the truth.
        missing: number of rows without a value.
        kind: "labels", "text", "number", "list", "file" or "other", by the values that were seen.
        labels: label or list entry -> count, most frequent first.
        lengths: quantiles of characters (text), entries (list), bytes (file) or values (number).
    """

    name: str
    source: str
    description: str
    target: bool
    missing: int = 0
    kind: str = "other"
    labels: dict[str, int] = field(default_factory=dict)
    lengths: dict[str, float] = field(default_factory=dict)


@dataclass
class RoleProfile:
    """Rows of one role.

    Args:
        role: "train", "calibrate", "evaluate" or "predict".
        rows: number of rows; None for a stream.
        profiled: number of rows that were read for this profile.
        columns: one profile for each column of the task that the rows have.
        unused: columns of the rows that the task does not read.
        measures: what the task measures of a row (`RowsView.measure`) -> quantiles.
        examples: first rows, as `RowsView.preview` renders them.
    """

    role: str
    rows: int | None
    profiled: int
    columns: list[ColumnProfile]
    unused: list[str] = field(default_factory=list)
    measures: dict[str, dict[str, float]] = field(default_factory=dict)
    examples: list[Any] = field(default_factory=list)


@dataclass
class Profile:
    """Profile of all roles.

    Args:
        task: name of the task.
        roles: one profile for each role that has rows.
        notes: how the rows were read and cut.
        doubts: what looks wrong without being an error, one sentence each.
    """

    task: str
    roles: list[RoleProfile]
    notes: list[str]
    doubts: list[str]

    def to_json(self) -> dict[str, Json]:
        """Return the profile as JSON, without the examples' images."""
        from dataclasses import asdict

        roles = []
        for role in self.roles:
            profile = {**vars(role), "columns": [asdict(column) for column in role.columns]}
            profile["examples"] = [picture.caption for picture in role.examples]
            roles.append(profile)
        return {"task": self.task, "roles": roles, "notes": self.notes, "doubts": self.doubts}


def profile_rows(
    task: type[Task], options: Any, roles: Roles, names: Sequence[str], *, most: int = MOST_ROWS, examples: int = 3
) -> Profile:
    """Profile the rows of some roles.

    Args:
        task: class of the task that will read the rows.
        options: options of the task.
        roles: the rows.
        names: roles to profile, in the order to report.
        most: rows of each role to read.
        examples: rows of each role to render.

    Returns:
        The profile; `doubts` compares the roles with each other too.

    Raises:
        TopworkError: rows that a run could not read either.
    """
    profiles, digests, doubts = [], {}, []
    for role in names:
        rows = roles(role)
        sample = list(islice(iter(rows), most))
        profiles.append(_role_profile(task, options, roles, role, rows, sample, examples))
        inputs = [name for name, column in task.columns.items() if not column.target]
        digests[role] = [_digest(row, inputs) for row in sample]
        doubts += [f"{role}: {doubt}" for doubt in _refused(task, options, role, rows, sample)]
        doubts += [f"{role}: {doubt}" for doubt in task.rows_view.doubts(sample, options)]
    doubts += [*_missing_doubts(task, profiles), *_label_doubts(profiles), *_duplicate_doubts(digests)]
    return Profile(task.name, profiles, list(roles.notes), doubts)


def _role_profile(
    task: type[Task], options: Any, roles: Roles, role: str, rows: Any, sample: Sequence[Row], examples: int
) -> RoleProfile:
    mapping = roles.data.columns
    present = column_names(rows)
    columns = [
        _column_profile(name, _source(mapping.get(name, name)), column, [row.get(name) for row in sample])
        for name, column in task.columns.items()
        if name in present
    ]
    measures: dict[str, list[float]] = {}
    for row in sample:
        for name, value in task.rows_view.measure(row, options).items():
            measures.setdefault(name, []).append(float(value))
    return RoleProfile(
        role,
        row_count(rows),
        len(sample),
        columns,
        measures={name: quantiles(values) for name, values in measures.items()},
        examples=[task.rows_view.preview(row, options) for row in sample[:examples]],
    )


def _column_profile(name: str, source: str, column: Column, values: Sequence[Any]) -> ColumnProfile:
    profile = ColumnProfile(name, source, column.description, column.target)
    present = [value for value in values if not _is_missing(value)]
    profile.missing = len(values) - len(present)
    if not present:
        return profile
    if (
        column.lazy
        or column.kind in FILES
        or all(isinstance(value, Mapping) and {"bytes", "path"} <= set(value) for value in present)
    ):
        profile.kind = "file"
        profile.lengths = quantiles(len(value["bytes"]) for value in present if _has_bytes(value))
    elif (
        column.kind != "text"
        and all(isinstance(value, str | bool | int) for value in present)
        and (column.target or _repeats(present))
    ):
        counts = Counter(str(value) for value in present)
        least = 20 if column.kind in ("label", "labels") else 2
        if len(counts) <= MOST_LABELS and len(counts) <= max(least, len(present) // 2):
            profile.kind, profile.labels = "labels", dict(counts.most_common())
        else:
            profile.kind, profile.lengths = "text", quantiles(len(str(value)) for value in present)
    elif all(isinstance(value, str) for value in present):
        profile.kind, profile.lengths = "text", quantiles(len(value) for value in present)
    elif all(isinstance(value, int | float) for value in present):
        profile.kind, profile.lengths = "number", quantiles(present)
    elif all(isinstance(value, Sequence) for value in present):
        profile.kind, profile.lengths = "list", quantiles(len(value) for value in present)
        kinds = str | int if column.kind in ("label", "labels", "tags") else str
        entries = Counter(str(entry) for value in present for entry in value if isinstance(entry, kinds))
        _count_names(profile, entries)
    elif column.kind == "boxes" and all(isinstance(value, Mapping) for value in present):
        cells = [entry for value in present for entries in value.values() for entry in entries or ()]
        _count_names(profile, Counter(entry for entry in cells if isinstance(entry, str)))
    return profile


def _count_names(profile: ColumnProfile, names: Counter[str]) -> None:
    """Take the names of a target's entries for labels, unless they are too many to be any."""
    if profile.target and len(names) <= MOST_LABELS:
        profile.labels = dict(names.most_common())


def _source(origin: str | Sequence[str]) -> str:
    return origin if isinstance(origin, str) else ", ".join(origin)


def _repeats(values: Sequence[Any]) -> bool:
    """Return whether values look like labels: few distinct ones, each short."""
    distinct = {str(value) for value in values}
    return len(values) >= 20 and len(distinct) <= 20 and max(map(len, distinct)) <= 40


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _has_bytes(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes)


def quantiles(values: Iterable[float]) -> dict[str, float]:
    """Return the smallest, the largest and three values between as {"min", "p5", "median", "p95", "max"}."""
    ordered = sorted(values)
    if not ordered:
        return {}
    at = {"min": 0.0, "p5": 0.05, "median": 0.5, "p95": 0.95, "max": 1.0}
    return {name: float(ordered[round(share * (len(ordered) - 1))]) for name, share in at.items()}


# ---------------------------------------------------------------- doubts


def _refused(task: type[Task], options: Any, role: str, rows: Any, sample: Sequence[Row]) -> Iterator[str]:
    """Yield how many rows training would refuse, and the first of them with its cause; rows without any target."""
    targets = {name for name, column in task.columns.items() if column.target}
    annotated = [name for name in task.columns if name in targets and task.columns[name].kind in _ANNOTATED]
    if role != "predict" and annotated and all(row.get(name) is None for row in sample for name in annotated):
        yield f"no row has a value in {' or '.join(f'`{name}`' for name in annotated)}"
    errors = []
    step = max(1, len(sample) // MOST_DECODED)
    for index, row in enumerate(sample):
        known = row if role != "predict" else {name: value for name, value in row.items() if name not in targets}
        try:
            _check_texts(task, known)
            task.rows_view.check(known, options, whole=index % step == 0)
        except DataError as error:
            errors.append((index, error))
    if errors:
        index, first = errors[0]
        location = (rows.origin.location(index) if isinstance(rows, Table) else None) or f"row {index}"
        hint = f"; {first.hint}" if first.hint else ""
        yield (
            f"{len(errors)} of {len(sample)} rows cannot be used, such as {location}: column `{first.column}`"
            f" {first.cause}{hint}"
        )


def _check_texts(task: type[Task], row: Row) -> None:
    """Refuse a row without a required text, or with a value of another kind for one."""
    for name, column in task.columns.items():
        value = row.get(name)
        if column.kind != "text" or name not in row:
            continue
        if value is None and column.required and not column.target:
            raise DataError("is empty, not text", column=name, hint="fill it in or leave the row out")
        if not _is_missing(value) and not isinstance(value, str):
            raise DataError(f"is {type(value).__name__}, not text", column=name, hint="make it a string")


def _missing_doubts(task: type[Task], profiles: Sequence[RoleProfile]) -> Iterator[str]:
    """Yield targets that some rows have and others lack."""
    for profile in profiles:
        for column in profile.columns:
            about = task.columns[column.name]
            needed = about.target and (about.required or about.kind in ("label", "labels", "tags", "spans"))
            if needed and profile.role != "predict" and 0 < column.missing < profile.profiled + about.required:
                yield (
                    f"{profile.role}: column `{column.name}` is empty in {column.missing} of {profile.profiled} rows;"
                    " `data: {on_error: skip}` leaves them out"
                )


def _label_doubts(profiles: Sequence[RoleProfile]) -> Iterator[str]:
    """Yield labels that only one role has, imbalance, and targets that never vary."""
    targets: dict[str, dict[str, dict[str, int]]] = {}
    one_label_a_row: set[str] = set()
    for profile in profiles:
        for column in profile.columns:
            if column.target and column.labels:
                targets.setdefault(column.name, {})[profile.role] = column.labels
                one_label_a_row |= {column.name} if column.kind == "labels" else set()
    for name, by_role in targets.items():
        trained = by_role.get("train")
        for role, counts in by_role.items():
            if len(counts) == 1 and name in one_label_a_row:
                yield f"{role}: column `{name}` has the single value {next(iter(counts))!r} in every row"
            smallest, largest = min(counts.values()), max(counts.values())
            if largest >= IMBALANCE * smallest and role == "train":
                yield (
                    f"{role}: column `{name}` is imbalanced: {_most(counts)!r} has {largest} rows,"
                    f" {_least(counts)!r} {smallest}"
                )
            if trained is None or role == "train":
                continue
            if unknown := [label for label in counts if label not in trained]:
                yield f"{role}: {_listed(unknown)} of column `{name}` in no profiled training row"
            if absent := [label for label in trained if label not in counts]:
                yield f"{role}: {_listed(absent)} of column `{name}` in no profiled row, though in training rows"


def _most(counts: Mapping[str, int]) -> str:
    return max(counts, key=lambda label: counts[label])


def _least(counts: Mapping[str, int]) -> str:
    return min(counts, key=lambda label: counts[label])


def _listed(labels: Sequence[str]) -> str:
    shown = ", ".join(repr(label) for label in labels[:_SHOWN])
    return shown + (f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else "")


def _duplicate_doubts(digests: Mapping[str, Sequence[bytes]]) -> Iterator[str]:
    """Yield counts of rows that stand in two roles (leakage) or several times in one."""
    names = list(digests)
    for index, role in enumerate(names):
        repeated = len(digests[role]) - len(set(digests[role]))
        if repeated:
            yield f"{role}: {repeated} of {len(digests[role])} rows repeat the inputs of another row"
        for other_role in names[index + 1 :]:
            known = set(digests[role])
            shared = sum(digest in known for digest in digests[other_role])
            if shared:
                yield (
                    f"{shared} of {len(digests[other_role])} {other_role} rows have the same inputs as a {role} row:"
                    " what is measured on them is not held out"
                )


def _digest(row: Row, inputs: Sequence[str]) -> bytes:
    """Return a digest of the row's inputs; a file counts by its bytes, or by its path when it is not read."""
    state = hashlib.blake2b(digest_size=16)
    for name in inputs:
        value = row.get(name)
        if isinstance(value, Mapping) and {"bytes", "path"} <= set(value):
            rest = [value[key] for key in sorted(value) if key not in ("bytes", "path")]  # a part of a file, say
            source = value["bytes"] if value["bytes"] is not None else value["path"]
            value = (source, rest) if rest else source
        to_bytes = getattr(value, "tobytes", None)
        if to_bytes is not None:
            value = to_bytes()
        state.update(value if isinstance(value, bytes) else repr(value).encode("utf-8", "surrogatepass"))
        state.update(b"\0")
    return state.digest()
