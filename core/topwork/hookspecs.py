"""Every hook of topwork, in the order in which a run meets them. This page is the list; there is no other.

A plugin is a module (or any object) named in the entry-point group `topwork`; it marks functions with
`@topwork.hookimpl`. An implementation may take fewer arguments than stand here; arguments are only ever added. A class
of a task or stage is a plugin too: `my-stage = "my_package:MyStage"`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import nn

    from topwork.attention_layer import AttentionLayer
    from topwork.base import Base, BaseOptions
    from topwork.data.options import RowsOptions
    from topwork.data.profile import Profile
    from topwork.items import Json
    from topwork.runs.run import Run
    from topwork.stage import Stage
    from topwork.task import Task

hookspec = pluggy.HookspecMarker("topwork")
hookimpl = pluggy.HookimplMarker("topwork")

# ---------------------------------------------------------------- nouns: merged; a duplicate name is an error


@hookspec
def register_tasks() -> list[type[Task]]:  # type: ignore[empty-body]
    """Task classes that this plugin adds."""


@hookspec
def register_stages() -> list[type[Stage]]:  # type: ignore[empty-body]
    """Stage classes that this plugin adds."""


@hookspec
def register_commands() -> list[Callable[..., Any]]:  # type: ignore[empty-body]
    """Functions that become commands of the command line (typer reads their signatures), named after themselves."""


@hookspec
def register_recipes() -> list[Path]:  # type: ignore[empty-body]
    """Folders with recipes (`*.yaml`) that this plugin ships; they can be run by their file's name."""


@hookspec
def register_samples() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Names of small data sets that this plugin answers as `sample:<name>` in `load_rows`, with a line about each."""


# ---------------------------------------------------------------- questions: the first answer that is not None counts


@hookspec(firstresult=True)
def load_base(name: str, options: BaseOptions) -> Base | None:
    """A base for a name (a Hub id, a folder, `config:<model_type>`), or None: "not mine"."""


@hookspec(firstresult=True)
def load_rows(source: str, options: RowsOptions) -> Any | None:
    """A `datasets` dataset for a path or name, or None: "not mine"."""


@hookspec(firstresult=True)
def build_head(task: Task, bases: Mapping[str, Base], weights: bool) -> nn.Module | None:
    """Base and task head for this task on this architecture, or None; the task's own `build` comes last."""


@hookspec(firstresult=True)
def attention_layer(path: str, module: nn.Module, model: nn.Module) -> AttentionLayer | None:
    """The attention layer that this module is *as it stands now*, or None. One module of a model can be taught this
    way; the lens lays the original numbers over what was pruned before."""


@hookspec(firstresult=True)
def look(model: nn.Module, plugins: Any) -> Any | None:
    """What stands behind `topwork.look`: an object that finds, captures, masks and prunes attention heads."""


@hookspec(firstresult=True)
def profile_page(profile: Profile, file: Path) -> bool | None:
    """Write the profile of a recipe's rows (`topwork data --page FILE`) as one offline page; True when written."""


@hookspec
def model_rebuilt(model: nn.Module, alterations: Mapping[str, Json], plugins: Any) -> None:
    """A model is being loaded: put back what this plugin had altered (pruned, gated) before its weights come. A section
    is named after its plugin; one that a base found in a checkpoint (see `DeferredModule`) has values by module
    path, and the model is then that of the base, which may become a part of another."""


@hookspec
def model_saving(model: nn.Module) -> None:
    """A model is about to be written, or was just built of altered parts: bring this plugin's section of its
    alterations up to date (what was altered may have been reached through a part of the model)."""


# ---------------------------------------------------------------- news


@hookspec
def run_started(run: Run) -> None:
    """A run begins (or goes on after an interruption)."""


@hookspec
def stage_started(run: Run, stage: Stage, index: int) -> None:
    """A stage begins."""


@hookspec
def stage_done(run: Run, stage: Stage, index: int, result: Mapping[str, Json]) -> None:
    """A stage ended; its result is on disk."""


@hookspec
def run_failed(run: Run, error: BaseException) -> None:
    """A run ended with an error."""


@hookspec
def run_done(run: Run) -> None:
    """A run ended well."""
