"""The installed plugins, loaded once for a process. Entry point: `shared_plugins`."""

from __future__ import annotations

import os
import sys
from functools import lru_cache

from topwork.plugins.registry import Plugins, load_plugins

_shared: dict[tuple, Plugins] = {}


def shared_plugins() -> Plugins:
    """Return the installed plugins, loaded once for a process.

    They are loaded anew when the environment variables that choose plugins, or the packages that are installed in the
    folders of `sys.path`, have changed. `load_plugins` makes a new object at each call.
    """
    variables = ("TOPWORK_PLUGINS", "TOPWORK_DISABLE", "TOPWORK_TRACE", "TOPWORK_STRICT")
    folders = tuple((path, _packages(path, _modified(path))) for path in sys.path)
    key = (*(os.environ.get(name) for name in variables), folders)
    if key not in _shared:
        _shared.clear()
        _shared[key] = load_plugins()
    return _shared[key]


def _modified(path: str) -> int | None:
    try:
        return os.stat(path or ".").st_mtime_ns
    except OSError:
        return None


@lru_cache(maxsize=64)
def _packages(path: str, modified: int | None) -> tuple[str, ...]:
    """List the metadata folders in a folder that was modified at this time."""
    try:
        return tuple(name for name in os.listdir(path or ".") if name.endswith(("-info", ".egg-link")))
    except OSError:  # a zip file, or nothing at all
        return (str(modified),)
