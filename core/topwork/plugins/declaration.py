"""`Declaration`: a task, stage or command by name, imported when it is first used; and the tables that hold them.

A plugin's `register_...` hook may give declarations instead of classes. Then listing names, `--help` and the check of
a recipe with another task import nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from topwork.errors import PluginError, TopworkError
from topwork.plugins.loading import PluginInfo, check_class, safe_text, time_limit


@dataclass(frozen=True)
class Declaration:
    """Name and description of a task, stage or command whose code is imported when it is first used.

    Args:
        name: the name in recipes or on the command line; equal to the `name` of the class.
        target: where the class or function is: `package.module:Name`.
        about: one line about it, equal to the first line of its docstring; None imports it to read that line.
        kind: "task", "stage" or "command"; needed only by a declaration that is a plugin by itself, such as
            `my-stage = "my_package:MY_STAGE"` in the entry-point table.

    Example:
        >>> Declaration("echo", "my_package.echo:Echo", "Repeat the text of a row.", "stage").name
        'echo'
    """

    name: str
    target: str
    about: str | None = None
    kind: Literal["task", "stage", "command"] | None = None

    def load(self) -> Any:
        """Import the class or function."""
        module, _, attribute = self.target.partition(":")
        return getattr(import_module(module), attribute)


class Registered(Mapping[str, Any]):
    """Things of one kind that plugins registered, by name; a declaration is imported when its entry is read.

    Args:
        kind: "task", "stage", "command", "sample", "format", "tracker" or "recipe".
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, tuple[Any, PluginInfo]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries  # that of Mapping would import the entry

    def __getitem__(self, name: str) -> Any:
        thing, info = self._entries[name]
        if isinstance(thing, Declaration):
            thing = self._imported(thing, info)
            self._entries[name] = thing, info
        return thing

    def add(self, name: str, thing: Any, info: PluginInfo) -> None:
        """Register an entry of a plugin.

        Raises:
            PluginError: the name is taken.
        """
        if name in self._entries:
            owner = self._entries[name][1]
            by = "this plugin already" if owner is info else f"plugin {owner}"
            raise PluginError(f"{info} registers the {self.kind} `{name}`, which is registered by {by}")
        self._entries[name] = thing, info

    def remove_all_of(self, info: PluginInfo) -> None:
        """Drop the entries of a plugin."""
        self._entries = {name: entry for name, entry in self._entries.items() if entry[1] is not info}

    def owner(self, name: str) -> PluginInfo:
        """Return the plugin that registered the entry."""
        return self._entries[name][1]

    def about(self, name: str) -> str:
        """Return one line about an entry, without importing it if it is declared with one."""
        declared = self._entries[name][0]
        if isinstance(declared, Declaration) and declared.about is not None:
            return declared.about
        thing = self[name]
        return thing if isinstance(thing, str) else first_line(thing)

    def _imported(self, declaration: Declaration, info: PluginInfo) -> Any:
        try:
            with time_limit(f"the import of the {self.kind} `{declaration.name}`"):
                thing = declaration.load()
            check_entry(self.kind, thing)
            if self.kind != "command" and thing.name != declaration.name:
                raise PluginError(f"`{declaration.target}` is called `{thing.name}`, not `{declaration.name}`")
        except TopworkError as error:
            raise PluginError(error.cause, place=f"plugin {info}", hint=error.hint) from error
        except Exception as error:
            raise PluginError(
                f"the {self.kind} `{declaration.name}` cannot be imported: {safe_text(error)}",
                place=f"plugin {info}",
                hint=f"`topwork --disable {info.name} ...` goes on without this plugin",
            ) from error
        return thing


def check_entry(kind: str, thing: Any) -> None:
    """Refuse what is not a finished task, stage or command.

    Raises:
        PluginError: says what is wrong or missing.
    """
    if kind == "task":
        from topwork.task import Task

        check_class(thing, Task, kind)
    elif kind == "stage":
        from topwork.stage import Stage

        check_class(thing, Stage, kind)
    elif kind == "command" and not (callable(thing) and hasattr(thing, "__name__")):
        raise PluginError(f"the command {thing!r} is not a function")
    elif kind in ("sample", "format", "tracker") and not isinstance(thing, str):
        raise PluginError(f"a {kind} is described by a text, not by {thing!r}")


def plugin_kind(thing: Any) -> str | None:
    """Return the kind of a declaration, or of a class of a task or stage, that is a plugin by itself; else None."""
    if isinstance(thing, Declaration):
        return thing.kind
    if not isinstance(thing, type):
        return None
    from topwork.stage import Stage
    from topwork.task import Task

    return "task" if issubclass(thing, Task) else "stage" if issubclass(thing, Stage) else None


def first_line(thing: Any) -> str:
    """Return the first line of a docstring."""
    return ((getattr(thing, "__doc__", None) or "").strip().splitlines() or [""])[0]
