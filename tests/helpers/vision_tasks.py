"""Vision tasks made from small bases, and their predictions by the four steps of the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from topwork import BaseOptions
from topwork_bases.timm import base as timm_bases
from topwork_bases.transformers import base as transformers_bases


def base(value: Any, **options: Any) -> Any:
    """The base of a config, a folder or a model's name."""
    source = {"config": value} if isinstance(value, dict) else {"model": str(value)}
    chosen = BaseOptions.model_validate({**source, **options})
    name = chosen.model or f"config:{chosen.config['model_type']}"
    return timm_bases.load_base(name, chosen) or transformers_bases.load_base(name, chosen)


def make(kind: Any, source: Any, rows: Any = None, /, **options: Any) -> tuple[Any, Any, Any]:
    """A task of the class `kind`, its model in evaluation mode, and the rows, by default the examples of the task.

    Args:
        source: a base, or what `base` takes.
    """
    torch.manual_seed(0)
    bases = {"base": base(source) if isinstance(source, dict | str | Path) else source}
    chosen = kind.Options(**options)
    rows = kind.example_rows() if rows is None else rows
    task = kind(bases, chosen, kind.learn(rows, bases, chosen))
    return task, task.build().eval(), rows


def predictions(task: Any, model: Any, rows: Any) -> list[Any]:
    """One prediction a row, of rows that are one item each."""
    batch = task.collate(task.encode(rows, "predict", 0), "predict")
    with torch.inference_mode():
        return [task.merge(row, [part]) for row, part in zip(rows, task.predict(model, batch), strict=True)]
