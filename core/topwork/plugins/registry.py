"""`Plugins`: what is loaded and what it registered; made by `load_plugins`, then passed along.

A broken plugin does not take the others down: it is left out whole, kept in `Plugins.failed`, and named whenever
something is missing that it might have brought. How one plugin is imported stands in `loading`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self

import pluggy

from topwork import hookspecs
from topwork.data.addresses import is_address, local_path
from topwork.errors import PluginError, TopworkError, UsageError, unknown
from topwork.plugins import commands
from topwork.plugins.calls import raised_by_code, trace_calls, wrap_hooks
from topwork.plugins.culprits import blaming, culprit
from topwork.plugins.declaration import Declaration, Registered, check_entry, plugin_kind
from topwork.plugins.loading import (
    GROUP,
    Candidate,
    FailedPlugin,
    PluginInfo,
    check_contract,
    check_hooks,
    describe_failure,
    from_file,
    from_object,
    installed_plugins,
    keeping_folder,
    time_limit,
)
from topwork.system.output import stdout_to_stderr

if TYPE_CHECKING:
    from torch import nn

    from topwork.base import Base, BaseOptions
    from topwork.data.options import RowsOptions
    from topwork.stage import Stage
    from topwork.task import Task

CORE = PluginInfo("topwork", "topwork", "")


class Plugins:
    """All installed plugins, and what they registered.

    Attributes:
        hook: pluggy's relay: `plugins.hook.build_head(task=..., ...)` asks every plugin.
        tasks, stages, commands: what was registered, by name; a declared one is imported when it is read.
        samples: name -> a line about it; answered as `sample:<name>`.
        formats: name -> a line about it; layouts of files.
        trackers: name -> a line about it; what a recipe's `track` may name.
        recipe_folders, recipes: folders of shipped recipes; name -> path of the recipes in them.
        loaded, failed: the plugins themselves, in the order in which they were loaded.
        files: local files that were given by `--plugin`.
    """

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager("topwork")
        self._manager.add_hookspecs(hookspecs)
        self._modules: dict[str, PluginInfo] = {}
        self.hook = self._manager.hook
        self.tasks, self.stages, self.commands = Registered("task"), Registered("stage"), Registered("command")
        self.samples, self.recipes = Registered("sample"), Registered("recipe")
        self.formats, self.trackers = Registered("format"), Registered("tracker")
        tables = (self.tasks, self.stages, self.commands, self.samples, self.recipes, self.formats, self.trackers)
        self._tables = {table.kind: table for table in tables}
        self.recipe_folders: list[Path] = []
        self.loaded: list[PluginInfo] = []
        self.failed: list[FailedPlugin] = []
        self.files: list[Path] = []
        for command in commands.register_commands():
            self.commands.add(command.name, command, CORE)
        self._take_recipes([_own_recipes()], CORE)

    def __deepcopy__(self, memo: Any) -> Self:
        """Return the plugins themselves: modules of the process, which are never copied."""
        return self

    # ------------------------------------------------------------------ what is there

    def owner(self, kind: str, name: str) -> PluginInfo:
        """Return the plugin that registered a "task", "stage", "command", "sample", "format", "tracker" or "recipe"."""
        table = self._tables[kind]
        if name not in table:
            raise self.unknown(kind, name, table)
        return table.owner(name)

    def task(self, name: str) -> type[Task]:
        """Return the task class of that name, or raise an error with the nearest name and the failed plugins."""
        if name not in self.tasks:
            raise self.unknown("task", name, self.tasks)
        return self.tasks[name]

    def stage(self, name: str) -> type[Stage]:
        """Return the stage class of that name; errors as in `task`."""
        if name not in self.stages:
            raise self.unknown("stage", name, self.stages)
        return self.stages[name]

    def recipe(self, name: str) -> Path:
        """Return the path of a shipped recipe; errors as in `task`."""
        if name not in self.recipes:
            raise self.unknown("recipe", name, self.recipes)
        return self.recipes[name]

    def unknown(self, kind: str, name: str, known: Iterable[str]) -> UsageError:
        """Make the error for a name that nobody registered; it names the plugins that failed to load."""
        error = unknown(kind, name, known)
        return UsageError(error.cause, hint=f"{error.hint}{self._failed_text()}")

    def implementers(self, hook: str) -> list[str]:
        """Return the names of the plugins that implement a hook, in the order in which they are called."""
        return [hookimpl.plugin_name for hookimpl in reversed(getattr(self.hook, hook).get_hookimpls())]

    def _failed_text(self) -> str:
        if not self.failed:
            return ""
        return f"; plugins that failed to load: {', '.join(str(plugin) for plugin in self.failed)}"

    # ------------------------------------------------------------------ questions with one answer

    def load_base(self, options: BaseOptions) -> Base:
        """Return the base that a recipe names.

        Raises:
            UsageError: no plugin knows it; lists the plugins that were called.
        """
        base = self.hook.load_base(name=options.name, options=options)
        if base is None:
            raise self._nobody("base", options.name, "load_base")
        return base

    def check_base(self, options: BaseOptions) -> None:
        """Check that a base can be opened; where a plugin knows that from its files, it is not opened.

        Raises:
            TopworkError: as `load_base`.
        """
        if not self.hook.base_opens(name=options.name, options=options):
            self.load_base(options)

    def load_rows(self, options: RowsOptions) -> Any:
        """Return the rows that a recipe names, with the data set's column names.

        What no plugin knows by its address, a local copy is made of, where fsspec can.

        Raises:
            UsageError: no plugin knows them; lists the plugins that were called, or the nearest sample.
        """
        kind, _, name = options.path.partition(":")
        if kind == "sample" and name not in self.samples:
            raise self.unknown("sample", name, self.samples)
        rows = self.hook.load_rows(source=options.path, options=options)
        if rows is None and is_address(options.path):
            local = options.model_copy(update={"path": local_path(options.path)})
            rows = self.hook.load_rows(source=local.path, options=local)
        if rows is None:
            raise self._nobody("rows", options.path, "load_rows")
        return rows

    def look(self, model: nn.Module) -> Any:
        """Return the object behind `topwork.look(model)`.

        Raises:
            TopworkError: no loaded plugin looks into models.
        """
        view = self.hook.look(model=model, plugins=self)
        if view is None:
            raise TopworkError("no loaded plugin can look into models", hint="load the plugin `lens`")
        return view

    def _nobody(self, kind: str, name: str, hook: str) -> UsageError:
        names = ", ".join(self.implementers(hook)) or "nobody: no plugin answers this question"
        return UsageError(
            f"no plugin knows the {kind} `{name}`", hint=f"asked (hook `{hook}`): {names}{self._failed_text()}"
        )

    def blaming(self, **used: str) -> AbstractContextManager[None]:
        """Let errors of a block of code name the plugin whose code it runs; see `topwork.plugins.culprits.blaming`.

        Args:
            used: kind -> name of what the block uses, such as `task="points"`.
        """
        return blaming(self._modules, self.foreign(**used))

    def culprit(self, error: BaseException, *, innermost: bool = False) -> PluginInfo | None:
        """Return the plugin whose code raised an error; see `topwork.plugins.culprits.culprit`.

        Args:
            error: what was raised.
            innermost: look at the raising frame alone.
        """
        return culprit(error, self._modules, innermost=innermost)

    def foreign(self, **used: str) -> dict[str, PluginInfo]:
        """Return the plugins, other than topwork's own, that brought these: "task `points`" -> the plugin."""
        owners = {
            f"{kind} `{name}`": self._tables[kind].owner(name)
            for kind, name in used.items()
            if name in self._tables[kind]
        }
        return {what: info for what, info in owners.items() if info.package != GROUP}

    # ------------------------------------------------------------------ loading

    def observe(self, observer: Any, owner: PluginInfo | None = None) -> Callable[[], object]:
        """Let an object with hook implementations hear the news of a run, without being a plugin of its own.

        Args:
            observer: the object.
            owner: the plugin that made it, which messages about its failures name.

        Returns:
            A function that ends it.
        """
        check_hooks(self._manager, observer)
        self._manager.register(observer)
        if owner is not None:
            wrap_hooks(self._manager, observer, owner)
        return partial(self._manager.unregister, observer)

    def ask_one(self, info: PluginInfo, hook: str, **arguments: Any) -> Any:
        """Call a hook of one plugin alone, and return its answer (through pluggy, so that TOPWORK_TRACE shows it)."""
        silent = [plugin for name, plugin in self._manager.list_name_plugin() if name != info.name]
        result = self._manager.subset_hook_caller(hook, silent)(**arguments)
        return (result[0] if result else None) if isinstance(result, list) else result

    def add(self, candidate: Candidate) -> None:
        """Import, check and register one plugin: whole or not at all.

        Whatever it prints meanwhile goes to stderr: stdout belongs to the output of commands.

        Raises:
            Exception: whatever is wrong with it; nothing of it is left behind.
        """
        info, manager = candidate.info, self._manager
        if taken := next((loaded for loaded in self.loaded if loaded.name == info.name), None):
            raise PluginError(f"the plugin name `{info.name}` is taken by {taken}", hint="rename its entry point")
        folders = list(self.recipe_folders)
        with stdout_to_stderr():
            with time_limit("its import"), keeping_folder():
                plugin = candidate.load()
            check_contract(plugin, hookspecs.CONTRACT)
            check_hooks(manager, plugin)
            manager.register(plugin, info.name)
            try:
                self._collect(plugin, info)
                wrap_hooks(manager, plugin, info)
            except BaseException:
                manager.unregister(plugin)
                for table in self._tables.values():
                    table.remove_all_of(info)
                self.recipe_folders = folders
                raise
        self.loaded.append(info)
        module = plugin.__name__ if isinstance(plugin, ModuleType) else type(plugin).__module__
        self._modules[module] = info
        if (root := module.partition(".")[0]) != GROUP:
            self._modules.setdefault(root, info)  # helper modules of the same package
        if not manager.get_hookcallers(plugin) and plugin_kind(plugin) is None:
            warnings.warn(
                f"the plugin {info} brings nothing; mark its hooks with `@topwork.hookimpl`",
                RuntimeWarning,
                stacklevel=3,
            )

    def _collect(self, plugin: Any, info: PluginInfo) -> None:
        own_kind = plugin_kind(plugin)
        for kind, table in (("task", self.tasks), ("stage", self.stages), ("command", self.commands)):
            alone: list[Any] = [plugin] if own_kind == kind else []
            for thing in alone or self._registered(f"register_{kind}s", info):
                if not isinstance(thing, Declaration):
                    check_entry(kind, thing)
                name = (
                    thing.__name__.replace("_", "-") if hasattr(thing, "__name__") and kind == "command" else thing.name
                )
                table.add(name, thing, info)
                module = thing.target.partition(":")[0] if isinstance(thing, Declaration) else thing.__module__
                self._modules.setdefault(module, info)
        for table, hook in (
            (self.samples, "register_samples"),
            (self.formats, "register_formats"),
            (self.trackers, "register_trackers"),
        ):
            described = self.ask_one(info, hook) or {}
            if not hasattr(described, "items"):
                raise PluginError(f"`{hook}` must give a dict, and gave {type(described).__name__}")
            for name, about in described.items():
                check_entry(table.kind, about)
                table.add(name, about, info)
        self._take_recipes([Path(folder) for folder in self._registered("register_recipes", info)], info)

    def _registered(self, hook: str, info: PluginInfo) -> Iterator[Any]:
        result = self.ask_one(info, hook)
        if result is not None and (isinstance(result, str | dict) or not isinstance(result, Iterable)):
            raise PluginError(f"`{hook}` must give a list, and gave {type(result).__name__}")
        return iter(result or ())

    def _take_recipes(self, folders: Sequence[Path], info: PluginInfo) -> None:
        for folder in folders:
            if not folder.is_dir():
                if info is CORE:
                    continue  # a checkout without recipes, or a package built without them
                raise PluginError(f"the recipe folder `{folder}` does not exist")
            self.recipe_folders.append(folder)
            for path in sorted(folder.glob("*.yaml")):
                self.recipes.add(path.stem, path, info)


