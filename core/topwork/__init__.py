"""topwork: graft a task head onto a base, train it from a recipe, look inside its attention heads, prune them.

The public names are all in `__all__`; they are imported when first used, so that `import topwork` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {
    "topwork.saving.alterations": ["alterations"],
    "topwork.api": [
        "build",
        "from_pretrained",
        "load",
        "look",
        "mask_heads",
        "predict",
        "prune_heads",
        "resume",
        "run",
        "save_pretrained",
    ],
    "topwork.attention_layer": ["AttentionLayer", "Size", "Slices"],
    "topwork.base": ["Base", "BaseOptions", "Features"],
    "topwork.errors": [
        "CheckpointError",
        "DataError",
        "PluginError",
        "Problem",
        "RecipeError",
        "Refused",
        "TopworkError",
        "UsageError",
        "nearest",
        "unknown",
    ],
    "topwork.files": ["write_json", "write_text", "write_whole"],
    "topwork.hookspecs": ["hookimpl"],
    "topwork.items": ["Batch", "Item", "Json", "Mode", "Part", "Picture", "Prediction", "Row", "Units", "map_tensors"],
    "topwork.metric": ["MeanMetric", "Metric"],
    "topwork.plugins.registry": ["Plugins", "load_plugins"],
    "topwork.recipe.recipe": ["Recipe", "load_recipe"],
    "topwork.data.options": ["DataOptions", "RowsOptions"],
    "topwork.runs.run": ["Run"],
    "topwork.stage": ["Stage"],
    "topwork.task": ["Column", "State", "Task", "TaskOptions"],
    "topwork.task_model": ["TaskModel"],
    "topwork.kernels.onednn": ["fast_products"],
    "topwork.saving.deferred": ["DeferredModule"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = [
    "AttentionLayer",
    "Base",
    "BaseOptions",
    "Batch",
    "CheckpointError",
    "Column",
    "DataError",
    "DataOptions",
    "DeferredModule",
    "Features",
    "Item",
    "Json",
    "MeanMetric",
    "Metric",
    "Mode",
    "Part",
    "Picture",
    "PluginError",
    "Plugins",
    "Prediction",
    "Problem",
    "Recipe",
    "RecipeError",
    "Refused",
    "Row",
    "RowsOptions",
    "Run",
    "Size",
    "Slices",
    "Stage",
    "State",
    "Task",
    "TaskModel",
    "TaskOptions",
    "TopworkError",
    "Units",
    "UsageError",
    "alterations",
    "build",
    "fast_products",
    "from_pretrained",
    "hookimpl",
    "load",
    "load_plugins",
    "load_recipe",
    "look",
    "map_tensors",
    "mask_heads",
    "nearest",
    "predict",
    "prune_heads",
    "resume",
    "run",
    "save_pretrained",
    "unknown",
    "write_json",
    "write_text",
    "write_whole",
]
#: deprecated public names -> today's names
_RENAMED = {"Unfinished": "DeferredModule"}
__version__ = "0.1.0"

if TYPE_CHECKING:
    from topwork.api import (
        build,
        from_pretrained,
        load,
        look,
        mask_heads,
        predict,
        prune_heads,
        resume,
        run,
        save_pretrained,
    )
    from topwork.attention_layer import AttentionLayer, Size, Slices
    from topwork.base import Base, BaseOptions, Features
    from topwork.data.options import DataOptions, RowsOptions
    from topwork.errors import (
        CheckpointError,
        DataError,
        PluginError,
        Problem,
        RecipeError,
        Refused,
        TopworkError,
        UsageError,
        nearest,
        unknown,
    )
    from topwork.files import write_json, write_text, write_whole
    from topwork.hookspecs import hookimpl
    from topwork.items import Batch, Item, Json, Mode, Part, Picture, Prediction, Row, Units, map_tensors
    from topwork.kernels.onednn import fast_products
    from topwork.metric import MeanMetric, Metric
    from topwork.plugins.registry import Plugins, load_plugins
    from topwork.recipe.recipe import Recipe, load_recipe
    from topwork.runs.run import Run
    from topwork.saving.alterations import alterations
    from topwork.saving.deferred import DeferredModule
    from topwork.stage import Stage
    from topwork.task import Column, State, Task, TaskOptions
    from topwork.task_model import TaskModel


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        from topwork.deprecation import warn_renamed

        warn_renamed(f"topwork.{name}", f"topwork.{_RENAMED[name]}")
        return getattr(import_module(__name__), _RENAMED[name])
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'topwork' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
