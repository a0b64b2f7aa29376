"""The command `push`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from topwork import require_model_folder


def push(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="A model folder, saved or exported.")],
    repo: Annotated[str, typer.Argument(help="Id of the repository: owner/name.")],
    yes: Annotated[bool, typer.Option("--yes", help="Upload; without it the command says what it would do.")] = False,
    public: Annotated[bool, typer.Option("--public", help="A repository that does not exist yet is made public.")] = (
        False
    ),
    revision: Annotated[str | None, typer.Option(help="Branch; by default the main one.")] = None,
    message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
    license_: Annotated[str | None, typer.Option("--license", help="Licence in the card, such as apache-2.0.")] = None,
    language: Annotated[list[str] | None, typer.Option(help="Language in the card, repeatable.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Say what an upload of a model folder to the Hub does; with --yes, do it.

    Example: topwork push runs/reviews-1/model me/reviews --license apache-2.0 --language en
    """
    from topwork_workbench.hub.upload import Plan

    require_model_folder(folder)
    plan = Plan.of(
        folder,
        repo,
        private=not public,
        revision=revision,
        message=message,
        license_id=license_,
        languages=language or (),
    )
    if not as_json:
        for line in plan.lines():
            typer.echo(line)
    commit = plan.upload() if yes else None
    if as_json:
        typer.echo(json.dumps({"repo": repo, "files": plan.files, "left_out": plan.left_out, "commit": commit}))
        return
    typer.echo(commit or "nothing was sent: --yes does it")
