"""Shell completion: names of recipes, tasks, stages and kinds of things, beside commands and options.

`topwork --install-completion` sets it up for the shell that is in use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from topwork.plugins.registry import Plugins


def complete_recipes(context: typer.Context, incomplete: str) -> list[str]:
    """Complete names of shipped recipes; files are completed by the shell itself."""
    return names_with_prefix(_plugins(context).recipes, incomplete)


def complete_tasks(context: typer.Context, incomplete: str) -> list[str]:
    """Complete names of tasks."""
    return names_with_prefix(_plugins(context).tasks, incomplete)


def complete_listed(context: typer.Context, incomplete: str) -> list[str]:
    """Complete the task or stage that `topwork list tasks NAME` or `list stages NAME` describes."""
    plugins = _plugins(context)
    tables = {"tasks": plugins.tasks, "stages": plugins.stages}
    return names_with_prefix(tables.get(str(context.params.get("kind")), ()), incomplete)


def complete_plugins(context: typer.Context, incomplete: str) -> list[str]:
    """Complete names of plugins, for `topwork plugins check NAME`."""
    return names_with_prefix([info.name for info in _plugins(context).loaded], incomplete)


def _plugins(context: typer.Context) -> Plugins:
    return context.obj.plugins


def names_with_prefix(names: Iterable[str], incomplete: str) -> list[str]:
    """Return the names that begin so."""
    return sorted(name for name in names if name.startswith(incomplete))
