"""Examples in docstrings of the core and the report are run, and every hook has one."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import topwork
from topwork import hookspecs

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [ROOT / "core", ROOT / "plugins/topwork_report"]
FILES = [file for source in SOURCES for file in sorted(source.rglob("*.py")) if ">>> " in file.read_text("utf-8")]
HOOKS = [name for name, function in vars(hookspecs).items() if hasattr(function, "topwork_spec")]


def module_of(file: Path) -> str:
    """Return the name by which a file is imported."""
    root = ROOT / "core" if file.is_relative_to(ROOT / "core") else ROOT / "plugins"
    return ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_examples_give_what_they_show(file):
    module = importlib.import_module(module_of(file))
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    assert doctest.testmod(module, optionflags=flags, extraglobs={"topwork": topwork}).failed == 0


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_has_an_example(name):
    text = getattr(hookspecs, name).__doc__
    example = text.partition("Example:")[2]
    assert f"def {name}(" in example, f"the docstring of the hook {name} shows no implementation"
    compile("\n".join(line.removeprefix("        ") for line in example.splitlines()), name, "exec")
