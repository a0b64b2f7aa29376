"""Who is to blame when code of a plugin ends the program or raises what nobody foresaw.

Entry point: `blaming`, around everything that calls tasks, metrics and stages.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from topwork.errors import PluginError, TopworkError
from topwork.plugins.calls import raised_by_code
from topwork.plugins.loading import PluginInfo, safe_text
from topwork.system.errors import translate_system_error


@contextmanager
def blaming(modules: Mapping[str, PluginInfo], used: Mapping[str, PluginInfo]) -> Iterator[None]:
    """Let errors of the block name the plugin whose code it runs.

    `sys.exit()` in a task, a metric or a stage would else end a run as if all were well. Ctrl-C passes. An error that
    nobody foresaw stays what it is, with a note of the plugins that may be its cause.

    Args:
        modules: name of a module -> the plugin that it belongs to.
        used: plugins, other than topwork's own, that brought what the block uses: "task `points`" -> the plugin.

    Raises:
        PluginError: code in the block has raised SystemExit or KeyboardInterrupt.
    """
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as error:
        if not raised_by_code(error):
            raise
        info = culprit(error, modules, innermost=isinstance(error, KeyboardInterrupt))
        if info is None and isinstance(error, KeyboardInterrupt):
            raise
        location = f"plugin {info}" if info is not None else None
        raise PluginError(f"ends the program: {safe_text(error)}", place=location, hint="see --debug") from error
    except Exception as error:
        if not isinstance(error, TopworkError) and translate_system_error(error) is None:
            for note in brought_by(used):
                error.add_note(note)
        raise


def brought_by(used: Mapping[str, PluginInfo]) -> Sequence[str]:
    """Return a sentence for each plugin that brought what is in use: "task `points` is of plugin odd (odd.py)"."""
    return [f"{what} is of plugin {info}" for what, info in used.items()]


def culprit(error: BaseException, modules: Mapping[str, PluginInfo], *, innermost: bool = False) -> PluginInfo | None:
    """Return the plugin whose code raised an error: that of the innermost frame that belongs to a plugin.

    Args:
        error: what was raised.
        modules: name of a module -> the plugin that it belongs to.
        innermost: look at the raising frame alone.
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in frames[: -2 if innermost else None : -1]:
        parts = str(frame.f_globals.get("__name__", "")).split(".")
        for length in range(len(parts), 0, -1):
            if (info := modules.get(".".join(parts[:length]))) is not None:
                return info
    return None
