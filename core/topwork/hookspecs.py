"""All hooks of topwork, in the order in which a run calls them.

A plugin is a module (or any object) named in the entry-point group `topwork`; it marks functions with
`@topwork.hookimpl`. An implementation may take fewer arguments than stand here; arguments are only ever added. A class
of a task or stage, or a `topwork.Declaration` of one, is a plugin too: `my-stage = "my_package:MyStage"`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from torch import nn

    # the public names: a contract stands below what keeps it
    from topwork import AttentionLayer, Base, BaseOptions, Block, Json, RowsOptions, Run, Stage, Task
    from topwork.data.profile import Profile

#: version of the contract between topwork and plugins: hooks, `Task`, `Stage`, `Base`, `Metric`. It rises when
#: something is taken away or changes its meaning. A package names the one it was written for: `TOPWORK_CONTRACT = 1`.
CONTRACT = 1

hookspec = pluggy.HookspecMarker("topwork")
hookimpl = pluggy.HookimplMarker("topwork")

# ---------------------------------------------------------------- nouns: merged; a duplicate name is an error


@hookspec
def register_tasks() -> list[type[Task]]:  # type: ignore[empty-body]
    """Return task classes, or declarations of them (`topwork.Declaration`), that this plugin adds.

    Example:
        @topwork.hookimpl
        def register_tasks():
            about = "Answer one of several choices."
            return [topwork.Declaration("multiple-choice", "my_package.task:MultipleChoice", about)]
    """


@hookspec
def register_stages() -> list[type[Stage]]:  # type: ignore[empty-body]
    """Return stage classes, or declarations of them, that this plugin adds.

    Example:
        @topwork.hookimpl
        def register_stages():
            return [LinearProbe]
    """


@hookspec
def register_commands() -> list[Callable[..., Any]]:  # type: ignore[empty-body]
    """Return functions, or declarations of them, that become commands; typer reads their signatures.

    Example:
        def sizes(folder: Path) -> None:
            "Print the sizes of the tensors of a model folder."

        @topwork.hookimpl
        def register_commands():
            return [sizes]
    """


@hookspec
def register_recipes() -> list[Path]:  # type: ignore[empty-body]
    """Return folders with recipes (`*.yaml`) that this plugin ships; they can be run by their file's name.

    Example:
        @topwork.hookimpl
        def register_recipes():
            return [Path(__file__).parent / "recipes"]
    """


@hookspec
def register_samples() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Return names of small data sets, with a line about each; `load_rows` is asked for `sample:<name>`.

    Example:
        @topwork.hookimpl
        def register_samples():
            return {"riddles": "Two hundred riddles with their answers."}
    """


@hookspec
def register_formats() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Return names of layouts of files that `load_rows` of this plugin reads, with a line about each.

    Example:
        @topwork.hookimpl
        def register_formats():
            return {"elan": "Annotations of ELAN beside their audio files."}
    """


@hookspec
def register_trackers() -> Mapping[str, str]:  # type: ignore[empty-body]
    """Return names of trackers that `make_tracker` of this plugin makes, with a line about each.

    Example:
        @topwork.hookimpl
        def register_trackers():
            return {"printed": "Print every number that a training logs."}
    """


# ---------------------------------------------------------------- questions: the first answer that is not None counts


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
def look(model: nn.Module, plugins: Any) -> Any | None:
    """Return the object behind `topwork.look`, which finds, captures, masks and prunes attention heads.

    Example:
        @topwork.hookimpl
        def look(model, plugins):
            return MyLens(model, plugins)
    """


@hookspec(firstresult=True)
def compress(model: nn.Module, batches: Iterable[Any], options: Mapping[str, Any], plugins: Any) -> Any | None:
    """Make a model smaller than a budget and return what came of it: what is behind `topwork.compress`.

    Example:
        @topwork.hookimpl
        def compress(model, batches, options, plugins):
            return shrink(model, batches, share=options.get("parameters", 0.5))
    """


@hookspec(firstresult=True)
def profile_page(profile: Profile, file: Path) -> bool | None:
    """Write the profile of a recipe's rows (`topwork data --page FILE`) as one offline page; True when written.

    Example:
        @topwork.hookimpl
        def profile_page(profile, file):
            topwork.write_text(file, f"<h1>{profile.task}</h1>")
            return True
    """


@hookspec(firstresult=True)
def repetitions_page(folder: Path) -> str | None:
    """Write the page of repetitions (`topwork run --seeds`) into their folder, from `summary.json`; return its name.

    Example:
        @topwork.hookimpl
        def repetitions_page(folder):
            return topwork.write_text(folder / "page.html", (folder / "summary.json").read_text()) or "page.html"
    """


@hookspec(firstresult=True)
def notebook_view(subject: str, content: Any) -> str | None:
    """Return a page (HTML) for a notebook that shows a "run" (its folder) or "attention"; None: "not mine".

    Example:
        @topwork.hookimpl
        def notebook_view(subject, content):
            return f"<h1>{content}</h1>" if subject == "run" else None
    """


@hookspec(firstresult=True)
def make_tracker(name: str, run: Run) -> Any | None:
    """Return an object that hears the news of this run, or None: "not mine".

    The object has methods with the names and arguments of the hooks of news that it wants, such as `step_logged`, each
    marked by `@topwork.hookimpl`. It is made when a run begins whose recipe says `track: [name]`, on the main process.

    Example:
        @topwork.hookimpl
        def make_tracker(name, run):
            return Printer(run) if name == "printed" else None
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


# ---------------------------------------------------------------- news


@hookspec
def run_started(run: Run) -> None:
    """Called when a run begins, or goes on after an interruption.

    Example:
        @topwork.hookimpl
        def run_started(run):
            run.say(f"the run folder is {run.root}")
    """


@hookspec
def stage_started(run: Run, stage: Stage, index: int) -> None:
    """Called when a stage begins.

    Example:
        @topwork.hookimpl
        def stage_started(run, stage, index):
            run.say(f"{stage.name} begins with seed {run.seed}")
    """


@hookspec
def step_logged(run: Run, stage: Stage, step: int, numbers: Mapping[str, float]) -> None:
    """Called on the main process when a training has logged numbers, about fifty times in a stage.

    Args:
        run: the run; `run.folder` is the running stage's own folder.
        stage: the stage that trains.
        step: optimizer steps so far in this training.
        numbers: such as "loss", "learning_rate", "grad_norm", "epoch", and "eval_<metric>" after an evaluation.

    Example:
        @topwork.hookimpl
        def step_logged(step, numbers):
            print(step, numbers.get("loss"))
    """


@hookspec
def stage_done(run: Run, stage: Stage, index: int, result: Mapping[str, Json]) -> None:
    """Called when a stage has ended; its result is on disk.

    Example:
        @topwork.hookimpl
        def stage_done(run, stage, index, result):
            if result.get("measures") == "model":
                print(stage.name, result["metrics"])
    """


@hookspec
def run_failed(run: Run, error: BaseException) -> None:
    """Called when a run has ended with an error.

    Example:
        @topwork.hookimpl
        def run_failed(run, error):
            notify(f"{run.root} failed: {error}")
    """


@hookspec
def run_done(run: Run) -> None:
    """Called when a run has ended well.

    Example:
        @topwork.hookimpl
        def run_done(run):
            notify(f"{run.root} is done after {len(run.results)} stages")
    """
