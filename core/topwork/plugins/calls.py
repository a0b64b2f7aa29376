"""Wrappers of hook calls: errors name the plugin, return values are checked, calls can be traced.

`wrap_hooks` is applied to every plugin when it is registered. Hooks that only bring news (`NEWS`) may fail without
ending the run.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any

import pluggy

from topwork.errors import PluginError, TopworkError
from topwork.plugins.loading import PluginInfo, keeping_folder, safe_text

#: hooks that bring news: a failure there is a warning, unless `strict`
NEWS = ("run_started", "stage_started", "step_logged", "stage_done", "run_failed", "run_done")
_BASE = ("config", "native", "backbone", "trained_labels", "processor")


def _is_rows(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(isinstance(row, Mapping) for row in value)
    return hasattr(value, "column_names") and hasattr(value, "__iter__") and not isinstance(value, Mapping)


def _is_layer(value: Any) -> bool:
    from topwork.attention_layer import AttentionLayer

    return isinstance(value, AttentionLayer)


def _is_block(value: Any) -> bool:
    import topwork

    return isinstance(value, topwork.Block)


def _hears_news(value: Any) -> bool:
    return any(hasattr(getattr(value, name, None), "topwork_impl") for name in NEWS)


#: hook -> (promise, test) for the hooks whose answers are used
PROMISES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "load_base": (
        f"a base (see `topwork.Base`: {', '.join(_BASE)})",
        lambda value: all(hasattr(value, name) for name in _BASE),
    ),
    "base_opens": ("True, or None when that is unknown", lambda value: isinstance(value, bool)),
    "load_rows": ("one data set of `datasets`, or a list of dicts", _is_rows),
    "build_head": ("a torch module", lambda value: callable(getattr(value, "named_parameters", None))),
    "attention_layer": ("a `topwork.AttentionLayer`", _is_layer),
    "block": ("a `topwork.Block`", _is_block),
    "load_program": ("a torch module", lambda value: callable(getattr(value, "named_parameters", None))),
    "profile_page": ("True when the page is written", lambda value: isinstance(value, bool)),
    "notebook_view": ("text: the HTML of a page", lambda value: isinstance(value, str)),
    "make_tracker": ("an object whose methods are marked by `@topwork.hookimpl`", _hears_news),
    "look": ("an object like the lens's `Look`", lambda value: callable(getattr(value, "prune_heads", None))),
}


def wrap_hooks(manager: pluggy.PluginManager, plugin: Any, info: PluginInfo) -> None:
    """Surround the hooks of a plugin, so that its errors and wrong answers name it.

    Args:
        manager: where the plugin is registered.
        plugin: the module or object.
        info: its name, for messages.
    """
    for caller in manager.get_hookcallers(plugin) or []:
        for implementation in caller.get_hookimpls():
            if implementation.plugin is plugin and not (implementation.wrapper or implementation.hookwrapper):
                wrapped = _wrapped(implementation.function, info, caller.name, implementation.argnames)
                object.__setattr__(implementation, "function", wrapped)


def _wrapped(function: Callable[..., Any], info: PluginInfo, hook: str, names: Sequence[str]) -> Callable[..., Any]:
    location = f"plugin {info}, hook {hook}"
    hint = f"`topwork --disable {info.name} ...` goes on without this plugin" if info.version else None
    warned: set[tuple[str, str]] = set()

    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            with keeping_folder():
                result = function(*arguments, **named)
        except TopworkError:
            raise
        except Exception as error:
            failure = PluginError(safe_text(error), place=location, hint=hint)
            if hook not in NEWS or is_strict():
                raise failure from error
            run = dict(zip(names, arguments)).get("run")
            if (key := (str(getattr(run, "root", "")), failure.cause)) not in warned:  # not once for every step
                warned.add(key)
                warn_of(failure, run)
            return None
        except (SystemExit, KeyboardInterrupt) as error:
            if not raised_by_code(error):
                raise
            raise PluginError(f"ends the program: {safe_text(error)}", place=location, hint=hint) from error
        if result is not None and hook in PROMISES and not PROMISES[hook][1](result):
            code = getattr(function, "__code__", None)
            file = f" ({code.co_filename}:{code.co_firstlineno})" if code else ""
            raise PluginError(
                f"answers {short(result)}{file}; promised is {PROMISES[hook][0]}", place=location, hint=hint
            )
        return result

    return call


def warn_of(failure: PluginError, run: Any) -> None:
    """Warn of a plugin that failed while the run goes on, in the log of the run as well."""
    text = f"{failure.place}: {failure.cause}; the run goes on (`strict: true` in the recipe ends it here)"
    if run is not None and hasattr(run, "say"):
        with suppress(OSError):  # the log cannot be written, on a full disk for example
            run.say(f"warning: {text}")
    if run is None or getattr(getattr(run, "console", None), "quiet", True):
        warnings.warn(text, RuntimeWarning, stacklevel=3)


_STRICT: ContextVar[bool] = ContextVar("strict", default=False)


@contextmanager
def strictly(strict: bool) -> Iterator[None]:
    """Let failing observers end the run of the block; nothing changes when it is not `strict`."""
    token = _STRICT.set(strict or _STRICT.get())
    try:
        yield
    finally:
        _STRICT.reset(token)


def is_strict() -> bool:
    """Return whether the recipe that runs, or TOPWORK_STRICT, asks that failing observers end the run."""
    return _STRICT.get() or os.environ.get("TOPWORK_STRICT", "0") not in ("", "0")


def raised_by_code(error: BaseException) -> bool:
    """Return whether a statement raised the error, as opposed to Ctrl-C (which interrupts any instruction).

    `sys.exit()` is raised by code. A KeyboardInterrupt is, if the innermost frame stands at a `raise`.
    """
    if not isinstance(error, KeyboardInterrupt):
        return True
    last: TracebackType | None = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:
        return False
    import dis

    return dis.opname[last.tb_frame.f_code.co_code[last.tb_lasti]] == "RAISE_VARARGS"


def trace_calls(manager: pluggy.PluginManager) -> None:
    """Print every hook call to stderr: the hook, who implements it, its arguments, and its result."""

    def before(name: str, implementations: Sequence[Any], arguments: Mapping[str, Any]) -> None:
        plugins = ", ".join(implementation.plugin_name for implementation in reversed(implementations)) or "nobody"
        shown = ", ".join(f"{key}={short(value)}" for key, value in arguments.items())
        print(f"topwork hook {name}({shown}) asks {plugins}", file=sys.stderr)

    def after(outcome: Any, name: str, implementations: Sequence[Any], arguments: Mapping[str, Any]) -> None:
        error = outcome.exception
        shown = f"raised {type(error).__name__}: {error}" if error else f"-> {short(outcome.get_result())}"
        print(f"topwork hook {name} {shown}", file=sys.stderr)

    manager.add_hookcall_monitoring(before, after)


def short(value: Any) -> str:
    """Return plain values as they are, and everything large (models, data sets) by its type alone."""
    if isinstance(value, type):
        return value.__name__
    if value is None or isinstance(value, str | int | float | Path):
        return repr(value)[:100]
    if isinstance(value, list | tuple):
        return f"[{', '.join(short(entry) for entry in value[:8])}{', ...' if len(value) > 8 else ''}]"
    return getattr(value, "__name__", None) or f"<{type(value).__name__}>"
