"""One plugin at a time: where plugins are found, how one is imported and checked, and what is kept of a broken one.

Entry points: `installed_plugins`, `from_file`, `from_object`, `describe_failure`. Which plugins are loaded, and what
they register, is the business of `registry`.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import Distribution, EntryPoint, entry_points
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
    """A plugin that may be loaded; `load` imports it and returns the module or object."""

    info: PluginInfo
    load: Callable[[], Any]


def installed_plugins() -> list[Candidate]:
    """List the plugins of the entry-point group: topwork's own first, then other packages in the order of their names.

    Raises:
        PluginError: topwork itself is not among the installed packages, so its own plugins cannot be located.
    """
    by_package: dict[str, list[tuple[EntryPoint, str]]] = {}
    read: dict[int, tuple[str, str]] = {}  # reading the metadata of a distribution takes a millisecond
    for point in entry_points(group=GROUP):
        if id(point.dist) not in read:
            read[id(point.dist)] = _distribution(point.dist) if point.dist else ("unknown", "")
        package, version = read[id(point.dist)]
        by_package.setdefault(package, []).append((point, version))
    if GROUP not in by_package:
        raise PluginError(
            "topwork is imported but not installed as a package, so none of its plugins can be found",
            hint="install it: `pip install topwork`, or `pip install -e .` in a checkout",
        )
    order = sorted(by_package, key=lambda package: (package != GROUP, package))
    return [
        Candidate(PluginInfo(point.name, package, version), point.load)
        for package in order
        for point, version in sorted(by_package[package], key=lambda pair: pair[0].name)
    ]


def _distribution(distribution: Distribution) -> tuple[str, str]:
    metadata = distribution.metadata
    return re.sub(r"[-_.]+", "-", metadata["Name"] or "unknown").lower(), metadata["Version"] or ""


def from_file(path: Path) -> Candidate:
    """Make the plugin in a Python file that belongs to no package; its name is the file's, without `.py`."""
    if path.suffix != ".py" or not path.is_file():
        raise UsageError(f"`{path}` is not a Python file", place="--plugin", hint="give the path of a .py file")
    return Candidate(PluginInfo(path.stem, str(path), ""), lambda: _import_file(path))


def from_folder(folder: Path) -> list[Candidate]:
    """Make the plugins of a package that is not installed, as its pyproject.toml declares them.

    Raises:
        UsageError: pyproject.toml declares none, or is damaged.
    """
    import tomllib

    file = folder / "pyproject.toml"
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        points = dict(project["entry-points"][GROUP])
    except (OSError, ValueError, KeyError, TypeError) as error:
        hint = f"declare the plugin: [project.entry-points.{GROUP}]"
        raise UsageError(f"there is no plugin ({safe_text(error)})", place=str(file), hint=hint) from error
    for source in (folder / "src", folder):
        if source.is_dir() and str(source.resolve()) not in sys.path:
            sys.path.insert(0, str(source.resolve()))
    package, version = str(project.get("name", folder.name)), str(project.get("version", ""))
    return [
        Candidate(PluginInfo(name, package, version), EntryPoint(name, str(target), GROUP).load)
        for name, target in points.items()
    ]


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


def from_object(plugin: Any) -> Candidate:
    """Make a plugin of a module or object that the caller holds already."""
    if isinstance(plugin, ModuleType):
        name = plugin.__name__.rpartition(".")[2]
    else:
        name = getattr(plugin, "name", None) or (plugin if isinstance(plugin, type) else type(plugin)).__name__
    return Candidate(PluginInfo(str(name), "given", ""), lambda: plugin)


@contextmanager
def time_limit(what: str) -> Iterator[None]:
    """Bound the time of an import, by default to 300 seconds (TOPWORK_IMPORT_TIMEOUT; 0 is no bound).

    Only the main thread can be interrupted, and not on Windows.

    Args:
        what: for the message, such as "its import".

    Raises:
        PluginError: the block takes longer.
    """
    seconds = _seconds(os.environ.get("TOPWORK_IMPORT_TIMEOUT", "300"))
    free = hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread()
    if not free or not seconds or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return

    def end(number: int, frame: Any) -> None:
        raise PluginError(
            f"{what} takes more than {seconds:g} seconds",
            hint="leave the plugin out, or set TOPWORK_IMPORT_TIMEOUT (seconds; 0 waits)",
        )

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class ChangedFolder(RuntimeError):
    """Code of a plugin has left the process in another working folder; it was put back."""


