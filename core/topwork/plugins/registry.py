"""The plugins that are there, and what they have registered: built once, then passed along; never global.

A plugin that is broken does not take the others down: it is left out whole, kept in `Plugins.failed`, and named
whenever something is missing that it might have brought.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from topwork import hookspecs
from topwork.base import BaseOptions
from topwork.data.options import RowsOptions
from topwork.errors import PluginError, UsageError, unknown
from topwork.plugins.loading import (
    Candidate,
    FailedPlugin,
    PluginInfo,
    broken,
    check_class,
    check_hooks,
    given,
    guard,
    installed,
    local_file,
    trace_calls,
)
from topwork.plugins.reserved import CORE_COMMANDS
from topwork.stage import Stage
from topwork.task import Task

if TYPE_CHECKING:
    from topwork.base import Base

CORE = PluginInfo("topwork", "topwork", "")

__all__ = ["FailedPlugin", "PluginInfo", "Plugins", "load_plugins"]


class Plugins:
    """What is installed.

    Attributes:
        hook: pluggy's relay: `plugins.hook.build_head(task=..., ...)` asks every plugin.
        tasks, stages, commands: what was registered, by name.
        samples: name -> a line about it; answered as `sample:<name>`.
        recipe_folders, recipes: folders of shipped recipes; name -> path of the recipes in them.
        loaded, failed: the plugins themselves, in the order in which they were loaded.
        files: local files that were given by `--plugin`.
    """

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager("topwork")
        self._manager.add_hookspecs(hookspecs)
        self._owners: dict[tuple[str, str], PluginInfo] = {("command", name): CORE for name in CORE_COMMANDS}
        self.hook = self._manager.hook
        self.tasks: dict[str, type[Task]] = {}
        self.stages: dict[str, type[Stage]] = {}
        self.commands: dict[str, Any] = {}
        self.samples: dict[str, str] = {}
        self.recipe_folders: list[Path] = []
        self.recipes: dict[str, Path] = {}
        self.loaded: list[PluginInfo] = []
        self.failed: list[FailedPlugin] = []
        self.files: list[Path] = []
        self._take_recipes([_own_recipes()], CORE)

    # ------------------------------------------------------------------ what is there

    def owner(self, kind: str, name: str) -> PluginInfo:
        """The plugin that registered a "task", "stage", "command", "sample" or "recipe"."""
        try:
            return self._owners[kind, name]
        except KeyError:
            raise self.unknown(kind, name, [known for which, known in self._owners if which == kind]) from None

    def task(self, name: str) -> type[Task]:
        """The task class of that name; if there is none, an error with the nearest name and the failed plugins."""
        if name not in self.tasks:
            raise self.unknown("task", name, self.tasks)
        return self.tasks[name]

    def stage(self, name: str) -> type[Stage]:
        """The stage class of that name; an error like `task`'s if there is none."""
        if name not in self.stages:
            raise self.unknown("stage", name, self.stages)
        return self.stages[name]

    def recipe(self, name: str) -> Path:
        """The path of a shipped recipe; an error like `task`'s if there is none."""
        if name not in self.recipes:
            raise self.unknown("recipe", name, self.recipes)
        return self.recipes[name]

    def unknown(self, kind: str, name: str, known: Iterable[str]) -> UsageError:
        """The error for a name that nobody registered; the plugins that failed to load might have had it."""
        error = unknown(kind, name, known)
        return UsageError(error.cause, hint=f"{error.hint}{self._failed_text()}")

    def implementers(self, hook: str) -> list[str]:
        """Names of the plugins that answer a hook, in the order in which they are asked."""
        return [entry.plugin_name for entry in reversed(getattr(self.hook, hook).get_hookimpls())]

    def _failed_text(self) -> str:
        if not self.failed:
            return ""
        return f"; plugins that failed to load: {', '.join(str(plugin) for plugin in self.failed)}"

    # ------------------------------------------------------------------ questions with one answer

    def load_base(self, options: BaseOptions) -> Base:
        """The base that a recipe means.

        Raises:
            UsageError: no plugin knows it; says who was asked.
        """
        name = options.model if options.model is not None else f"config:{(options.config or {})['model_type']}"
        base = self.hook.load_base(name=name, options=options)
        if base is None:
            raise self._nobody("base", name, "load_base")
        return base

    def load_rows(self, options: RowsOptions) -> Any:
        """The rows that a recipe means, with the data set's own column names.

        Raises:
            UsageError: no plugin knows them; says who was asked, or which sample is nearest.
        """
        kind, _, name = options.path.partition(":")
        if kind == "sample" and name not in self.samples:
            raise self.unknown("sample", name, self.samples)
        rows = self.hook.load_rows(source=options.path, options=options)
        if rows is None:
            raise self._nobody("rows", options.path, "load_rows")
        return rows

    def _nobody(self, kind: str, name: str, hook: str) -> UsageError:
        asked = ", ".join(self.implementers(hook)) or "nobody: no plugin answers this question"
        return UsageError(
            f"no plugin knows the {kind} `{name}`", hint=f"asked (hook `{hook}`): {asked}{self._failed_text()}"
        )

    # ------------------------------------------------------------------ loading

    def observe(self, observer: Any) -> None:
        """Let an object with hook implementations hear the news of a run, without being a plugin of its own."""
        check_hooks(self._manager, observer)
        self._manager.register(observer)

    def add(self, candidate: Candidate) -> None:
        """Import, check and register one plugin: whole or not at all.

        Raises:
            Exception: whatever is wrong with it; nothing of it is left behind.
        """
        info, manager = candidate.info, self._manager
        taken = next((other for other in self.loaded if other.name == info.name), None)
        if taken:
            raise PluginError(f"the plugin name `{info.name}` is taken by {taken}", hint="rename its entry point")
        plugin = candidate.load()
        check_hooks(manager, plugin)
        manager.register(plugin, info.name)
        before = dict(self._owners)
        kinds = (self.tasks, self.stages, self.commands, self.samples, self.recipes)
        tables: list[dict] = [dict(table) for table in kinds]
        folders = list(self.recipe_folders)
        try:
            self._collect(plugin, info)
            guard(manager, plugin, info)
        except BaseException:
            manager.unregister(plugin)
            self._owners = before
            self.tasks, self.stages, self.commands, self.samples, self.recipes = tables
            self.recipe_folders = folders
            raise
        self.loaded.append(info)

    def _collect(self, plugin: Any, info: PluginInfo) -> None:
        for task in self._registered("register_tasks", plugin):
            check_class(task, Task, "task")
            self._take("task", task.name, task, self.tasks, info)
        for stage in self._registered("register_stages", plugin):
            check_class(stage, Stage, "stage")
            self._take("stage", stage.name, stage, self.stages, info)
        for command in self._registered("register_commands", plugin):
            if not callable(command) or not hasattr(command, "__name__"):
                raise PluginError(f"the command {command!r} is not a function")
            self._take("command", command.__name__.replace("_", "-"), command, self.commands, info)
        for name, about in dict(self._answer("register_samples", plugin) or {}).items():
            self._take("sample", name, str(about), self.samples, info)
        self._take_recipes([Path(folder) for folder in self._registered("register_recipes", plugin)], info)

    def _registered(self, hook: str, plugin: Any) -> Iterator[Any]:
        answer = self._answer(hook, plugin)
        if answer is not None and (isinstance(answer, str | dict) or not isinstance(answer, Iterable)):
            raise PluginError(f"`{hook}` must give a list, and gave {type(answer).__name__}")
        return iter(answer or ())

    def _answer(self, hook: str, plugin: Any) -> Any:
        """What this plugin alone answers to a hook (through pluggy, so that TOPWORK_TRACE shows it)."""
        others = [other for _, other in self._manager.list_name_plugin() if other is not plugin]
        answers = self._manager.subset_hook_caller(hook, others)()
        return answers[0] if answers else None

    def _take_recipes(self, folders: Sequence[Path], info: PluginInfo) -> None:
        for folder in folders:
            if not folder.is_dir():
                if info is CORE:
                    continue  # a checkout without recipes, or a package built without them
                raise PluginError(f"the recipe folder `{folder}` does not exist")
            self.recipe_folders.append(folder)
            for path in sorted(folder.glob("*.yaml")):
                self._take("recipe", path.stem, path, self.recipes, info)

    def _take(self, kind: str, name: Any, thing: Any, table: dict[str, Any], info: PluginInfo) -> None:
        other = self._owners.get((kind, name))
        if other is not None:
            by = "this plugin already" if other is info else f"plugin {other}"
            raise PluginError(f"{info} registers the {kind} `{name}`, which is registered by {by}")
        self._owners[kind, name] = info
        table[name] = thing


