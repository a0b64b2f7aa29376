"""The arrows of the house: core knows no task and no plugin, plugins use public names only, tasks and lens are
strangers, and pyproject's table is the list of plugins."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import topwork

ROOT = Path(__file__).resolve().parents[2]
CORE = sorted((ROOT / "core" / "topwork").rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins").rglob("*.py"))
TABLE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["topwork"]

#: besides the package itself: public modules that bring torch with them and are therefore not in `topwork.__all__`
PUBLIC_MODULES = {"topwork.task_heads", "topwork.testing"}


def imports(file: Path) -> set[str]:
    """Modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


def named(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("file", CORE, ids=named)
def test_core_imports_no_plugin(file):
    assert not {name for name in imports(file) if name.startswith("topwork_")}


@pytest.mark.parametrize("file", CORE, ids=named)
def test_core_names_no_task(file, plugins):
    text = file.read_text(encoding="utf-8")
    names = "|".join(f"{name}|{name.replace('-', '_')}" for name in plugins.tasks)
    found = re.findall(rf"[\"'`]({names})[\"'`]", text)
    assert not found, f"{named(file)} names {found}"
    tree = ast.parse(text)
    kinds = {"PreTrainedModel", "Task"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
            tested = ast.unparse(node.args[1])
            assert tested in kinds or not tested.endswith(("Task", "ForImageClassification")), tested


@pytest.mark.parametrize("file", PLUGINS, ids=named)
def test_plugins_use_public_names_only(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "topwork":
            assert not {alias.name for alias in node.names} - set(topwork.__all__)
    private = {name for name in imports(file) if name.startswith("topwork.")} - PUBLIC_MODULES
    assert not private, f"{named(file)} imports {private}"


@pytest.mark.parametrize("file", PLUGINS, ids=named)
def test_tasks_and_lens_are_strangers(file):
    room = file.relative_to(ROOT / "plugins").parts[0]
    forbidden = {
        "topwork_tasks": {"topwork_lens", "topwork_report"},
        "topwork_lens": {"topwork_tasks", "topwork_report", "topwork_analyses", "topwork_compress"},
        "topwork_analyses": {"topwork_tasks", "topwork_report", "topwork_compress"},
        "topwork_compress": {"topwork_tasks", "topwork_report", "topwork_analyses"},
    }
    found = {name.split(".")[0] for name in imports(file)}
    assert not found & forbidden.get(room, set())


def test_the_table_of_plugins_is_complete():
    """Every file with a hook implementation stands in pyproject's table, and the installed table is the same."""
    implementing = {
        file
        for file in [*CORE, *PLUGINS]
        if re.search(r"^ *@(\w+\.)?hookimpl", file.read_text(encoding="utf-8"), re.MULTILINE)
        # the list of hooks; observers; texts of new packages
        and file.parent.name != "hookspecs"
        and file.name not in ("commands.py", "run.py", "tracker.py", "study.py", "templates.py")
    }
    paths = {file.relative_to(ROOT / named(file).split("/")[0]).with_suffix("") for file in implementing}
    paths = {
        path.parent if path.name in ("task", "__init__") else path for path in paths
    }  # a package hands on its task
    # modules of declarations have no hooks
    modules = {value.partition(":")[0] for value in TABLE.values()} - {"topwork.stages", "topwork_tasks"}
    assert {path.as_posix().replace("/", ".") for path in paths} == modules
    from importlib.metadata import entry_points

    installed = {entry.name: entry.value for entry in entry_points(group="topwork") if entry.dist.name == "topwork"}
    assert installed == TABLE, "install again: an editable install does not see new entry points"


def test_every_task_has_a_file_and_a_recipe(plugins):
    for name in plugins.tasks:
        snake = name.replace("-", "_")
        room = ROOT / "plugins" / "topwork_tasks" / snake
        assert room.with_suffix(".py").is_file() or (room / "__init__.py").is_file()
        assert (ROOT / "recipes" / f"{snake}.yaml").is_file()


def test_no_plugin_fails(plugins):
    assert [str(plugin) for plugin in plugins.failed] == []


def test_public_names_are_not_hidden_by_modules():
    """A submodule of the same name would replace a public function as soon as somebody imports it."""
    modules = {file.stem for file in CORE if file.parent.name == "topwork"}
    assert not modules & set(topwork.__all__)


def test_the_stub_is_the_list_of_public_names():
    stub = (ROOT / "core" / "topwork" / "__init__.pyi").read_text(encoding="utf-8")
    assert topwork.__all__ == dir(topwork) == sorted(re.findall(r"^    (\w+) as \1,$", stub, re.MULTILINE))
    for name in topwork.__all__:
        assert getattr(topwork, name) is not None
    names: dict = {}
    exec("from topwork import *", names)
    assert set(topwork.__all__) <= set(names)
    with pytest.raises(AttributeError, match="no attribute 'Tasks'"):
        topwork.Tasks  # noqa: B018


def test_importing_topwork_imports_nothing_heavy():
    code = "import sys, topwork; topwork.Task; topwork.Stage; print({'torch', 'transformers'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


@pytest.mark.parametrize("file", [*CORE, *PLUGINS], ids=named)
def test_files_are_rooms_not_halls(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 400


def test_the_contracts_of_import_linter_hold():
    """Between packages and between their folders, imports for type checkers included: see pyproject."""
    code = "import sys; from importlinter import cli; sys.exit(cli.lint_imports(no_cache=True))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stdout + shown.stderr


def rooms(package: Path) -> dict[str, set[str]]:
    """Modules and folders of a package -> those of it that they import, lazily or for types too."""
    arrows: dict[str, set[str]] = {}
    for file in package.rglob("*.py"):
        room = file.relative_to(package).with_suffix("").parts[0]
        paths = [name.split(".") for name in imports(file)]
        targets = {path[1] for path in paths if path[0] == package.name and len(path) > 1}
        arrows.setdefault(room, set()).update(targets - {room})
    arrows.pop("__init__", None)
    return arrows


@pytest.mark.parametrize(
    ("package", "most"), [("core/topwork", 12), ("plugins/topwork_lens", 8), ("plugins/topwork_tasks", 4)]
)
def test_floors_of_imports_stay_few(package, most):
    """A room stands one floor above the highest that it imports."""
    arrows = rooms(ROOT / package)

    @functools.cache
    def floor(room: str) -> int:
        return 1 + max((floor(below) for below in arrows[room] if below in arrows), default=0)

    assert max(map(floor, arrows)) <= most, sorted(((floor(room), room) for room in arrows), reverse=True)


MAPPED = [
    init for package in sorted((ROOT / "plugins").glob("topwork_*")) for init in sorted(package.rglob("__init__.py"))
]


@pytest.mark.parametrize("init", MAPPED, ids=lambda init: init.parent.relative_to(ROOT / "plugins").as_posix())
def test_the_map_of_a_folder_names_all_that_lies_in_it(init):
    """The docstring of a folder's `__init__.py` is what a newcomer reads first."""
    modules = {path.stem for path in init.parent.glob("*.py")} - {"__init__"}
    modules |= {path.parent.name for path in init.parent.glob("*/__init__.py")}
    named = set(re.findall(r"`(\w+)`", ast.get_docstring(ast.parse(init.read_text(encoding="utf-8")))))
    assert modules <= named if len(modules) > 1 else True
