"""All hooks of topwork.

A plugin is a module (or any object) named in the entry-point group `topwork`; it marks functions with
`@topwork.hookimpl`. An implementation may take fewer arguments than stand here; arguments are only ever added. A class
of a task or stage, or a `topwork.Declaration` of one, is a plugin too: `my-stage = "my_package:MyStage"`.

In the order in which a run calls them:

- `nouns`: names that a plugin adds.
- `models`: models and rows, from loading to saving.
- `views`: the objects behind `topwork.look`, `topwork.compress`, trackers and pages.
- `news`: what happens in a run.
- `markers`: `hookspec`, `hookimpl`, and the version of the contract.
"""

from topwork.hookspecs.markers import CONTRACT, hookimpl, hookspec
from topwork.hookspecs.models import (
    adapt_model,
    attention_layer,
    base_opens,
    block,
    build_head,
    load_base,
    load_program,
    load_rows,
    model_rebuilt,
    model_saving,
)
from topwork.hookspecs.news import run_done, run_failed, run_started, stage_done, stage_started, step_logged
from topwork.hookspecs.nouns import (
    register_commands,
    register_formats,
    register_recipes,
    register_samples,
    register_stages,
    register_tasks,
    register_trackers,
)
from topwork.hookspecs.views import (
    compress,
    look,
    make_tracker,
    notebook_view,
    profile_page,
    repetitions_page,
    sweep_page,
)

__all__ = [
    "CONTRACT",
    "adapt_model",
    "attention_layer",
    "base_opens",
    "block",
    "build_head",
    "compress",
    "hookimpl",
    "hookspec",
    "load_base",
    "load_program",
    "load_rows",
    "look",
    "make_tracker",
    "model_rebuilt",
    "model_saving",
    "notebook_view",
    "profile_page",
    "register_commands",
    "register_formats",
    "register_recipes",
    "register_samples",
    "register_stages",
    "register_tasks",
    "register_trackers",
    "repetitions_page",
    "run_done",
    "run_failed",
    "run_started",
    "stage_done",
    "stage_started",
    "step_logged",
    "sweep_page",
]
