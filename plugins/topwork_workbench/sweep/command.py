"""The command `sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def sweep(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped recipe.")],
    search: Annotated[
        list[str] | None,
        typer.Option("-s", "--search", help="key.path=1,2,3, key.path=1..5 or key.path=log:1e-5..1e-3; repeatable."),
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("-o", "--override", help="Change the recipe for all trials: key.path=value.")
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="How many; by default 20, or all of a grid.")] = None,
    sampler: Annotated[str, typer.Option(help="tpe, random or grid.")] = "tpe",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each trial, with seeds of their own.")] = 1,
    prune: Annotated[
        bool, typer.Option("--prune", help="Stop trials that fall behind (needs evaluate_every).")
    ] = False,
    folder: Annotated[
        Path | None, typer.Option(help="Of the sweep; by default sweeps/<recipe>. A sweep that lies there goes on.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the run folders of all trials.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Search options of a recipe by optuna, judged on calibrate rows; `best.yaml` is the best recipe."""
    import json

    from topwork import UsageError, going_on_by
    from topwork_workbench.sweep.space import parse
    from topwork_workbench.sweep.study import BEST, Sweep, lines

    names: tuple[Any, ...] = ("tpe", "random", "grid")
    if sampler not in names:
        raise UsageError(f"there is no sampler `{sampler}`", place="--sampler", hint=", ".join(names))
    root = folder or Path("sweeps") / Path(recipe).stem
    work = Sweep(
        recipe,
        parse(search or []),
        root,
        context.obj.plugins,
        trials=trials,
        sampler=names[names.index(sampler)],
        seeds=seeds,
        prune=prune,
        overrides=override or (),
        keep=keep,
    )
    with going_on_by(f"the same command goes on with the trials that are left, in {root}"):
        study = work.run()
    entries = lines(study)
    page = str(root / work.page) if work.page else None
    for failure in work.failures:
        typer.echo(failure, err=True)
    if as_json:
        shown = {"folder": str(root), "best": str(root / BEST), "page": page, "trials": entries}
        typer.echo(json.dumps(shown, indent=1))
        return
    for entry in sorted(entries, key=lambda entry: (entry["value"] is None, entry["trial"])):
        options = ", ".join(f"{name}={value}" for name, value in entry["options"].items())
        value = "" if entry["value"] is None else f"{entry['metric']} {entry['value']:.4g}"
        typer.echo(f"{entry['trial']:4d}  {entry['state']:9s} {value:24s} {options}")
    if page is not None:
        typer.echo(page)
    typer.echo(str(root / BEST))
