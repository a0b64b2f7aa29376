"""What a run was started with beside its recipe: versions of packages and plugins, plugin files and their content.

Entry points: `environment` for run.json, `changes` for a run that goes on under something else.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from topwork.items import Json
from topwork.runs.fingerprints import fingerprint

if TYPE_CHECKING:
    from topwork.plugins.registry import Plugins

#: packages whose versions are recorded
RECORDED = (
    "topwork", "torch", "torchvision", "transformers", "accelerate", "timm", "datasets", "numpy", "safetensors",
)  # fmt: skip
_ABSENT = "not installed"


def environment(plugins: Plugins) -> dict[str, Json]:
    """Return versions, plugins and plugin files with their fingerprints, for run.json."""
    files = [str(file) for file in plugins.files]
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in RECORDED}},
        "plugins": {info.name: f"{info.package} {info.version}" for info in plugins.loaded},
        "plugin_files": files,
        "plugin_contents": {file: fingerprint(file) for file in files},
    }


def changes(facts: Mapping[str, Json], plugins: Plugins) -> list[str]:
    """Return what is not as it was when the run began, one sentence each; runs of earlier versions recorded less.

    A finished stage was made with the former, the next ones are made with the latter: that may be meant (a mended
    plugin, an update), but is never passed over in silence.

    Args:
        facts: run.json.
        plugins: of this process.
    """
    now = environment(plugins)
    return [
        *_differences(facts.get("versions"), now["versions"], ""),
        *_differences(facts.get("plugins"), now["plugins"], "the plugin "),
        *(
            f"the plugin file {file} is not as it was when the run began"
            for file, mark in _mapping(facts.get("plugin_contents")).items()
            if mark is not None and now["plugin_contents"].get(file) not in (None, mark)
        ),
    ]


def _differences(before: Json, now: Mapping[str, str], what: str) -> Iterator[str]:
    for name, value in _mapping(before).items():
        if (present := now.get(name, _ABSENT)) != value:
            yield f"the run began with {what}{name} {value} and goes on with {present}"


def _mapping(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, Mapping) else {}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return _ABSENT
