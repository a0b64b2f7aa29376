"""Names of a package that are imported when they are first used: `attach` (after SPEC 1 of Scientific Python)."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module

TYPE_CHECKING = False  # as `typing` has it, whose import costs more than all of this module
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


def attach(
    package: str, names: Mapping[str, str] | None = None, renamed: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the functions `__getattr__` and `__dir__` of a package whose names are imported on first use.

    Args:
        package: `__name__` of the package.
        names: public name -> module that defines it; None reads them from the package's `__init__.pyi`, whose lines
            have the form `from module import name as name`.
        renamed: deprecated name -> today's name; the use of one warns.
    """

    @cache
    def modules() -> dict[str, str]:
        return dict(names) if names is not None else _read_stub(str(sys.modules[package].__file__) + "i")

    def load(name: str) -> Any:
        if name == "__all__":
            return sorted(modules())
        if renamed and name in renamed:
            from topwork.deprecation import warn_renamed

            warn_renamed(f"{package}.{name}", f"{package}.{renamed[name]}")
            return getattr(sys.modules[package], renamed[name])
        if name not in modules():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(modules()[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return load, lambda: sorted(modules())


def _read_stub(path: str) -> dict[str, str]:
    import ast

    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
    return {alias.name: str(node.module) for node in imports for alias in node.names}
