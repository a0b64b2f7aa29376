"""Hooks about models and rows: how they are loaded, described, adapted, rebuilt and saved.

Of those with `firstresult` the first answer that is not None counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from topwork.hookspecs.markers import hookspec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

    # the public names: a contract stands below what keeps it
    from topwork import AttentionLayer, Base, BaseOptions, Block, Json, RowsOptions, Run, Task


@hookspec(firstresult=True)
def load_base(name: str, options: BaseOptions) -> Base | None:
    """Return the base of a name (a Hub id, a folder, `config:<model_type>`), or None: "not mine".

    Args:
        name: as in the recipe.
        options: everything that the recipe says about the base.

    Example:
        @topwork.hookimpl
        def load_base(name, options):
            return MyBase(name, options) if name.startswith("mine/") else None
    """


@hookspec(firstresult=True)
def base_opens(name: str, options: BaseOptions) -> bool | None:
    """Return True when small files alone say that `load_base` opens this base, else None: it is then opened.

    Called when a recipe is checked: it must be quick, and so without torch. What is known to fail is opened as well:
    another plugin may know the name, and `load_base` gives the error.

    Example:
        @topwork.hookimpl
        def base_opens(name, options):
            return True if name in ("mine/small", "mine/large") else None
    """


@hookspec(firstresult=True)
def load_rows(source: str, options: RowsOptions) -> Any | None:
    """Return the `datasets` dataset of a path or name, or None: "not mine".

    Args:
        source: a path, a Hub id, or `sample:<name>`.
        options: everything that the recipe says about these rows.

    Example:
        @topwork.hookimpl
        def load_rows(source, options):
            if source == "sample:riddles":
                return datasets.Dataset.from_list([{"text": "...", "label": "egg"}])
    """


@hookspec(firstresult=True)
def build_head(task: Task, bases: Mapping[str, Base], weights: bool) -> nn.Module | None:
    """Return base and task head for this task on this architecture, or None; the task's `build` comes last.

    With `weights` False the module is only shaped; its weights are loaded later.

    Example:
        @topwork.hookimpl
        def build_head(task, bases, weights):
            if task.name == "multiple-choice" and bases["base"].config.model_type == "mine":
                return MyHead(bases["base"].backbone(weights=weights), labels=len(task.state.values["labels"]))
    """


@hookspec(firstresult=True)
def attention_layer(path: str, module: nn.Module, model: nn.Module) -> AttentionLayer | None:
    """Describe the attention layer that this module is *as it stands now*; None: "not mine".

    One module of a model can be described this way; the lens lays the original indices over what was pruned before.

    Example:
        @topwork.hookimpl
        def attention_layer(path, module, model):
            if isinstance(module, MyAttention):
                return topwork.AttentionLayer(path, "out", heads=module.heads, width=module.width)
    """


@hookspec(firstresult=True)
def block(path: str, module: nn.Module, model: nn.Module) -> Block | None:
    """Describe the feed-forward neurons that this projection reads, *as it stands now*; None: "not mine".

    The lens asks for every projection that runs, by its path, before it looks for neurons by itself, and lays the
    original indices over what was pruned before.

    Example:
        @topwork.hookimpl
        def block(path, module, model):
            if path.endswith("mixer.down"):
                return topwork.Block(path, inside=path.removesuffix(".down"), width=module.in_features)
    """


@hookspec(firstresult=True)
def adapt_model(run: Run, options: Any, head: set[str], batch: Any) -> Any | None:
    """Put small trainable parts on a model before a training; return a `topwork.training.adapters.Adapter` or None.

    Args:
        run: whose model is trained, in place.
        options: what the stage `train` says under `lora`.
        head: names in the state dict of the task head's tensors, which are trained in full.
        batch: of a few training rows in mode "loss", or None; the model may be run on it.

    Example:
        @topwork.hookimpl
        def adapt_model(run, options, head):
            return Lora(run.model, rank=options.r, trained=head)
    """


@hookspec(firstresult=True)
def load_program(folder: Path, program: Mapping[str, Json], model: nn.Module, trusted: bool) -> nn.Module | None:
    """Return a model that runs the exported program of a model folder, or None: "not mine".

    Args:
        folder: of the exported model.
        program: the section of its manifest that `topwork.save_program` was given.
        model: as its configs build it, without weights.
        trusted: whoever loads the folder lets its code run.

    Example:
        @topwork.hookimpl
        def load_program(folder, program, model):
            return Engine(folder / "model.engine", model) if program["format"] == "engine" else None
    """


@hookspec
def model_rebuilt(model: nn.Module, alterations: Mapping[str, Json], plugins: Any) -> None:
    """Restore structural changes of a model before its weights are loaded.

    `alterations`: plugin name -> the JSON section that it wrote in `model_saving`; apply your own. In a section of a
    foreign checkpoint (see `DeferredModule`) keys are module paths, and `model` is the base network.

    Example:
        @topwork.hookimpl
        def model_rebuilt(model, alterations, plugins):
            for path in alterations.get("low_rank", {}):
                factorise(model.get_submodule(path), rank=alterations["low_rank"][path])
                topwork.alterations(model)["low_rank"] = alterations["low_rank"]
    """


@hookspec
def model_saving(model: nn.Module) -> None:
    """Bring this plugin's section of a model's alterations up to date.

    Called before a model is written, and when it was built of parts, through which an alteration may have been made.

    Example:
        @topwork.hookimpl
        def model_saving(model):
            ranks = {path: module.rank for path, module in model.named_modules() if isinstance(module, LowRank)}
            if ranks:
                topwork.alterations(model)["low_rank"] = ranks
    """
