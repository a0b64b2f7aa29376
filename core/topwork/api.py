"""Python API: the same engine as recipes, without YAML. Every function is also at `topwork.<name>`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from topwork.errors import PluginError
from topwork.items import Prediction

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from topwork.base import BaseOptions
    from topwork.plugins.registry import Plugins
    from topwork.recipe.recipe import Recipe
    from topwork.runs.run import Run
    from topwork.runs.task_model import TaskModel

HeadChoice = Mapping[Any, Sequence[int]]


def run(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    overrides: Sequence[str] = (),
    folder: str | Path | None = None,
    plugins: Plugins | None = None,
    quiet: bool = False,
    save_outside: bool = False,
    reuse: str | Path | None = None,
) -> Run:
    """Run a recipe: a path, the name of a shipped one, a dict of the same shape, or a loaded Recipe.

    Args:
        recipe: the recipe.
        overrides: changes of it, such as `"stages.train.epochs=1"`.
        folder: the run folder; by default `runs/<name>-<number>`.
        plugins: what is installed; by default everything.
        quiet: print nothing.
        save_outside: the stage `save` may write to a folder outside the run folder.
        reuse: folder of another run; its finished leading stages are taken over where nothing that they depend on
            (options, seed, task, base, rows) was changed.

    Returns:
        the Run; `run.results` has every stage's result, `run.model_folder` is the folder that `save` wrote.

    Raises:
        RecipeError: everything that is wrong with the recipe.
        UsageError: no such recipe, or the folder holds a run already.
        TopworkError: a stage failed; the run folder keeps the finished ones, `resume` goes on.

    Example:
        >>> run = topwork.run("quickstart", overrides=["stages.train.epochs=1"])  # doctest: +SKIP
        >>> run.results[-1]["result"]  # doctest: +SKIP
    """
    from topwork.recipe.recipe import load_recipe
    from topwork.runs.execute import execute

    plugins = plugins or _plugins()
    checked = load_recipe(recipe, overrides, plugins)
    return execute(checked, plugins, folder=folder, quiet=quiet, save_outside=save_outside, reuse=reuse)


def resume(folder: str | Path, *, plugins: Plugins | None = None, quiet: bool = False, redo: bool = False) -> Run:
    """Go on with an interrupted run from its last finished stage, or from the last checkpoint of its training.

    Args:
        folder: the run folder.
        plugins: the loaded plugins; by default all that are installed.
        quiet: print nothing (the log file is still written).
        redo: where the recipe, or the rows, of finished stages were changed, do these stages and later ones again.

    Raises:
        UsageError: it is no run folder, its run is still going on, or something that a finished stage depends on was
            changed.
        CheckpointError: a file in it is damaged.
    """
    from topwork.runs.execute import resume_run

    return resume_run(Path(folder), plugins or _plugins(), quiet=quiet, again=redo)


def build(
    task: str,
    base: str | Mapping[str, Any] | BaseOptions | None = None,
    *,
    rows: Any = None,
    bases: Mapping[str, Any] | None = None,
    columns: Mapping[str, str] | None = None,
    seed: int = 0,
    on_error: Literal["raise", "skip"] = "raise",
    plugins: Plugins | None = None,
    **options: Any,
) -> TaskModel:
    """Put a task head on a base.

    Args:
        task: name of an installed task.
        base: a Hub id, a folder, `timm/<name>`, or a dict such as `{"config": {"model_type": "vit", ...}}`.
        rows: training rows, from which label names, a tokenizer or statistics are learned where the base has none.
        bases: for tasks with several roles, one base per role.
        columns: the task's column -> the rows' column.
        seed: for the new weights.
        on_error: "skip" learns from the other rows when the task cannot use some.
        plugins: the loaded plugins; by default all that are installed.
        options: the task's options, as in a recipe.

    Raises:
        UsageError: an unknown task or base, or bases that do not suit the task.
        DataError: rows that the task cannot use.

    Example:
        >>> task, rows = "text-labels", [{"text": "good", "label": "yes"}, {"text": "bad", "label": "no"}]
        >>> work = topwork.build(task, "bert-base-uncased", rows=rows)  # doctest: +SKIP
        >>> work.train(rows, epochs=1)  # doctest: +SKIP
    """
    from topwork.runs.build import build_task_model

    return build_task_model(
        task,
        base,
        plugins or _plugins(),
        rows=rows,
        bases=bases,
        columns=columns,
        seed=seed,
        on_error=on_error,
        options=options,
    )


def load(
    folder: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    plugins: Plugins | None = None,
) -> TaskModel:
    """Load a model folder that topwork saved: task, model and preprocessing, without the base's original weights.

    Args:
        folder: its path, or the id of a Hub repository that holds it.
        revision: of that repository.
        trust_remote_code: run Python code that lies beside the weights, for models that need it. Without it nothing
            that comes with a folder is executed.
        plugins: the loaded plugins; by default all that are installed.

    Raises:
        CheckpointError: the folder is none of these, is damaged, or needs code that is not trusted.
        PluginError: the task, or what was altered in the model, belongs to a plugin that is not loaded.
    """
    from topwork.runs.task_model import TaskModel
    from topwork.saving.loading import load_folder, local_folder

    parts = load_folder(local_folder(folder, revision), plugins or _plugins(), trust_remote_code=trust_remote_code)
    return TaskModel.of(parts)


def save_pretrained(model: nn.Module, folder: str | Path) -> Path:
    """Write a model of transformers that has no task, as pruning and gates left it.

    The replacement for `model.save_pretrained` of transformers 4, which noted in the config what was pruned.

    Raises:
        UsageError: it is no model of transformers, or the folder holds something else.
    """
    from topwork.saving.transformers_models import save_plain

    return save_plain(model, Path(folder), _plugins())


def from_pretrained(
    folder: str | Path, *, revision: str | None = None, plugins: Plugins | None = None
) -> PreTrainedModel:
    """Load the model that `topwork.save_pretrained` wrote, pruned and gated as it was, without original weights.

    Args:
        folder: its path, or the id of a Hub repository that holds it.
        revision: of that repository.
        plugins: the loaded plugins; by default all that are installed.

    Raises:
        CheckpointError: the folder is none of these, or is damaged.
    """
    from topwork.saving.loading import local_folder
    from topwork.saving.transformers_models import load_plain

    return load_plain(local_folder(folder, revision), plugins or _plugins())


def predict(folder: str | Path, rows: Any, *, plugins: Plugins | None = None, **settings: Any) -> list[Prediction]:
    """Predict rows with a saved model.

    Args:
        folder: a model folder, or the id of a Hub repository that holds one.
        rows: a dataset, or a list of dicts by column.
        plugins: the loaded plugins; by default all that are installed.
        settings: as of `TaskModel.predict`.
    """
    return load(folder, plugins=plugins).predict(rows, **settings)


def look(model: nn.Module, *, plugins: Plugins | None = None) -> Any:
    """Look inside any module: find its attention layers, capture, score, mask and prune attention heads."""
    return (plugins or _plugins()).look(model)


def importance(model: nn.Module, batches: Any, method: str = "michel", **options: Any) -> Any:
    """Score every attention head of a model by how much its loss depends on it.

    Args:
        model: any model with attention layers.
        batches: dicts of tensors, with labels where the model computes its own loss; or one dict.
        method: "michel", "taylor", "leave_one_out", "shapley", "entropy" or "random".
        options: see the lens's `Look.importance`; `loss` computes losses of the model's outputs.

    Returns:
        The scores; `prune_heads(model, scores, share=0.3)` removes the least important ones.
    """
    return look(model).importance(batches, method, **options)


def prune_heads(model: nn.Module, heads: Any, **options: Any) -> Any:
    """Remove attention heads from a model, for good: the weights become smaller.

    The replacement for `model.prune_heads` of transformers 4.

    Args:
        model: any model with attention layers.
        heads: layer index -> indices of attention heads, counted before anything was pruned; `{0: [1, 3]}`. For models
            with several kinds of attention, the keys are module paths or (group, index). Or pairs of a layer and a
            head, or scores of `importance`, with `share`, `count` or `threshold` among the options.
        options: see the lens's `Look.prune_heads`.
    """
    return look(model).prune_heads(heads, **options)


def prune(
    model: nn.Module,
    heads: HeadChoice | None = None,
    neurons: HeadChoice | None = None,
    layers: Sequence[Any] | None = None,
    **options: Any,
) -> Any:
    """Remove attention heads, feed-forward neurons and whole layers from a model, for good, with one proof.

    Args:
        model: any model.
        heads: as of `prune_heads`.
        neurons: index or path of a block (see `topwork.look(model).blocks`) -> original indices of neurons.
        layers: original indices or paths of whole layers (see `topwork.look(model).layers_whole`).
        options: see the lens's `Look.prune`.
    """
    return look(model).prune(heads, neurons, layers, **options)


def compress(model: Any, batches: Iterable[Any], *, plugins: Plugins | None = None, **options: Any) -> Any:
    """Make a model smaller than a budget without training it: heads and neurons go, what reads them is fitted.

    Args:
        model: any module, or a TaskModel.
        batches: calibration rows: dicts of tensors with labels for a model that computes its own loss, or `Batch`
            objects together with `row_losses`.
        plugins: the loaded plugins; by default all that are installed.
        options: `macs=0.5` or `parameters=0.5`, and those of `topwork_compress.compression.compress_model`.

    Raises:
        UsageError: the budget cannot be met, or an option is wrong.
        PluginError: no loaded plugin compresses.
    """
    plugins = plugins or _plugins()
    result = plugins.hook.compress(model=model, batches=batches, options=options, plugins=plugins)
    if result is None:
        raise PluginError("no loaded plugin compresses models", hint="see `topwork plugins`")
    return result


@contextmanager
def mask_heads(model: nn.Module, heads: HeadChoice, **options: Any) -> Iterator[Any]:
    """Set the output of attention heads to zero inside the block; replaces `head_mask` of transformers 4."""
    with look(model).mask_heads(heads, **options) as masked:
        yield masked


def _plugins() -> Plugins:
    from topwork.plugins.shared import shared_plugins

    return shared_plugins()
