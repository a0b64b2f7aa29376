"""A package for a plugin, written by `topwork plugins new`: `write_package`. Its tests pass as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from topwork.cli.new_package.templates import ABOUTS, FILES, NETWORK, PLUGINS
from topwork.cli.new_package.templates_of_tests import TESTS
from topwork.errors import UsageError, unknown
from topwork.files import write_whole
from topwork.hookspecs import CONTRACT

if TYPE_CHECKING:
    from topwork.plugins.registry import Plugins


def write_package(name: str, kind: str, parent: Path, plugins: Plugins) -> Path:
    """Write a package that brings one task, stage, observer or base.

    Args:
        name: of the package, such as `topwork-vowels`; what it brings is called `vowels`.
        kind: a key of `PLUGINS`.
        parent: the folder in which that of the package is made.
        plugins: what is installed; names that are taken are refused.

    Returns:
        the folder of the package.

    Raises:
        UsageError: an unknown kind, a name that no package can have or that is taken, or a folder that is there.
    """
    if kind not in PLUGINS:
        raise unknown("kind of plugin", kind, PLUGINS)
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name) or name == "topwork":
        hint = "lower-case letters and digits, parts joined by -, such as topwork-vowels"
        raise UsageError(f"`{name}` is no name of a package", place="topwork plugins new", hint=hint)
    short = name.removeprefix("topwork-")
    words = {
        "NAME": name,
        "MODULE": name.replace("-", "_"),
        "SHORT": short,
        "IDENTIFIER": short.replace("-", "_"),
        "CLASS": "".join(part.capitalize() for part in short.split("-")),
        "ABOUT": ABOUTS[kind],
        "CONTRACT": str(CONTRACT),
        "TASK": "" if kind == "task" else _task_of_labels(plugins),
    }
    _check_names(words, kind, plugins)
    folder = parent / name
    if folder.exists():
        raise UsageError("there is something of that name already", place=str(folder), hint="choose another name")
    module, test = "@MODULE@/__init__.py", "tests/test_@MODULE@.py"
    texts = {**FILES, module: PLUGINS[kind], test: TESTS[kind]}
    if kind == "base":
        texts["@MODULE@/network.py"] = NETWORK
    with write_whole(folder) as temporary:
        for path, text in texts.items():
            file = temporary / _filled(path, words)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(_filled(text, words), encoding="utf-8")
    return folder


def _check_names(words: dict[str, str], kind: str, plugins: Plugins) -> None:
    """Refuse names that something installed has: the new plugin could not be loaded beside it."""
    tables = {"task": plugins.tasks, "stage": plugins.stages}
    name = words["IDENTIFIER"] if kind == "stage" else words["SHORT"]
    taken = str(tables[kind].owner(name)) if kind in tables and name in tables[kind] else None
    taken = taken or next((str(info) for info in plugins.loaded if info.name == words["SHORT"]), None)
    if taken is not None:
        raise UsageError(f"the name `{name}` is taken by {taken}", place="topwork plugins new", hint="choose another")


def _task_of_labels(plugins: Plugins) -> str:
    """Return the name of an installed task that reads texts with labels: the tests of other kinds train it."""
    for name, task in sorted(plugins.tasks.items()):
        required = {title for title, column in task.columns.items() if column.required}
        if required == {"text", "label"}:
            return name
    hint = "install topwork's own tasks, or take --kind task"
    raise UsageError("no installed task has the columns text and label", place="topwork plugins new", hint=hint)


def _filled(text: str, words: dict[str, str]) -> str:
    return re.sub(r"@([A-Z]+)@", lambda match: words[match.group(1)], text)
