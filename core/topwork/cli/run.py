"""`run` and `resume`: recipes from the command line. Heavy modules are imported when they are needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from topwork.cli.completion import complete_recipes
from topwork.cli.output import Session, print_json, print_table, say, stdout_for_json
from topwork.errors import UsageError
from topwork.hookspecs import hookimpl
from topwork.system.signals import going_on_by

if TYPE_CHECKING:
    from topwork.plugins.registry import Plugins
    from topwork.runs.run import Run

Overrides = Annotated[
    list[str] | None, typer.Option("-o", "--override", help="Change the recipe: key.path=value, repeatable.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def run_command(
    context: typer.Context,
    recipe: Annotated[
        str,
        typer.Argument(help="A YAML file, or the name of a shipped recipe.", autocompletion=complete_recipes),
    ],
    override: Overrides = None,
    folder: Annotated[Path | None, typer.Option(help="The run folder; by default runs/<name>-<number>.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check it, print it resolved, and stop.")] = False,
    save_outside: Annotated[
        bool, typer.Option("--save-outside", help="Let the stage `save` write to a folder outside the run folder.")
    ] = False,
    seeds: Annotated[
        int | None, typer.Option(help="Run it with this many seeds, and give each metric's mean and interval.")
    ] = None,
    folds: Annotated[
        int | None, typer.Option(help="Run it on this many folds of the training rows, each evaluated on once.")
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="RUN", help="Take over the leading stages of this run that did not change."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a recipe."""
    from topwork.recipe.recipe import load_recipe

    session: Session = context.obj
    session.warn_of_failed()
    checked = load_recipe(recipe, override or (), session.plugins)
    if dry_run:
        if as_json:
            print_json(checked.to_dict())
        else:
            print(checked.to_yaml(), end="")
        return
    from topwork.api import run as start

    repeated = seeds is not None or folds is not None
    with going_on_by(_Advice(session.plugins, repeated=repeated)), stdout_for_json(as_json):
        quiet = session.quiet or as_json
        more: dict[str, Any] = {"save_outside": True} if save_outside else {}
        if source is not None:
            if repeated:
                raise UsageError(
                    "`--from` goes with one run", place="topwork run", hint="leave --seeds and --folds out"
                )
            more["reuse"] = source
        if repeated:
            _repeat(checked, session.plugins, as_json, seeds=seeds, folds=folds, folder=folder, quiet=quiet, **more)
            return
        done = start(checked, folder=folder, plugins=session.plugins, quiet=quiet, **more)
    _print_run(done, as_json)


def _repeat(recipe: Any, plugins: Plugins, as_json: bool, **options: Any) -> None:
    """Run a recipe several times; print the numbers of all runs together."""
    from topwork.runs.repeat import repeat_run, table

    done = repeat_run(recipe, plugins, **options)
    if as_json:
        print_json({"folder": done.root, "page": done.page, **done.to_dict()})
        return
    title = f"{len(done.runs)} {done.kind}: stage, metric, mean, 95 % interval of the mean, each"
    print_table(title, table(done))
    if done.page is not None:
        say(f"page: {done.root / done.page}")
    print(done.root)


def resume_command(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="The run folder of an interrupted run.")],
    redo: Annotated[bool, typer.Option("--redo", help="Do stages again whose recipe or rows were changed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Go on with an interrupted run, from its last finished stage or checkpoint."""
    session: Session = context.obj
    session.warn_of_failed()
    if not folder.is_dir():
        raise UsageError(f"there is no run folder `{folder}`", hint="see the folder `runs`")
    from topwork.api import resume as go_on

    with going_on_by(_Advice(session.plugins)), stdout_for_json(as_json):
        more: dict[str, Any] = {"redo": True} if redo else {}
        done = go_on(folder, plugins=session.plugins, quiet=session.quiet or as_json, **more)
    _print_run(done, as_json)


def _print_run(done: Run, as_json: bool) -> None:
    if not done.process.main:
        return
    if as_json:
        print_json({"folder": done.root, "model_folder": done.model_folder, "results": done.results})
    else:
        print(done.root)


class _Advice:
    """How to go on with the run that was begun last; an observer of its beginning."""

    def __init__(self, plugins: Plugins, *, repeated: bool = False) -> None:
        self.root: Path | None = None
        self.repeated = repeated
        plugins.observe(self)

    @hookimpl
    def run_started(self, run: Any) -> None:
        self.root = Path(run.root)

    def __call__(self) -> str | None:
        """Return the command in a sentence; None before the run has begun."""
        if self.root is None or not self.root.is_dir():
            return None
        if self.repeated:
            return f"the same command with `--folder {self.root.parent}` goes on"
        return f"`topwork resume {self.root}` goes on"
