"""Conformance checks for tasks, stages, metrics and bases: what the contracts promise, tried out.

topwork's own tests run them over everything installed; authors of plugins call them in their tests:

    from topwork.testing import check_task
    def test_my_task(tmp_path):
        check_task(MyTask, {"config": {"model_type": "bert", ...}}, tmp_path)

Each check raises AssertionError with what was promised and what was found.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork.files import plain
from topwork.items import Batch, Item, Picture, Units
from topwork.metric import Metric
from topwork.stage import Stage
from topwork.task import Task

if TYPE_CHECKING:
    from topwork.plugins.registry import Plugins
    from topwork.task_model import TaskModel

__all__ = ["build_example", "check_base", "check_metric", "check_stage", "check_task", "same_predictions"]


def build_example(
    task: type[Task], base: Any, plugins: Plugins, *, seed: int = 0, options: Mapping[str, Any] | None = None
) -> TaskModel:
    """The task on a base (or a dict of bases by role), learned from the task's own example rows."""
    from topwork.api import build

    several = isinstance(base, Mapping) and task.fits(base)
    named = {"bases": base} if several else {"base": base}
    return build(task.name, rows=task.example_rows(), plugins=plugins, seed=seed, **named, **(options or {}))


def check_task(
    task: type[Task],
    base: Any,
    folder: Path,
    *,
    plugins: Plugins | None = None,
    options: Mapping[str, Any] | None = None,
    tolerance: float = 1e-4,
) -> TaskModel:
    """Walk a task through everything that the runner, the lens and the page will ask of it.

    Args:
        base: a name, folder or config that suits the task; a dict of them for tasks with several roles.
        folder: an empty folder for the saved model.
        tolerance: between row losses in a batch and one by one, relative to the largest.

    Returns:
        the built TaskModel, for further checks.
    """
    from topwork.plugins.registry import load_plugins

    plugins = plugins or load_plugins(extra=[_Registers(task)])
    _check_declarations(task)
    work = build_example(task, base, plugins, options=options)
    rows = task.example_rows()
    _check_encoding(work.task, rows)
    _check_losses(work, rows, tolerance)
    predictions = _check_predictions(work, rows, folder)
    check_metric(work.task, rows, predictions)
    _check_folder(work, rows, predictions, folder / "model", plugins)
    return work


class _Registers:
    """A plugin that has one task; used when the task is not installed."""

    def __init__(self, task: type[Task]) -> None:
        from topwork.hookspecs import hookimpl

        self.register_tasks = hookimpl(lambda: [task], specname="register_tasks")


def _check_declarations(task: type[Task]) -> None:
    rows = task.example_rows()
    targets = [name for name, column in task.columns.items() if column.target] or list(task.columns)
    assert len(rows) >= 8, f"{task.name}: example_rows gives {len(rows)} rows, 8 are wanted"
    distinct = {repr([row.get(name) for name in targets]) for row in rows}
    assert len(distinct) >= 3, f"{task.name}: example_rows has {len(distinct)} distinct targets, 3 are wanted"
    for name, column in task.columns.items():
        assert column.description, f"{task.name}: column {name} has no description"
        assert not column.required or all(name in row for row in rows), f"{task.name}: example rows lack column {name}"
    assert (task.__doc__ or "").strip(), f"{task.name} has no docstring"


def _check_encoding(task: Task, rows: Sequence[Any]) -> None:
    for mode in ("train", "loss", "predict"):
        once, again = task.encode(rows, mode, 3), task.encode(rows, mode, 3)
        assert _same(once, again), f"{task.name}: encode(mode={mode!r}) differs between two calls with one seed"
        assert all(0 <= item.row < len(rows) and item.cost >= 0 for item in once), f"{task.name}: bad row or cost"
    first, second = task.encode(rows, "train", 1), task.encode(rows, "train", 2)
    assert [item.cost for item in first] == [item.cost for item in second], f"{task.name}: costs depend on the seed"
    if task.repeatable:
        assert _same(first, second), f"{task.name}: items depend on the seed, but `repeatable` is True"
    costs = task.costs(rows)
    if costs is not None:
        assert [cost for row in costs for cost in row] == [item.cost for item in first], f"{task.name}: costs() errs"
    assert task.encode([], "predict", 0) == [], f"{task.name}: no rows must give no items"
    for item in task.encode(rows[:1], "predict", 0)[:1]:
        assert isinstance(task.units(item), Units), f"{task.name}: units() must answer Units"


