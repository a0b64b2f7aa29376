"""`topwork importance`: scores of the attention heads of a saved model, over rows that many processes may share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from topwork import Json, RowsOptions, UsageError, require_model_folder, unknown

if TYPE_CHECKING:
    from topwork import Table, TaskModel
    from topwork_lens.scoring.selection import Importance

#: methods whose scores are means over rows
METHODS = ("michel", "taylor", "leave_one_out", "shapley", "entropy")
SUMS = "sums.safetensors"
#: groups of shards for standard errors
_GROUPS = 20


def importance_command(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="A model folder that the stage `save` wrote.")],
    rows: Annotated[list[str], typer.Argument(help="Rows with targets: files, folders, data sets, sample:<name>.")],
    output: Annotated[str, typer.Option(help="A folder, or its address; all processes that run this share it.")],
    column: Annotated[
        list[str] | None, typer.Option("-c", "--column", help="task's column=data set's column, repeatable.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of a data set, slices allowed: train[:600].")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Score on this many rows of each source.")] = None,
    method: Annotated[str, typer.Option(help=f"{', '.join(METHODS)}.")] = "michel",
    reduction: Annotated[str, typer.Option(help="What the absolute value is taken of: example or token.")] = "example",
    normalise: Annotated[str, typer.Option(help="layer, global or none.")] = "layer",
    orders: Annotated[int, typer.Option(min=1, help="shapley: random orders.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of random numbers in losses and orders.")] = 0,
    shards: Annotated[int, typer.Option(min=0, help="Divide the rows among all processes; 0: a suitable number.")] = 0,
    stale_after: Annotated[
        float, typer.Option(min=1, help="Take over from processes that were silent for so many seconds.")
    ] = 120.0,
) -> None:
    """Score the attention heads of a saved model, with standard errors; any number of processes may take part.

    Example: topwork importance runs/reviews-1/model reviews.csv --output scores
    """
    require_model_folder(model)
    for name, value, known in (("method", method, METHODS), ("reduction", reduction, ("example", "token"))):
        if value not in known:
            raise unknown(f"value of `--{name}`", value, known)
    import topwork

    plugins = context.obj.plugins
    loaded = topwork.load(model, plugins=plugins)
    options: dict[str, Any] = {"method": method, "reduction": reduction, "seed": seed, "orders": orders}
    scoring = ShardScores(loaded, {**options, "normalise": normalise})
    sources = [RowsOptions.model_validate({"path": path, "split": split, "limit": limit}) for path in rows]
    columns = dict(_pair(text) for text in column or ())
    settings = {**options, "normalise": normalise}
    topwork.share_rows(
        "importance",
        output,
        loaded,
        model,
        sources,
        scoring.compute,
        scoring.join,
        columns=columns,
        options=settings,
        shards=shards or None,
        stale_after=stale_after,
        say=_silent if context.obj.quiet else _say,
    )
    typer.echo(_read_text(f"{output}/result.json").rstrip())


class ShardScores:
    """Scores of attention heads, shard by shard: sums over rows, which add up.

    Args:
        work: the task and its model.
        options: method, reduction, normalise, seed, orders: of `topwork.importance`.
    """

    def __init__(self, work: TaskModel, options: Mapping[str, Any]) -> None:
        self.work, self.options = work, dict(options)

    def compute(self, tables: Sequence[Table], folder: Path) -> dict[str, Json]:
        """Write the sums over the rows of a shard."""
        import itertools

        from safetensors.torch import save_file

        kept: list[Any] = []

        def keep(sums: Any) -> list[Any]:
            kept.append(sums)
            return [sums]

        batches = (self.work.loss_batches(table, seed=self.options["seed"]) for table in tables)
        self._importance(itertools.chain.from_iterable(batches), keep)
        rows, by_layer = kept[0]
        save_file(by_layer, folder / SUMS, metadata={"rows": str(rows)})
        return {"rows": rows, "errors": 0}

    def join(self, parts: Sequence[Path], folder: Path) -> None:
        """Write the scores over all shards: the files of `Importance.save`, and result.json with standard errors."""
        from topwork import write_json

        sums = [_read_sums(part / SUMS) for part in parts]
        importance = self._over(sums)
        importance.save(folder)
        groups = min(_GROUPS, len(sums))
        result: dict[str, Any] = {**importance.json(), "shards": len(sums)}
        if groups > 1:
            without = [
                self._over([part for index, part in enumerate(sums) if index % groups != group])
                for group in range(groups)
            ]
            for number, layer in enumerate(result["layers"]):
                layer["standard_errors"] = _errors([each.layers[number].scores for each in without])
            result["groups"] = groups
        write_json(folder / "result.json", result)

    def _over(self, sums: Sequence[Any]) -> Importance:
        def all_of(_: Any) -> list[Any]:
            return list(sums)

        return self._importance([], all_of)

    def _importance(self, batches: Iterable[Any], gather: Any) -> Importance:
        losses = self.work.task.row_losses
        return self.work.look().importance(batches, row_losses=losses, gather=gather, **self.options)


def _errors(scores: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Return the standard error of each attention head's score, given the scores without each group of shards."""
    from topwork import jackknife_error

    known = [[value for value in values if value is not None] for values in zip(*scores)]
    return [jackknife_error(values) if len(values) == len(scores) else None for values in known]


def _read_sums(file: Path) -> tuple[int, dict[str, Any]]:
    """Return the number of rows of a shard, and the sums over them by layer."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(file, "pt") as content:
        rows = int(content.metadata()["rows"])
    return rows, load_file(file)


def _read_text(file: str) -> str:
    """Return the text of a file that is given by path or address."""
    if "://" not in file:
        return Path(file).read_text(encoding="utf-8")
    import fsspec

    with fsspec.open(file, "rt", encoding="utf-8") as stream:
        return str(stream.read())


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise UsageError(f"`{text}` is no pair", place="--column", hint="write task's column=data set's column")
    return name, value


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _silent(text: str) -> None:
    pass