@contextmanager
def keeping_folder() -> Iterator[None]:
    """Put the working folder of the process back when the block has changed it: paths of a run are relative to it.

    Raises:
        ChangedFolder: the block has changed it.
    """
    before = _working_folder()
    yield
    now = _working_folder()
    if before is not None and now != before:
        os.chdir(before)
        raise ChangedFolder(f"leaves the process in another working folder, `{now}`")


def _working_folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


def _seconds(text: str) -> float:
    try:
        return max(0.0, float(text))
    except ValueError:
        raise UsageError(f"`{text}` is no number of seconds", place="TOPWORK_IMPORT_TIMEOUT") from None


def safe_text(error: BaseException) -> str:
    """Return `Type: message` of an error, also of one whose `__str__` raises."""
    try:
        text = str(error)
    except Exception as second:
        text = f"(its message cannot be made: {type(second).__name__})"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def describe_failure(info: PluginInfo, error: BaseException, disabled: Sequence[str]) -> FailedPlugin:
    """Return what is kept of a plugin that failed.

    Args:
        info: the plugin.
        error: what it raised.
        disabled: names of the plugins that are disabled already, for the hint.
    """
    text = str(error) if isinstance(error, TopworkError) else safe_text(error)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_foreign(frame.filename)]
    if isinstance(error, SyntaxError) and error.filename:
        text = f"SyntaxError: {error.msg} ({Path(error.filename).name}:{error.lineno})"
    elif frames and not isinstance(error, TopworkError):
        text += f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})"
    disable = f"export TOPWORK_DISABLE={','.join([*disabled, info.name])}"
    try:
        trace = "".join(traceback.format_exception(error))
    except Exception:  # an error whose message cannot be made
        trace = "".join(traceback.format_tb(error.__traceback__)) + text
    return FailedPlugin(info.name, info.package, info.version, " ".join(text.split()), disable, trace)


def _is_foreign(filename: str) -> bool:
    """Return False for frames of the import machinery and of this package's own loading: they are not the cause."""
    loading = {str(Path(__file__).with_name(name)) for name in ("loading.py", "registry.py", "calls.py")}
    parts = set(Path(filename).parts)
    return filename not in loading and not filename.startswith("<") and not {"pluggy", "importlib"} & parts


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


def check_contract(plugin: Any, contract: int) -> None:
    """Refuse a plugin whose package was written for a newer contract (`TOPWORK_CONTRACT`) than this topwork keeps.

    Raises:
        PluginError: says both versions.
    """
    module = plugin if isinstance(plugin, ModuleType) else sys.modules.get(getattr(plugin, "__module__", ""))
    package = sys.modules.get(getattr(module, "__name__", "").partition(".")[0])
    for holder in (module, package):
        wanted = getattr(holder, "TOPWORK_CONTRACT", None)
        if wanted is None:
            continue
        if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
            raise PluginError(f"`TOPWORK_CONTRACT` is a whole number from 1, not {wanted!r}")
        if wanted > contract:
            raise PluginError(
                f"it was written for version {wanted} of the plugin contract, this topwork keeps version {contract}",
                hint="install a newer topwork, or an older version of the plugin",
            )


def check_class(thing: Any, contract: Any, kind: str) -> None:
    """Refuse what is not a finished class of the contract.

    Raises:
        PluginError: says what is missing.
    """
    if contract not in getattr(thing, "__mro__", ()):
        raise PluginError(f"{thing!r} is not a subclass of topwork.{contract.__name__}")
    if not isinstance(getattr(thing, "name", None), str):
        raise PluginError(f"the {kind} class {thing.__name__} has no `name`")
    if inspect.isabstract(thing):
        missing = ", ".join(sorted(thing.__abstractmethods__))
        raise PluginError(f"the {kind} `{thing.name}` does not write {missing}")