def _own_recipes() -> Path:
    """The recipes that topwork ships: inside the installed package, else those of the checkout."""
    packaged = Path(__file__).parents[1] / "recipes"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "recipes"


def load_plugins(
    *,
    only: Iterable[str] | None = None,
    disable: Iterable[str] = (),
    files: Iterable[str | Path] = (),
    extra: Iterable[Any] = (),
) -> Plugins:
    """Load the installed plugins one by one.

    Args:
        only: names of the plugins to load; None takes the environment variable TOPWORK_PLUGINS (`a,b`), else all.
        disable: names of plugins to leave out, besides those of TOPWORK_DISABLE.
        files: local Python files to load as plugins without packaging.
        extra: modules or objects to register as plugins directly.

    With TOPWORK_TRACE=1 every hook call is printed to stderr.

    Raises:
        UsageError: an unknown name in `only` or `disable`, or a local file that cannot be loaded.
        PluginError: topwork is not installed as a package.
    """
    only = [only] if isinstance(only, str) else only
    disable = [disable] if isinstance(disable, str) else disable
    plugins = Plugins()
    if os.environ.get("TOPWORK_TRACE", "0") not in ("", "0"):
        trace_calls(plugins._manager)
    candidates = installed()
    names = {candidate.info.name for candidate in candidates}
    wanted = list(only) if only is not None else _from_environment("TOPWORK_PLUGINS") or None
    left_out = [*disable, *_from_environment("TOPWORK_DISABLE")]
    for name in [*(wanted or ()), *left_out]:
        if name not in names:
            raise unknown("plugin", name, names)
    chosen = [c for c in candidates if c.info.name not in left_out and (wanted is None or c.info.name in wanted)]
    for candidate in [*chosen, *(given(plugin) for plugin in extra)]:
        try:
            plugins.add(candidate)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin that calls sys.exit on import must not end the program either
            plugins.failed.append(broken(candidate.info, error, left_out))
    for path in dict.fromkeys(Path(file).resolve() for file in files):
        _add_file(plugins, path)
    return plugins


def _add_file(plugins: Plugins, path: Path) -> None:
    candidate = local_file(path)
    try:
        plugins.add(candidate)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        text = broken(candidate.info, error, ()).error
        raise UsageError(f"cannot load the plugin: {text}", place=f"--plugin {path}") from error
    plugins.files.append(path)


def _from_environment(variable: str) -> list[str]:
    return [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]
