"""The check of a whole plugin: `check_plugin` tries out everything that it brings, and names each broken contract.

`topwork plugins check PACKAGE` prints what it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork.errors import TopworkError
from topwork.plugins.loading import safe_text
from topwork.testing.parts import check_stage
from topwork.testing.tasks import build_example, check_task

if TYPE_CHECKING:
    from topwork.plugins.loading import PluginInfo
    from topwork.plugins.registry import Plugins
    from topwork.task import Task

_TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
#: small models of several kinds; a task is checked on the first that suits it
BASES: dict[str, dict[str, Any]] = {
    "bert": {**_TEXT, "max_position_embeddings": 128},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "bart": {
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "max_position_embeddings": 256,
    },
    "vit": {**_TEXT, "image_size": 32, "patch_size": 8},
    "wav2vec2": {
        **_TEXT,
        "conv_dim": [16, 16, 16],
        "conv_stride": [5, 4, 4],
        "conv_kernel": [10, 8, 4],
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "mask_time_prob": 0.0,
    },
}
_UNKNOWN = "topwork-conformance/nobody-knows-this"


@dataclass(frozen=True)
class Conformance:
    """Outcome of one check.

    Args:
        subject: what was checked, such as `task vowels`.
        ok: whether it keeps its promises.
        detail: the promise that is broken, and what was found instead.
    """

    subject: str
    ok: bool
    detail: str = ""


def check_plugin(
    info: PluginInfo, plugins: Plugins, folder: Path, bases: Mapping[str, Any] | None = None
) -> Iterator[Conformance]:
    """Check everything that a loaded plugin brings: tasks, stages, recipes, samples, and answers of its hooks.

    Args:
        info: the plugin.
        plugins: what is loaded.
        folder: an empty folder for saved models.
        bases: task -> base on which it is checked, where none of `BASES` suits it.

    Yields:
        one finding for each thing.
    """
    hooks = [
        name for name in vars(plugins.hook) if not name.startswith("_") and info.name in plugins.implementers(name)
    ]
    tables = (plugins.tasks, plugins.stages, plugins.commands, plugins.samples, plugins.formats, plugins.recipes)
    brings = hooks or any(table.owner(name) is info for table in tables for name in table)
    if not brings:
        yield Conformance(f"plugin {info.name}", False, "it brings nothing; mark its hooks with `@topwork.hookimpl`")
    for name in plugins.tasks:
        if plugins.tasks.owner(name) is info:
            check = partial(_check_task, name, plugins, folder / f"task-{name}", (bases or {}).get(name))
            yield _outcome(f"task {name}", check)
    for name in plugins.stages:
        if plugins.stages.owner(name) is info:
            yield _outcome(f"stage {name}", partial(_check_stage, name, plugins))
    for name in plugins.commands:
        if plugins.commands.owner(name) is info:
            yield _outcome(f"command {name}", partial(_check_command, name, plugins))
    for name in plugins.recipes:
        if plugins.recipes.owner(name) is info:
            yield _outcome(f"recipe {name}", partial(_check_recipe, name, plugins))
    for name in plugins.samples:
        if plugins.samples.owner(name) is info:
            yield _outcome(f"sample {name}", partial(_check_sample, name, plugins))
    for hook in hooks:
        if hook in _QUESTIONS:
            yield _outcome(f"hook {hook}", partial(_check_question, hook, info, plugins))
        elif not hook.startswith("register_"):
            yield Conformance(f"hook {hook}", True)


def _outcome(subject: str, check: Callable[[], object]) -> Conformance:
    try:
        check()
    except (Exception, SystemExit) as error:
        text = str(error) if isinstance(error, AssertionError | TopworkError) else safe_text(error)
        return Conformance(subject, False, " ".join(text.split()))
    return Conformance(subject, True)


def _check_task(name: str, plugins: Plugins, folder: Path, base: Any) -> None:
    task = plugins.task(name)
    folder.mkdir(parents=True, exist_ok=True)
    check_task(task, base if base is not None else _suitable(task, plugins), folder, plugins=plugins)


def _suitable(task: type[Task], plugins: Plugins) -> Any:
    """Return the first small base on which the task can be built; that of the last attempt when none can."""
    base: Any = None
    for kind, config in BASES.items():
        single = {"config": {"model_type": kind, **config}}
        base = single if len(task.roles) == 1 else dict.fromkeys(task.roles, single)
        try:
            work = build_example(task, base, plugins)
            items = work.task.encode(task.example_rows(), "loss", 0)
            work.task.loss(work.model, work.task.collate(items, "loss"))
        except Exception:  # whatever a model of another kind makes of it: the check itself says what is wrong
            continue
        return base
    kind, config = next(iter(BASES.items()))
    single = {"config": {"model_type": kind, **config}}
    return single if len(task.roles) == 1 else dict.fromkeys(task.roles, single)


def _check_stage(name: str, plugins: Plugins) -> None:
    check_stage(plugins.stage(name))


def _check_command(name: str, plugins: Plugins) -> None:
    import typer

    assert (plugins.commands[name].__doc__ or "").strip(), f"command {name} has no docstring"
    app = typer.Typer()
    app.command(name)(plugins.commands[name])
    typer.main.get_command(app)  # reads the signature


def _check_recipe(name: str, plugins: Plugins) -> None:
    from topwork.recipe.recipe import load_recipe

    load_recipe(name, (), plugins)


def _check_sample(name: str, plugins: Plugins) -> None:
    from topwork.data.options import RowsOptions

    rows = plugins.load_rows(RowsOptions(path=f"sample:{name}"))
    assert next(iter(rows), None) is not None, f"sample {name} has no rows"


def _check_question(hook: str, info: PluginInfo, plugins: Plugins) -> None:
    """Ask a hook about something that nobody knows: it must answer None, or refuse in topwork's words."""
    try:
        result = plugins.ask_one(info, hook, **_QUESTIONS[hook]())
    except TopworkError as error:
        if type(error).__name__ == "PluginError":
            raise
        return
    assert result is None, f"{hook} must answer None to what it does not know, it answers {type(result).__name__}"


def _unknown_base() -> dict[str, Any]:
    from topwork.base import BaseOptions

    return {"name": _UNKNOWN, "options": BaseOptions(model=_UNKNOWN)}


def _unknown_rows() -> dict[str, Any]:
    from topwork.data.options import RowsOptions

    source = f"./{_UNKNOWN}.unknown"
    return {"source": source, "options": RowsOptions(path=source)}


def _unknown_module() -> dict[str, Any]:
    from torch import nn

    model = nn.Sequential(nn.Identity())
    return {"path": "0", "module": model[0], "model": model}


_QUESTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "load_base": _unknown_base,
    "base_opens": _unknown_base,
    "load_rows": _unknown_rows,
    "attention_layer": _unknown_module,
}
