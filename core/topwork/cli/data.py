"""Command `data`: how a recipe's rows are read, what they hold, and what looks wrong, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from topwork.cli.output import Session, print_json, print_table, say
from topwork.cli.rows import Columns
from topwork.cli.run import AsJson, Overrides
from topwork.errors import UsageError

if TYPE_CHECKING:
    from topwork.data.profile import Profile, RoleProfile
    from topwork.plugins.registry import Plugins
    from topwork.recipe.recipe import Recipe
    from topwork.task import Task

ROLES = ("train", "calibrate", "evaluate", "predict")
_BARS = 30
_LABELS_SHOWN = 12


def data(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="A recipe, or with --task a file, folder or data set.")],
    task: Annotated[str | None, typer.Option(help="Read SOURCE as training rows of this task.")] = None,
    column: Columns = None,
    split: Annotated[str | None, typer.Option(help="With --task: split of SOURCE, slices allowed.")] = None,
    override: Overrides = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows of each role to read.")] = 10_000,
    examples: Annotated[int, typer.Option(min=0, help="First rows of each role to show.")] = 3,
    page: Annotated[Path | None, typer.Option(help="Write the profile as one offline HTML page too.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 when there is a doubt.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how rows are read: columns, counts, distributions, first rows, and every doubt.

    Example: topwork data reviews.csv --task TASK -c text=review -c label=stars
    """
    from topwork.cli.predict import split_pair
    from topwork.recipe.recipe import load_recipe
    from topwork.runs.execute import silence_libraries

    session: Session = context.obj
    silence_libraries()
    if task is None:
        if column:
            raise UsageError("`-c` goes with --task; a recipe has `data.columns`", place="topwork data")
        if split is not None:
            raise UsageError("`--split` goes with --task; a recipe has `data.train.split`", place="topwork data")
        recipe = load_recipe(source, override or (), session.plugins)
        profile = profile_recipe(session.plugins, recipe, most=limit, examples=examples)
    else:
        mapping = dict(split_pair(text, "-c") for text in column or ())
        profile = _profile_source(session.plugins, source, session.plugins.task(task), mapping, split, limit, examples)
    if page is not None:
        _write_page(session, profile, page)
    if as_json:
        print_json(profile.to_json())
    else:
        print_profile(profile)
    if check and profile.doubts:
        raise typer.Exit(1)


def profile_recipe(plugins: Plugins, recipe: Recipe, *, most: int = 10_000, examples: int = 3) -> Profile:
    """Profile the rows of every role that a recipe names.

    Args:
        plugins: what is loaded.
        recipe: a checked recipe.
        most: rows of each role to read.
        examples: first rows of each role to render.
    """
    from topwork.data.profile import profile_rows
    from topwork.data.roles import Roles

    wanted = {role for stage in recipe.stages for role in stage.reads()}
    roles = Roles(recipe.task_class, plugins, recipe.data, seed=recipe.seed, wanted=wanted)
    names = [role for role in ROLES if getattr(recipe.data, role) is not None]
    return profile_rows(recipe.task_class, recipe.task_options, roles, names, most=most, examples=examples)


def _profile_source(
    plugins: Plugins,
    source: str,
    task: type[Task],
    columns: dict[str, str],
    split: str | None,
    most: int,
    examples: int,
) -> Profile:
    """Profile one file, folder or data set as training rows of a task."""
    from topwork.data.options import DataOptions
    from topwork.data.profile import profile_rows
    from topwork.data.roles import Roles

    options = DataOptions.model_validate({"train": {"path": source, "split": split}, "columns": columns})
    return profile_rows(task, task.Options(), Roles(task, plugins, options), ["train"], most=most, examples=examples)


def _write_page(session: Session, profile: Profile, page: Path) -> None:
    if not session.plugins.hook.profile_page(profile=profile, file=page):
        raise UsageError("no plugin draws profiles", place="--page", hint="load the plugin `report`")
    say(f"page: {page}")


def print_profile(profile: Profile) -> None:
    """Print a profile as tables for a terminal."""
    for note in profile.notes:
        print(note)
    for role in profile.roles:
        _print_role(role)
    count = len(profile.doubts)
    print(f"\n{count} doubt{'s' * (count > 1)}:" if count else "\nno doubts")
    for doubt in profile.doubts:
        print(f"  ! {doubt}")


def _print_role(role: RoleProfile) -> None:
    count = "a stream" if role.rows is None else f"{role.rows:,} row{'s' * (role.rows != 1)}"
    part = "" if role.rows == role.profiled else f", {role.profiled:,} of them profiled"
    lines = []
    for column in role.columns:
        source = "" if column.source == column.name else f" <- {column.source}"
        missing = f", {column.missing:,} missing" if column.missing else ""
        lines.append((f"{column.name}{source}", column.kind + missing, _distribution(column.lengths)))
    lines += [(name, "measured", _distribution(values)) for name, values in role.measures.items()]
    print()
    print_table(f"{role.role}: {count}{part}", lines)
    for column in role.columns:
        _print_labels(column.labels)
    for index, picture in enumerate(role.examples):
        text = "".join(piece if not mark else f"[{piece}]({mark})" for piece, mark in picture.text or ())
        print(f"  first rows, {index}: {picture.caption}" + (f"\n    {text}" if text else ""))


def _distribution(lengths: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:,.6g}" for name, value in lengths.items())


def _print_labels(labels: dict[str, int]) -> None:
    if not labels:
        return
    largest = max(labels.values())
    width = max(len(label) for label in list(labels)[:_LABELS_SHOWN])
    for label, count in list(labels.items())[:_LABELS_SHOWN]:
        bar = "#" * max(1, round(_BARS * count / largest))
        print(f"    {label[:40]:{min(width, 40)}}  {count:8,}  {bar}")
    if len(labels) > _LABELS_SHOWN:
        print(f"    and {len(labels) - _LABELS_SHOWN:,} more labels")