def _own_recipes() -> Path:
    """Return the folder of the shipped recipes: inside the installed package, else that of the checkout."""
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
    candidates = installed_plugins()
    names = {candidate.info.name for candidate in candidates}
    wanted = list(only) if only is not None else _from_environment("TOPWORK_PLUGINS") or None
    left_out = [*disable, *_from_environment("TOPWORK_DISABLE")]
    for name in [*(wanted or ()), *left_out]:
        if name not in names:
            raise unknown("plugin", name, names)
    chosen = [c for c in candidates if c.info.name not in left_out and (wanted is None or c.info.name in wanted)]
    for candidate in [*chosen, *(from_object(plugin) for plugin in extra)]:
        try:
            plugins.add(candidate)
        except BaseException as error:  # a plugin that calls sys.exit on import must not end the program either
            _reraise_interrupt(error, candidate)
            plugins.failed.append(describe_failure(candidate.info, error, left_out))
    for path in dict.fromkeys(Path(file).resolve() for file in files):
        _add_file(plugins, path)
    return plugins


def _reraise_interrupt(error: BaseException, candidate: Candidate) -> None:
    """Let Ctrl-C through, with a note that says which plugin was being loaded."""
    if isinstance(error, KeyboardInterrupt) and not raised_by_code(error):
        error.add_note(f"while the plugin {candidate.info} was loaded")
        raise error


def _add_file(plugins: Plugins, path: Path) -> None:
    candidate = from_file(path)
    try:
        plugins.add(candidate)
    except BaseException as error:
        _reraise_interrupt(error, candidate)
        text = describe_failure(candidate.info, error, ()).error
        raise UsageError(f"cannot load the plugin: {text}", place=f"--plugin {path}") from error
    plugins.files.append(path)


def _from_environment(variable: str) -> list[str]:
    return [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]
