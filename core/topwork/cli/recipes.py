"""`validate`, `cat`, `cp`, `new` and `schema`: recipes before they are run. Nothing heavy is imported."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from topwork.cli.completion import complete_recipes, complete_tasks
from topwork.cli.output import Session, coloured, print_json, say
from topwork.cli.run import AsJson, Overrides
from topwork.errors import RecipeError, TopworkError, UsageError


def validate(
    context: typer.Context,
    recipes: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE...", help="YAML files, or names of shipped recipes.", autocompletion=complete_recipes
        ),
    ],
    override: Overrides = None,
    with_data: Annotated[
        bool, typer.Option("--data", help="Read the rows too (see `topwork data`); exit with 1 when there is a doubt.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check recipes without running them: every fault with file, line and column."""
    from topwork.recipe.recipe import load_recipe

    session: Session = context.obj
    reports: list[dict[str, Any]] = []
    for recipe in recipes:
        try:
            loaded = load_recipe(recipe, override or (), session.plugins)
            doubts = _doubts(session, loaded) if with_data else []
            reports.append({"recipe": recipe, "ok": True, "problems": [], "doubts": doubts})
        except RecipeError as error:
            problems = [vars(problem) for problem in error.problems]
            reports.append({"recipe": recipe, "ok": False, "problems": problems, "text": str(error)})
        except TopworkError as error:
            problems = [{"place": recipe, "path": "", "message": str(error)}]
            reports.append({"recipe": recipe, "ok": False, "problems": problems, "text": str(error)})
    if as_json:
        keys = ("recipe", "ok", "problems", *(("doubts",) if with_data else ()))
        print_json([{key: report.get(key, []) for key in keys} for report in reports])
    else:
        for report in reports:
            if report["ok"]:
                print(f"{report['recipe']}: {coloured('ok', 'green')}")
                for doubt in report["doubts"]:
                    print(f"{report['recipe']}: {coloured('doubt', 'yellow')}: {doubt}")
            else:
                say(coloured(report["text"], "red", sys.stderr))
    if not all(report["ok"] for report in reports):
        raise typer.Exit(2)
    if any(report["doubts"] for report in reports):
        raise typer.Exit(1)


def _doubts(session: Session, recipe: Any) -> list[str]:
    """Read the rows of a recipe and return what looks wrong in them."""
    from topwork.cli.data import profile_recipe
    from topwork.runs.execute import silence_libraries

    silence_libraries()
    return profile_recipe(session.plugins, recipe, examples=0).doubts


def cat(
    context: typer.Context,
    recipe: Annotated[
        str, typer.Argument(help="A YAML file, or the name of a shipped recipe.", autocompletion=complete_recipes)
    ],
    resolved: Annotated[bool, typer.Option("--resolved", help="With `extends` and every default written out.")] = False,
) -> None:
    """Print a recipe."""
    from topwork.recipe.recipe import find_recipe, load_recipe

    session: Session = context.obj
    if resolved:
        print(load_recipe(recipe, (), session.plugins).to_yaml(), end="")
    else:
        print(find_recipe(recipe, session.plugins).read_text(encoding="utf-8"), end="")


def cp(
    context: typer.Context,
    recipe: Annotated[
        str, typer.Argument(help="The name of a shipped recipe, or a YAML file.", autocompletion=complete_recipes)
    ],
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="A file or a folder.")] = Path("."),
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Copy a recipe, to change it."""
    from topwork.recipe.recipe import find_recipe

    session: Session = context.obj
    source = find_recipe(recipe, session.plugins)
    target = destination / source.name if destination.is_dir() else destination
    _write(target, source.read_text(encoding="utf-8"), force)


def new(
    context: typer.Context,
    task: Annotated[
        str, typer.Argument(help="The name of a task: `topwork list tasks`.", autocompletion=complete_tasks)
    ],
    destination: Annotated[str | None, typer.Argument(metavar="DEST", help="A file; - prints it.")] = None,
    base: Annotated[str, typer.Option(help="A Hub id, a local folder, timm/<name>, config:<type>.")] = "BASE",
    data: Annotated[
        str | None, typer.Option(help="Training rows; their columns are looked up: a file, a folder, a data set.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a starter recipe for a task, with its columns and options as comments."""
    from topwork.cli.preview import Preview, preview
    from topwork.cli.starter import starter

    session: Session = context.obj
    target = destination or f"{task.replace('-', '_')}.yaml"
    rows = preview(data, session.plugins) if data is not None else Preview()
    file = "recipe.yaml" if target == "-" else target
    text = starter(session.plugins.task(task), base, session.plugins, file, rows)
    if target == "-":
        print(text, end="")
    else:
        _write(Path(target), text, force)


def _write(target: Path, text: str, force: bool) -> None:
    from topwork.files import write_text

    if target.exists() and not force:
        raise UsageError("there is a file already", place=str(target), hint="--force replaces it")
    write_text(target, text)
    say(f"wrote {target}")


def schema(context: typer.Context) -> None:
    """Print the JSON Schema of recipes, for editors: all tasks and stages that are installed.

    In the first line of a recipe, `# yaml-language-server: $schema=schema.json` makes editors check it.
    """
    from topwork.recipe.schema import recipe_schema

    session: Session = context.obj
    print_json(recipe_schema(session.plugins))
