"""One plugin at a time: where plugins are found, how one is imported and checked, and what is kept of a broken one.

Nothing here decides which plugins are wanted or what they register: that is `plugins.py`.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from topwork.errors import PluginError, TopworkError, UsageError, nearest

GROUP = "topwork"


@dataclass(frozen=True)
class PluginInfo:
    """A plugin's name (that of its entry point), and the package and version that it came with."""

    name: str
    package: str
    version: str

    @property
    def source(self) -> str:
        """Package and version, or the file."""
        return f"{self.package} {self.version}".strip()

    def __str__(self) -> str:
        return f"{self.name} ({self.source})"


@dataclass(frozen=True)
class FailedPlugin(PluginInfo):
    """A plugin that was left out.

    Args:
        error: what went wrong, in one line.
        disable: the shell command after which topwork no longer tries to load it.
        trace: the traceback, for the plugin's author.
    """

    error: str
    disable: str
    trace: str = field(default="", repr=False, compare=False)

    def __str__(self) -> str:
        return f"{super().__str__()}: {self.error}"


@dataclass(frozen=True)
class Candidate:
    """A plugin that may be loaded: `load` imports it and answers the module or object."""

    info: PluginInfo
    load: Callable[[], Any]


def installed() -> list[Candidate]:
    """The plugins of the entry-point group: topwork's own first, then other packages in the order of their names.

    Raises:
        PluginError: topwork itself is not among the installed packages, so its own plugins cannot be found.
    """
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(_package(point), []).append(point)
    if GROUP not in found:
        raise PluginError(
            "topwork is imported but not installed as a package, so none of its plugins can be found",
            hint="install it: `pip install topwork`, or `pip install -e .` in a checkout",
        )
    order = sorted(found, key=lambda package: (package != GROUP, package))
    return [_candidate(point) for package in order for point in sorted(found[package], key=lambda p: p.name)]


def _package(point: EntryPoint) -> str:
    name = point.dist.name if point.dist else "unknown"
    return re.sub(r"[-_.]+", "-", name).lower()


def _candidate(point: EntryPoint) -> Candidate:
    version = point.dist.version if point.dist else ""
    return Candidate(PluginInfo(point.name, _package(point), version), point.load)


def local_file(path: Path) -> Candidate:
    """The plugin in a Python file that belongs to no package; its name is the file's, without `.py`."""
    if path.suffix != ".py" or not path.is_file():
        raise UsageError(f"`{path}` is not a Python file", place="--plugin", hint="give the path of a .py file")
    return Candidate(PluginInfo(path.stem, str(path), ""), lambda: _import_file(path))


def _import_file(path: Path) -> ModuleType:
    # The prefix keeps a file called datasets.py from standing in for the package of that name.
    name = f"topwork_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot import {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before running it: pickle and dataclasses look a class's module up by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def given(plugin: Any) -> Candidate:
    """A module or object that the caller holds already."""
    if isinstance(plugin, ModuleType):
        name = plugin.__name__.rpartition(".")[2]
    else:
        name = getattr(plugin, "name", None) or (plugin if isinstance(plugin, type) else type(plugin)).__name__
    return Candidate(PluginInfo(str(name), "given", ""), lambda: plugin)


def broken(info: PluginInfo, error: BaseException, disabled: Sequence[str]) -> FailedPlugin:
    """What is kept of a plugin that failed."""
    text = str(error) if isinstance(error, TopworkError) else f"{type(error).__name__}: {error}"
    where = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_foreign(frame.filename)]
    if isinstance(error, SyntaxError) and error.filename:
        text = f"SyntaxError: {error.msg} ({Path(error.filename).name}:{error.lineno})"
    elif where and not isinstance(error, TopworkError):
        text += f" ({Path(where[-1].filename).name}:{where[-1].lineno})"
    disable = f"export TOPWORK_DISABLE={','.join([*disabled, info.name])}"
    trace = "".join(traceback.format_exception(error))
    return FailedPlugin(info.name, info.package, info.version, " ".join(text.split()), disable, trace)