def _same(first: Sequence[Item], second: Sequence[Item]) -> bool:
    import numpy as np
    import torch

    def flat(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.tolist()
        if isinstance(value, np.ndarray):
            return value.tolist()
        if isinstance(value, dict):
            return {key: flat(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [flat(entry) for entry in value]
        return value

    def key(item: Item) -> Any:
        return item.row, item.cost, flat(item.inputs)

    return [key(item) for item in first] == [key(item) for item in second]


def _check_losses(work: TaskModel, rows: Sequence[Any], tolerance: float) -> None:
    import torch

    task, model = work.task, copy.deepcopy(work.model)
    model.train()
    loss = task.loss(model, task.collate(task.encode(rows, "train", 0), "train"))
    assert loss.ndim == 0 and torch.isfinite(loss), f"{task.name}: the loss must be a finite scalar, it is {loss}"
    for items in (task.encode(rows, "train", 0)[:0:-1], task.encode(rows[:1], "train", 0)[:1]):
        part = task.loss(model, task.collate(items, "train")) if items else loss
        assert part.ndim == 0 and torch.isfinite(part), (
            f"{task.name}: training puts items into batches one by one, whatever their row: what must stay together is "
            f"one item; the loss of some of the items is {part}"
        )
    loss.backward()
    trained = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert trained, f"{task.name}: no parameter got a gradient"
    model.eval()
    batch = task.collate(task.encode(rows, "loss", 0), "loss")
    with torch.no_grad():
        together, alone = task.row_losses(model, batch), Task.row_losses(task, model, batch)
    assert together.shape == (batch.row_count,), (
        f"{task.name}: row_losses must be [rows], it is {tuple(together.shape)}"
    )
    difference = float((together - alone).abs().max() / alone.abs().max().clamp_min(1e-12))
    assert difference <= tolerance, f"{task.name}: row_losses differ from the rows alone by {difference:.2g}"


def _check_predictions(work: TaskModel, rows: Sequence[Any], folder: Path) -> list[Any]:
    task = work.task
    unseen = [
        {name: row[name] for name in row if not task.columns[name].target}
        for row in rows
        if set(row) <= set(task.columns)
    ]
    predictions = work.predict(unseen or rows)
    assert len(predictions) == len(rows), f"{task.name}: {len(predictions)} predictions for {len(rows)} rows"
    unmoved = not unseen or same_predictions(list(work.predict(rows)), list(predictions), 1e-4)
    assert unmoved, f"{task.name}: predictions are others when the rows have their targets"
    files = folder / "files"
    files.mkdir(parents=True, exist_ok=True)
    for index, (row, prediction) in enumerate(zip(rows, predictions)):
        json.dumps(plain(task.write(prediction, files, f"{index:04d}")), allow_nan=False)
        picture = task.draw(row, prediction)
        assert isinstance(picture, Picture) and picture.caption, (
            f"{task.name}: draw() must answer a Picture with a caption"
        )
    return predictions


def check_metric(task: Task, rows: Sequence[Any], predictions: Sequence[Any]) -> None:
    """Keys are known before, NaN without rows, and merged halves equal the whole."""
    import pickle

    def of(chosen: range) -> Metric:
        metric = task.metric()
        for number in chosen:
            metric.update(rows[number], predictions[number])
        return metric

    whole, half = of(range(len(rows))), len(rows) // 2
    values = whole.result()
    assert set(whole.keys) <= set(values), f"{task.name}: the metric promised {whole.keys} and gave {sorted(values)}"
    assert whole.primary in whole.keys, f"{task.name}: primary {whole.primary} is none of the keys"
    left, right = of(range(half)), of(range(half, len(rows)))
    left.merge(pickle.loads(pickle.dumps(right)))
    merged = left.result()
    for key in whole.keys:
        assert _close(values[key], merged[key]), f"{task.name}: {key} is {values[key]} whole and {merged[key]} merged"
    empty = task.metric().result()
    assert all(empty[key] != empty[key] for key in whole.keys), f"{task.name}: without rows every key must be NaN"
    json.dumps(plain(values), allow_nan=False)


def _close(first: float, second: float) -> bool:
    return (first != first and second != second) or abs(first - second) <= 1e-6 * max(1.0, abs(first))


def _check_folder(work: TaskModel, rows: Sequence[Any], predictions: list[Any], folder: Path, plugins: Plugins) -> None:
    from topwork.api import load

    work.save(folder)
    assert not [file for file in folder.rglob("*") if file.suffix in (".bin", ".pt", ".pkl", ".pickle")], "pickle found"
    again = load(folder, plugins=plugins).predict(rows)
    assert same_predictions(again, predictions), f"{work.task.name}: predictions differ after saving and loading"


def same_predictions(first: Any, second: Any, tolerance: float = 1e-5) -> bool:
    """Whether two predictions are equal: texts and numbers of things exactly, measures within the tolerance (relative
    to the larger of 1 and the largest measure)."""
    import numpy as np

    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(same_predictions(first[k], second[k], tolerance) for k in first)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(same_predictions(a, b, tolerance) for a, b in zip(first, second))
    if isinstance(first, float) or hasattr(first, "__array__") or hasattr(first, "getbands"):
        left, right = np.asarray(first), np.asarray(second)
        if left.shape != right.shape:
            return False
        if not np.issubdtype(left.dtype, np.floating):  # a picture: rounding may turn a grey value by one
            return bool((abs(left.astype(int) - right.astype(int)) <= 1).all())
        return bool(
            np.allclose(left, right, rtol=0, atol=tolerance * max(1.0, np.abs(left).max(initial=0)), equal_nan=True)
        )
    return bool(first == second)


def check_stage(stage: type[Stage]) -> None:
    """A stage's declarations: a name, documented options that can be turned into a schema, known roles."""
    assert stage.name and stage.name.isidentifier(), f"{stage.__name__}: the name {stage.name!r} is no identifier"
    assert (stage.__doc__ or "").strip(), f"stage {stage.name} has no docstring"
    json.dumps(stage.model_json_schema())
    assert stage.model_config.get("extra") == "forbid", f"stage {stage.name} must refuse unknown options"
    if not any(field.is_required() for field in stage.model_fields.values()):
        try:
            roles = stage().reads()
        except ValueError:  # options that depend on each other
            return
        assert set(roles) <= {"train", "calibrate", "evaluate", "predict"}, f"stage {stage.name}: unknown roles {roles}"


def check_base(base: Any, inputs: Mapping[str, Any]) -> None:
    """A base's promises: JSON origin, a backbone that answers Features of the promised widths.

    Args:
        base: a Base.
        inputs: tensors for the backbone's forward.
    """
    import torch

    from topwork.base import Base, Features

    assert isinstance(base, Base), f"{type(base).__name__} lacks something of topwork.Base"
    json.dumps(plain(base.origin))
    module = base.backbone(weights=False).eval()
    with torch.no_grad():
        features = module(**inputs)
    assert isinstance(features, Features), "a backbone answers Features"
    assert module.main_input in inputs, f"main_input {module.main_input!r} is none of the inputs"
    if features.tokens is not None:
        assert features.tokens.ndim == 3 and features.tokens.shape[-1] == module.width, (
            "tokens are [items, positions, width]"
        )
        assert features.mask is None or features.mask.shape == features.tokens.shape[:2], (
            "the mask is [items, positions]"
        )
    assert features.pooled is None or features.pooled.shape[-1] == module.width, "pooled is [items, width]"


def example_batch(task: Task, mode: Any = "loss") -> Batch:
    """The example rows as one batch."""
    return task.collate(task.encode(task.example_rows(), mode, 0), mode)
