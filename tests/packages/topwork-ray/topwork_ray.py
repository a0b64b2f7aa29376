"""`topwork ray-predict`: predictions by the workers of a Ray cluster, each of which loads the model once."""

import json
from pathlib import Path
from typing import Annotated

import typer

from topwork import RowsOptions, UsageError, hookimpl


class Predictor:
    """A worker of Ray Data: the model, loaded once, and its predictions of batches of rows."""

    def __init__(self, model: str, columns: dict[str, str]):
        import topwork

        self.work, self.columns = topwork.load(model), columns

    def __call__(self, batch):
        rows = [json.loads(text) for text in batch["cells"]]
        predictions = self.work.predict(rows, columns=self.columns)
        return {"row": batch["row"], "line": [json.dumps(prediction) for prediction in predictions]}


def ray_predict(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="A model folder that the stage `save` wrote; all workers see it.")],
    rows: Annotated[str, typer.Argument(help="Rows: a file, a folder, a data set; cells that JSON has.")],
    output: Annotated[Path, typer.Option(help="Where the JSON lines go.")],
    column: Annotated[list[str] | None, typer.Option("-c", help="task's column=data set's column, repeatable.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Workers that load the model.")] = 2,
    batch: Annotated[int, typer.Option(min=1, help="Rows that a worker is given at a time.")] = 256,
) -> None:
    """Predict with a saved model on a Ray cluster: one JSON line a row, in the order of the rows."""
    try:
        import ray
    except ImportError as error:
        raise UsageError("Ray is not installed", hint="pip install topwork-ray") from error
    from topwork_ray import Predictor as Worker  # by the name under which workers import it

    columns = dict(text.split("=", 1) for text in column or ())
    table = context.obj.plugins.load_rows(RowsOptions(path=rows))
    cells = [{"row": index, "cells": json.dumps(dict(row))} for index, row in enumerate(table)]
    predicted = ray.data.from_items(cells).map_batches(
        Worker, fn_constructor_args=(str(model.resolve()), columns), concurrency=workers, batch_size=batch
    )
    with output.open("w", encoding="utf-8") as out:
        for line in predicted.sort("row").iter_rows():
            out.write(json.dumps({"row": int(line["row"]), "prediction": json.loads(line["line"])}) + "\n")


ray_predict.__name__ = "ray-predict"


@hookimpl
def register_commands():
    return [ray_predict]