def _is_foreign(filename: str) -> bool:
    """False for frames of the import machinery and of this package's own loading: they are not the cause."""
    own = {__file__, str(Path(__file__).with_name("registry.py"))}
    return (
        filename not in own and not filename.startswith("<") and not {"pluggy", "importlib"} & set(Path(filename).parts)
    )


def check_hooks(manager: pluggy.PluginManager, plugin: Any) -> None:
    """Refuse an implementation of a hook that does not exist: it would never be called.

    Raises:
        PluginError: naming the nearest hook.
    """
    hooks = [name for name in vars(manager.hook) if not name.startswith("_")]
    for attribute in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, attribute)
        if options is None or options.get("optionalhook"):
            continue
        name = options.get("specname") or attribute
        if name not in hooks:
            hint = nearest(name, hooks)
            raise PluginError(f"there is no hook `{name}`{hint}", hint=None if hint else f"hooks: {', '.join(hooks)}")


def check_class(found: Any, contract: Any, kind: str) -> None:
    """Refuse what is not a finished class of the contract.

    Raises:
        PluginError: says what is missing.
    """
    if contract not in getattr(found, "__mro__", ()):
        raise PluginError(f"{found!r} is not a subclass of topwork.{contract.__name__}")
    if not isinstance(getattr(found, "name", None), str):
        raise PluginError(f"the {kind} class {found.__name__} has no `name`")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise PluginError(f"the {kind} `{found.name}` does not write {missing}")


def guard(manager: pluggy.PluginManager, plugin: Any, info: PluginInfo) -> None:
    """From now on an exception in one of this plugin's hooks says whose it is."""
    for caller in manager.get_hookcallers(plugin) or []:
        for implementation in caller.get_hookimpls():
            if implementation.plugin is plugin and not (implementation.wrapper or implementation.hookwrapper):
                guarded = _guarded(implementation.function, info, caller.name)
                object.__setattr__(implementation, "function", guarded)


def _guarded(function: Callable[..., Any], info: PluginInfo, hook: str) -> Callable[..., Any]:
    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except TopworkError:
            raise
        except Exception as error:
            raise PluginError(
                f"{type(error).__name__}: {error}",
                place=f"plugin {info}, hook {hook}",
                hint=f"`topwork --disable {info.name} ...` goes on without this plugin" if info.version else None,
            ) from error

    return call


def trace_calls(manager: pluggy.PluginManager) -> None:
    """Print every hook call to stderr: the hook, who implements it, its arguments, and what came back."""

    def before(name: str, implementations: Sequence[Any], arguments: Mapping[str, Any]) -> None:
        asked = ", ".join(implementation.plugin_name for implementation in reversed(implementations)) or "nobody"
        shown = ", ".join(f"{key}={_short(value)}" for key, value in arguments.items())
        print(f"topwork hook {name}({shown}) asks {asked}", file=sys.stderr)

    def after(outcome: Any, name: str, implementations: Sequence[Any], arguments: Mapping[str, Any]) -> None:
        error = outcome.exception
        shown = f"raised {type(error).__name__}: {error}" if error else f"-> {_short(outcome.get_result())}"
        print(f"topwork hook {name} {shown}", file=sys.stderr)

    manager.add_hookcall_monitoring(before, after)


def _short(value: Any) -> str:
    """Plain values as they are, everything large (models, data sets) by its type alone."""
    if isinstance(value, type):
        return value.__name__
    if value is None or isinstance(value, str | int | float | Path):
        return repr(value)[:100]
    if isinstance(value, list | tuple):
        return f"[{', '.join(_short(entry) for entry in value[:8])}{', ...' if len(value) > 8 else ''}]"
    return getattr(value, "__name__", None) or f"<{type(value).__name__}>"
