"""Checks of the section `data` of a recipe before anything is loaded: missing roles, files and samples."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from topwork.data.options import DataOptions
from topwork.errors import Problem, nearest
from topwork.files import exists, expanded
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
    """Validate the section `data`, the names of its columns, and that its local files and samples exist."""
    if node is None:
        return DataOptions.model_validate({})
    options = check_options(DataOptions, node, ("data",), problems)
    for role in ROLES:
        section = node.get(role)
        if section is None or section.value is None:
            continue
        source = section if isinstance(section.value, str) else section.get("path")
        if source is not None and isinstance(source.value, str):
            path = f"data.{role}" if source is section else f"data.{role}.path"
            message = missing_source(source.value, plugins)
            if message:
                problems.append(Problem(source.location, path, message))
        if section.get("cut") is not None and not _given(node, "train"):
            problems.append(
                Problem(section.start, f"data.{role}", "`cut` takes rows from `data.train`, which is missing")
            )
    columns = node.get("columns")
    if task is not None and columns is not None and isinstance(columns.value, dict):
        for name, entry in columns.value.items():
            if name not in task.columns:
                problems.append(Problem(entry.start, f"data.columns.{name}", unknown_key(name, task.columns)))
    return options


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
