"""Checks of the section `data` of a recipe before anything is loaded: missing roles, files and samples."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from topwork.data.options import CutOptions, DataOptions, RowsOptions
from topwork.data.splits import SeveralSplits
from topwork.errors import Problem, TopworkError, listed, nearest
from topwork.files import exists, expanded
from topwork.recipe.headers import MOST_BYTES, read_header
from topwork.recipe.validation import check_options, unknown_key
from topwork.recipe.yaml import Node

if TYPE_CHECKING:
    from topwork.plugins.registry import Plugins
    from topwork.task import Task

ROLES = ("train", "calibrate", "evaluate", "predict")
FILES = (
    ".csv",
    ".tsv",
    ".json",
    ".jsonl",
    ".ndjson",
    ".parquet",
    ".arrow",
    ".txt",
    ".gz",
    ".zip",
    ".zst",
    ".xz",
    ".bz2",
)


def check_data(
    node: Node | None, task: type[Task] | None, plugins: Plugins, problems: list[Problem]
) -> DataOptions | None:
    """Validate the section `data`: options, local files and samples, columns of local files, cuts.

    Args:
        node: the section.
        task: the task; None when the recipe names none that is known.
        plugins: what is loaded.
        problems: what is wrong is appended here.
    """
    if node is None:
        return DataOptions.model_validate({})
    before = len(problems)
    options = check_options(DataOptions, node, ("data",), problems)
    for role in ROLES:
        section = node.get(role)
        if section is None or section.value is None:
            continue
        source = section if isinstance(section.value, str) else section.get("path")
        if source is not None and isinstance(source.value, str):
            path = f"data.{role}" if source is section else f"data.{role}.path"
            message = _placeholder(source.value) or missing_source(source.value, plugins)
            if message:
                problems.append(Problem(source.location, path, message))
        if section.get("cut") is not None and not _given(node, "train"):
            problems.append(
                Problem(section.start, f"data.{role}", "`cut` takes rows from `data.train`, which is missing")
            )
    columns = node.get("columns")
    if task is not None and columns is not None and isinstance(columns.value, dict):
        for name, column_node in columns.value.items():
            if name not in task.columns:
                problems.append(Problem(column_node.start, f"data.columns.{name}", unknown_key(name, task.columns)))
    if options is not None and len(problems) == before:
        _check_splits(node, options, plugins, problems)
        if task is not None:
            _check_files(node, options, task, plugins, problems)
    return options


def _placeholder(path: str) -> str | None:
    if path != "ROWS" or exists(expanded(path)):
        return None
    return "`ROWS` is to be filled in: a Hub data set, a local file or folder, or sample:<name>"


def _check_splits(node: Node, options: DataOptions, plugins: Plugins, problems: list[Problem]) -> None:
    """Check the splits of samples and of local files: names that are not the usual ones, and samples without one."""
    for role in ROLES:
        rows = getattr(options, role)
        if not isinstance(rows, RowsOptions):
            continue
        is_sample = rows.path.startswith("sample:")
        file = expanded(rows.path)
        small = os.path.isfile(file) and file.stat().st_size <= MOST_BYTES
        usual = ("train", "test") if is_sample else (None, "train")
        if (rows.split and rows.split.partition("[")[0]) in usual or not (small or is_sample):
            continue
        try:
            plugins.load_rows(rows)
        except SeveralSplits as error:
            problems.append(Problem(_at(node, role), f"data.{role}", f"{error.cause}; {error.hint}"))
        except TopworkError as error:
            if rows.split is not None:
                problems.append(Problem(_at(node, role, "split"), f"data.{role}.split", error.cause))


def _check_files(node: Node, options: DataOptions, task: type[Task], plugins: Plugins, problems: list[Problem]) -> None:
    """Check the columns of local files against those that the task reads, and that cuts leave rows."""
    for role in ROLES:
        rows = getattr(options, role)
        if not isinstance(rows, RowsOptions):
            continue
        header = read_header(rows.path, rows.options, rows.format)
        if header is None:
            continue
        targets = role != "predict"
        faults = list(_column_faults(task, options.columns, header.columns, targets=targets))
        if faults and (columns := _read_columns(rows, plugins)) is not None:  # a layout of files may give others
            faults = list(_column_faults(task, options.columns, columns, targets=targets))
        for path, message in faults:
            location = _at(node, "columns", path) if path else _at(node, role, "path")
            problems.append(Problem(location, f"data.columns.{path}" if path else f"data.{role}", message))
        if role == "train":
            _check_groups(node, options, rows, header.columns, plugins, problems)
        if header.rows == 0:
            problems.append(Problem(_at(node, role, "path"), f"data.{role}", "the file has no rows"))
        elif role == "train" and header.rows is not None and rows.split is None:
            _check_cuts(node, options, min(header.rows, rows.limit or header.rows), problems)


def _read_columns(rows: RowsOptions, plugins: Plugins) -> tuple[str, ...] | None:
    """Return the columns of rows as they are read; None where a file is large or cannot be read."""
    from topwork.data.columns import column_names

    file = expanded(rows.path)
    if not exists(file) or file.stat().st_size > MOST_BYTES:
        return None
    try:
        return tuple(column_names(plugins.load_rows(rows)))
    except TopworkError:
        return None  # the run says why


def _column_faults(
    task: type[Task], mapping: Mapping[str, str | list[str]], present: tuple[str, ...], *, targets: bool
) -> Iterator[tuple[str | None, str]]:
    """Yield (the task's column if the recipe maps it, message) for each column that rows of a file lack."""
    origins = {name: mapping.get(name, name) for name in task.columns}
    wanted = {name: [origin] if isinstance(origin, str) else origin for name, origin in origins.items()}
    if not {origin for many in wanted.values() for origin in many} & set(present):
        reads, wide = ", ".join(task.columns), present[0] if len(present) == 1 else ""
        separators = [mark for mark in (";", "\t", "|") if mark in wide]
        hint = f"; it looks separated by `{separators[0]}`: options: {{sep: '{separators[0]}'}}" if separators else ""
        yield None, f"no column fits: the task reads {reads}; the rows have {listed(present, 24)}{hint}"
        return
    for name, column in task.columns.items():
        needed = name in mapping or (column.required and (targets or not column.target))
        missing = [origin for origin in wanted[name] if origin not in present]
        if needed and missing:
            about = f"for the task's `{name}` ({column.description}){nearest(missing[0], present)}"
            hint = "" if name in mapping else f"; map it: columns: {{{name}: ...}}"
            message = f"no column `{missing[0]}` {about}; there are {listed(present, 24)}{hint}"
            yield (name if name in mapping else None), message


def _check_groups(
    node: Node,
    options: DataOptions,
    rows: RowsOptions,
    columns: tuple[str, ...],
    plugins: Plugins,
    problems: list[Problem],
) -> None:
    """Check that the columns by which cuts keep rows together are there."""
    for role in ("evaluate", "calibrate"):
        section = getattr(options, role)
        by = section.by if isinstance(section, CutOptions) else None
        if by is None or by in columns or by in options.columns:
            continue
        present = _read_columns(rows, plugins)  # a layout of files may give others
        if present is not None and by not in present:
            message = f"no column `{by}` to cut by{nearest(by, present)}; there are {listed(present, 24)}"
            problems.append(Problem(_at(node, role, "cut", "by"), f"data.{role}.cut.by", message))


def _check_cuts(node: Node, options: DataOptions, total: int, problems: list[Problem]) -> None:
    for role in ("evaluate", "calibrate"):
        section = getattr(options, role)
        if not isinstance(section, CutOptions):
            continue
        cut = section.size
        count = cut if isinstance(cut, int) else round(total * cut)
        if not 0 < count < total:
            message = f"cuts {count} of {total} training rows off; some must go and some must stay"
            problems.append(Problem(_at(node, role, "cut"), f"data.{role}.cut", message))
        total -= count


def _at(node: Node, *keys: str) -> str:
    """Return the location of the value below these keys, or of the last one that stands there."""
    for key in keys:
        below = node.get(key)
        if below is None:
            break
        node = below
    return node.location


def check_roles(
    node: Node | None, needs: Iterable[tuple[str, str, Iterable[str]]], root: Node, problems: list[Problem]
) -> None:
    """Check that every stage is given the rows that it reads.

    Args:
        node: the section `data`.
        needs: for each stage its name, its location, and the roles that it reads.
        root: the recipe, for the place of a missing section.
        problems: what is missing is appended here, once for each role.
    """
    wanted: dict[str, list[str]] = {}
    for stage, _, roles in needs:
        for role in roles:
            # Rows to calibrate on are cut from the training rows unless the recipe gives some.
            needed = "train" if role == "calibrate" and not _given(node, "calibrate") else role
            if not _given(node, needed):
                stages = wanted.setdefault(needed, [])
                if stage not in stages:
                    stages.append(stage)
    for role, stages in wanted.items():
        names = ", ".join(f"`{stage}`" for stage in stages)
        verb = "reads" if len(stages) == 1 else "read"
        hint = f"give `data.{role}` a path"
        if role == "predict":
            hint += ", or let the stage read other rows: `{role: evaluate}`"
        if role == "evaluate":
            hint += ", or cut it from the training rows: `evaluate: {cut: 0.1}`"
        location = root.location if node is None else node.start
        problems.append(Problem(location, f"data.{role}", f"missing: {names} {verb} these rows; {hint}"))


def _given(node: Node | None, role: str) -> bool:
    section = node.get(role) if node is not None else None
    return section is not None and section.value is not None


def missing_source(path: str, plugins: Plugins) -> str | None:
    """Return the fault of a path of rows that shows without loading it, or None."""
    kind, colon, name = path.partition(":")
    if colon and kind == "sample":
        return None if name in plugins.samples else str(plugins.unknown("sample", name, plugins.samples))
    if "://" in path or not looks_local(path):
        return None
    file = expanded(path)
    if exists(file) or (glob.has_magic(path) and next(glob.iglob(str(file), recursive=True), None)):
        return None
    hint = "; variables of the environment are not filled in: write the path out, or begin it with ~"
    return f"there is no file or folder `{path}`{hint if '$' in path else _neighbour(file)}"


def looks_local(path: str) -> bool:
    """Return whether this can only be a file or folder: it begins with ./ ../ ~ or /, or ends like a data file."""
    return path.startswith(("./", "../", "~", "/")) or path in (".", "..") or path.lower().endswith(FILES)


def _neighbour(path: Path) -> str:
    if not exists(path.parent):
        return f"; the folder `{path.parent}` does not exist either"
    return nearest(path.name, [entry.name for entry in path.parent.iterdir()])
