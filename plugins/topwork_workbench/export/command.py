"""The command `export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from topwork import RowsOptions, UsageError, require_model_folder


def export(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="A model folder that the stage `save` wrote.")],
    format_: Annotated[list[str], typer.Option("--format", help="onnx or torch_export, repeatable.")],
    output: Annotated[
        Path | None, typer.Option(help="The exported folder; by default <model>-<format>. Of several: their parent.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Rows to compare on: a file, a data set, sample:<name>; by default the task's own."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of a data set, slices allowed: test[:20].")] = None,
    column: Annotated[
        list[str] | None, typer.Option("-c", "--column", help="task's column=data set's column, repeatable.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="How many rows to compare on.")] = 8,
    tolerance: Annotated[float | None, typer.Option(help="Largest relative difference of outputs.")] = None,
    opset: Annotated[int | None, typer.Option(min=1, help="Version of the operators of ONNX.")] = None,
    trust: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that lies beside the weights.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Export a saved model as ONNX or by torch.export, and compare it with the model.

    Example: topwork export runs/reviews-1/model --format onnx --data reviews.csv -c text=review
    """
    import topwork
    from topwork_workbench.export.card import CARD, copy_facts
    from topwork_workbench.export.running import format_named

    require_model_folder(model)
    names = list(dict.fromkeys(format_named(name) for name in format_))
    target = output or model.with_name(f"{model.name}-{names[0] if len(names) == 1 else 'exported'}")
    if target.exists():
        raise UsageError("there is something already", place=str(target), hint="name another folder: --output")
    plugins = context.obj.plugins
    work = topwork.load(model, plugins=plugins, trust_remote_code=trust)
    source: Any = work.task.example_rows()
    if data is not None:
        source = plugins.load_rows(RowsOptions.model_validate({"path": data, "split": split}))
    options: dict[str, Any] = {"formats": names, "folder": str(target.absolute()), "role": "predict", "rows": rows}
    options |= {"tolerance": tolerance, "opset": opset}
    result = work.apply(
        "export",
        {"predict": source},
        columns=dict(map(_pair, column or ())),
        quiet=as_json or context.obj.quiet,
        **options,
    )
    for folder in map(Path, result["exported"].values()):
        copy_facts(model / CARD, folder / CARD)
    if as_json:
        typer.echo(json.dumps(result, indent=1))
        return
    for part in result["tables"]["Exported programs"]:
        typer.echo(
            f"{part['format']}, {part['file']}: {part['megabytes']:.1f} MB; {part['inputs']}; differs by at most "
            f"{part['largest difference']:.2g} in {part['calls compared']} calls ({part['allowed']:.2g} is allowed)"
        )
    for folder in result["exported"].values():
        typer.echo(folder)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise UsageError(f"`{text}` is no pair", place="--column", hint="write task's column=data set's column")
    return name, value
