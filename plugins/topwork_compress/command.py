"""`topwork compress`: a saved model below a budget, measured on rows that it was not fitted to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from topwork import RowsOptions, UsageError, require_model_folder


def compress_command(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="A model folder that the stage `save` wrote.")],
    data: Annotated[str, typer.Option(help="Rows with targets: a file, a folder, a data set, sample:<name>.")],
    split: Annotated[str | None, typer.Option(help="Split of a data set, slices allowed: train[:600].")] = None,
    column: Annotated[
        list[str] | None, typer.Option("-c", "--column", help="task's column=data set's column, repeatable.")
    ] = None,
    macs: Annotated[float | None, typer.Option(help="Share of the multiply-accumulates that is left.")] = None,
    parameters: Annotated[float | None, typer.Option(help="Share of the parameters that is left.")] = None,
    latency: Annotated[float | None, typer.Option(help="Share of the seconds that is left, measured here.")] = None,
    keep_metric: Annotated[
        float | None, typer.Option(help="The smallest budget that keeps this share of the metric.")
    ] = None,
    score: Annotated[str, typer.Option(help="surgeon, fisher, kl, fluctuation, magnitude or random.")] = "surgeon",
    rows: Annotated[int, typer.Option(min=2, help="Rows to score and fit on; the others measure.")] = 512,
    multiple: Annotated[
        int | None,
        typer.Option(min=1, help="Widths of blocks are multiples of it; by default 16 with --latency in wide blocks."),
    ] = None,
    uniform: Annotated[
        bool, typer.Option("--uniform", help="As many neurons in all blocks of one width: plain transformers loads it.")
    ] = False,
    quantize: Annotated[
        str | None, typer.Option(help="int8: linear layers in 8 bits at the end, where that is measured faster.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The new model folder; by default <model>-compressed.")] = None,
    seed: Annotated[int, typer.Option(help="Of random numbers.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole result as JSON.")] = False,
) -> None:
    """Make a saved model smaller without training: heads and neurons go, what reads them is fitted.

    Example: topwork compress runs/reviews-1/model --data reviews.csv --macs 0.5
    """
    require_model_folder(model)
    target = output or model.with_name(f"{model.name}-compressed")
    if target.exists():
        raise UsageError("there is something already", place=str(target), hint="name another folder: --output")
    import topwork

    plugins = context.obj.plugins
    loaded = topwork.load(model, plugins=plugins)
    table = plugins.load_rows(RowsOptions.model_validate({"path": data, "split": split}))
    fitted, measured = _parts(table, rows, data, seed)
    columns = dict(_pair(text) for text in column or ())
    budget = {"macs": macs, "parameters": parameters, "latency": latency, "keep_metric": keep_metric}
    options: dict[str, Any] = {name: value for name, value in budget.items() if value is not None}
    options |= {"score": score, "rows": rows, "multiple": multiple, "uniform": uniform, "quantize": quantize}
    result = loaded.apply(
        "compress",
        {"calibrate": fitted, "evaluate": measured},
        columns=columns,
        seed=seed,
        quiet=as_json or context.obj.quiet,
        **options,
    )
    loaded.save(target)
    if as_json:
        typer.echo(json.dumps(result, indent=1))
        return
    for line in _lines(result):
        typer.echo(line)
    typer.echo(f"saved in {target}")


def _parts(table: Any, rows: int, data: str, seed: int) -> tuple[Any, Any]:
    """Return rows to fit on, at most half of all, and the others."""
    count = len(table)
    if count < 4:
        raise UsageError(f"{count} rows are too few to fit and to measure", place=data, hint="give some hundred")
    mixed = table.shuffle(seed=seed)
    middle = min(rows, count // 2)
    return mixed.select(range(middle)), mixed.select(range(middle, count))


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise UsageError(f"`{text}` is no pair", place="--column", hint="write task's column=data set's column")
    return name, value


def _lines(result: dict[str, Any]) -> list[str]:
    primary, roles = result["primary"], result["roles"]
    lines = []
    for role, values in roles.items():
        paired = values["paired"]
        interval = f", paired {paired['difference']:+.4f} [{paired['low']:+.4f}, {paired['high']:+.4f}]"
        lines.append(f"{role}: {primary} {values['before']:.4f} -> {values['after']:.4f}{interval}")
    counted = [name for name in ("macs", "nanoseconds", "parameters", "heads", "neurons") if f"{name}_after" in result]
    lines += [f"{name} {result[f'{name}_before']:,} -> {result[f'{name}_after']:,}" for name in counted]
    if "plain_transformers" in result:
        numbers = ", ".join(f"{name} {value}" for name, value in result["plain_transformers"].items())
        lines.append(f"plain transformers loads it ({numbers})" if numbers else result["why_not_plain"])
    if "int8" in result:
        eight = result["int8"]
        words = f"not taken: {eight['why']}" if eight["why"] else f"taken, {eight['layers']} layers"
        lines.append(f"8 bits: {eight['faster']:.2f} times faster, {words}")
    if "speedup" in result:
        reason = f" ({result['reason_of_gap']})" if result["reason_of_gap"] else ""
        lines.append(f"{result['speedup']:.2f} times faster, limit {result['limit']:.2f}{reason}")
    return lines
