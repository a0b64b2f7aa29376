"""The check of a task: `check_task` walks it through everything that topwork will ask of it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork.files import plain
from topwork.items import Batch, Item, Picture, Units
from topwork.task import Column, State, Task, TaskOptions
from topwork.testing.parts import check_metric
from topwork.testing.promises import kind_of, not_json, promised, same_items, same_predictions

if TYPE_CHECKING:
    from topwork.plugins.registry import Plugins
    from topwork.runs.task_model import TaskModel


def build_example(
    task: type[Task], base: Any, plugins: Plugins, *, seed: int = 0, options: Mapping[str, Any] | None = None
) -> TaskModel:
    """Return the task on a base (or a dict of bases by role), learned from the task's own example rows."""
    from topwork.runs.build import build_task_model

    several = isinstance(base, Mapping) and task.fits(base)
    named = {"base": None, "bases": base} if several else {"base": base}
    rows = task.example_rows()
    return build_task_model(task.name, plugins=plugins, rows=rows, seed=seed, options=options, **named)


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
        task: the task class.
        base: a name, folder or config that suits the task; a dict of them for tasks with several roles.
        folder: an empty folder for the saved model.
        plugins: what is installed; by default everything, and the task.
        options: those of the task.
        tolerance: between row losses in a batch and one by one, relative to the largest.

    Returns:
        the built TaskModel, for further checks.

    Raises:
        AssertionError: a promise that the task breaks, and what was found instead.

    Example:
        def test_my_task(tmp_path):
            check_task(MyTask, {"config": {"model_type": "bert"}}, tmp_path)
    """
    from topwork.plugins.registry import load_plugins

    _check_declarations(task)
    plugins = plugins or load_plugins(extra=[_Registers(task)])
    _check_learning(task, base, plugins, options)
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
    called = getattr(task, "name", None)
    label = called if isinstance(called, str) else task.__name__
    named = isinstance(called, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", called) is not None
    assert named, f"{task.__name__}: `name` must be a text of letters, digits, - and _, it is {called!r}"
    missing = sorted(getattr(task, "__abstractmethods__", ()))
    assert not missing, f"{label}: it does not write {', '.join(missing)}"
    assert (task.__doc__ or "").strip(), f"{label} has no docstring"
    columns = getattr(task, "columns", None)
    fits = isinstance(columns, Mapping) and all(isinstance(column, Column) for column in columns.values())
    assert fits and columns, f"{label}: `columns` must be a dict of name -> topwork.Column, it is {columns!r}"
    _check_options(task, label)
    with promised(label, "example_rows() gives at least eight rows"):
        rows = task.example_rows()
        assert isinstance(rows, list), f"{label}: example_rows() must give a list of dicts, it gives {kind_of(rows)}"
        assert all(isinstance(row, Mapping) for row in rows), f"{label}: example_rows() must give dicts"
    targets = [name for name, column in task.columns.items() if column.target] or list(task.columns)
    assert len(rows) >= 8, f"{label}: example_rows gives {len(rows)} rows, 8 are wanted"
    distinct = {repr([row.get(name) for name in targets]) for row in rows}
    assert len(distinct) >= 3, f"{label}: example_rows has {len(distinct)} distinct targets, 3 are wanted"
    for name, column in task.columns.items():
        assert column.description, f"{label}: column {name} has no description"
        assert not column.required or all(name in row for row in rows), f"{label}: example rows lack column {name}"


def _check_options(task: type[Task], label: str) -> None:
    options = task.Options
    fits = isinstance(options, type) and issubclass(options, TaskOptions)
    assert fits, f"{label}: `Options` must be a subclass of topwork.TaskOptions, it is {options!r}"
    with promised(label, "options can be described by a JSON schema"):
        json.dumps(options.model_json_schema())


def _check_learning(task: type[Task], base: Any, plugins: Plugins, options: Mapping[str, Any] | None) -> None:
    """Check that `learn` gives a State of JSON, and `build` a module."""
    from torch import nn

    from topwork.data.columns import canonical
    from topwork.recipe.recipe import make_base_options, make_task_options

    name = task.name
    several = isinstance(base, Mapping) and task.fits(base)
    given = base if several else {task.nearest_roles(())[0]: base}
    bases = {role: plugins.load_base(make_base_options(value)) for role, value in given.items()}
    chosen = make_task_options(name, options or {}, plugins)
    rows = canonical(task.example_rows(), task, {}, targets=True, location="rows")
    with promised(name, "learn(rows, bases, options) gives a topwork.State"):
        state = task.learn(rows, bases, chosen)
    assert isinstance(state, State), f"{name}: learn() must give a topwork.State, it gives {kind_of(state)}"
    fault = not_json(state.values, "values")
    assert fault is None, f"{name}: the State's values must be JSON, to be saved with the model: {fault}"
    for kind, processor in state.processors.items():
        saves = isinstance(kind, str) and hasattr(processor, "save_pretrained")
        assert saves, f"{name}: the processor {kind!r} of the State cannot be saved, it has no save_pretrained"
    with promised(name, "Task(bases, options, state) makes a task, and build() its model"):
        model = task(bases, chosen, state).build()
    assert isinstance(model, nn.Module), f"{name}: build() must give a torch module, it gives {kind_of(model)}"


def _encoded(task: Task, rows: Sequence[Any], mode: Any, seed: int) -> list[Item]:
    """Return the items that `encode` makes, checked."""
    hint = " (targets are not there to be read in this mode)" if mode == "predict" else ""
    with promised(task.name, f"encode(rows, mode, seed) gives items in mode {mode!r}{hint}"):
        items = task.encode(rows, mode, seed)
    wrong = None if isinstance(items, list) else f"a {kind_of(items)}"
    wrong = wrong or next((f"a list with a {kind_of(item)}" for item in items if not isinstance(item, Item)), None)
    assert wrong is None, f"{task.name}: encode() must give a list of topwork.Item, it gives {wrong}"
    return items


def _collated(task: Task, items: Sequence[Item], mode: Any) -> Batch:
    """Return the batch that `collate` makes, checked."""
    with promised(task.name, f"collate(items, mode) gives a batch in mode {mode!r}"):
        batch = task.collate(items, mode)
    assert isinstance(batch, Batch), f"{task.name}: collate() must give a topwork.Batch, it gives {kind_of(batch)}"
    return batch


def _without_targets(task: Task, rows: Sequence[Any]) -> list[Any]:
    """Return the rows as a prediction gets them."""
    known = [row for row in rows if set(row) <= set(task.columns)]
    return [{name: row[name] for name in row if not task.columns[name].target} for row in known]


def _check_encoding(task: Task, rows: Sequence[Any]) -> None:
    for mode in ("train", "loss", "predict"):
        once, again = _encoded(task, rows, mode, 3), _encoded(task, rows, mode, 3)
        assert same_items(once, again), f"{task.name}: encode(mode={mode!r}) differs between two calls with one seed"
        assert all(0 <= item.row < len(rows) and item.cost >= 0 for item in once), f"{task.name}: bad row or cost"
    _encoded(task, _without_targets(task, rows), "predict", 0)
    first, second = _encoded(task, rows, "train", 1), _encoded(task, rows, "train", 2)
    assert [item.cost for item in first] == [item.cost for item in second], f"{task.name}: costs depend on the seed"
    if task.repeatable:
        assert same_items(first, second), f"{task.name}: items depend on the seed, but `repeatable` is True"
    with promised(task.name, "costs(rows) gives a list for each row, or None"):
        costs = task.costs(rows)
        if costs is not None:
            row_costs = [cost for row in costs for cost in row]
            assert row_costs == [item.cost for item in first], f"{task.name}: costs() differs from the items' own costs"
    assert _encoded(task, [], "predict", 0) == [], f"{task.name}: no rows must give no items"
    for item in _encoded(task, rows[:1], "predict", 0)[:1]:
        with promised(task.name, "units(item) gives Units"):
            units = task.units(item)
        assert isinstance(units, Units), f"{task.name}: units() must give topwork.Units, it gives {kind_of(units)}"


def _loss(task: Task, model: Any, batch: Batch) -> Any:
    """Return the loss, checked to be a finite scalar."""
    import torch

    with promised(task.name, "loss(model, batch) gives a scalar"):
        loss = task.loss(model, batch)
    assert isinstance(loss, torch.Tensor), f"{task.name}: loss() must give a tensor, it gives {kind_of(loss)}"
    finite = loss.ndim == 0 and bool(torch.isfinite(loss))
    assert finite, f"{task.name}: the loss must be a finite scalar, it is {loss}"
    return loss


def _check_losses(work: TaskModel, rows: Sequence[Any], tolerance: float) -> None:
    import torch

    task, model = work.task, copy.deepcopy(work.model)
    model.train()
    items = _encoded(task, rows, "train", 0)
    loss = _loss(task, model, _collated(task, items, "train"))
    alone = "training puts items into batches one by one, whatever their row: what must stay together is one item"
    for chosen in (items[:0:-1], _encoded(task, rows[:1], "train", 0)[:1]):
        if chosen:
            with promised(task.name, alone):
                part = task.loss(model, task.collate(chosen, "train"))
                finite = part.ndim == 0 and bool(torch.isfinite(part))
                assert finite, f"{task.name}: {alone}; the loss of some of the items is {part}"
    assert loss.requires_grad, f"{task.name}: the loss must depend on the parameters, it is detached from them"
    with promised(task.name, "the loss has gradients"):
        loss.backward()
    trained = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert trained, f"{task.name}: no parameter got a gradient"
    model.eval()
    batch = _collated(task, _encoded(task, rows, "loss", 0), "loss")
    _check_terms(task, model, batch)
    with torch.no_grad(), promised(task.name, "row_losses(model, batch) gives [rows]"):
        together, single = task.row_losses(model, batch), Task.row_losses(task, model, batch)
    shape = tuple(getattr(together, "shape", ())) if isinstance(together, torch.Tensor) else kind_of(together)
    assert shape == (batch.row_count,), f"{task.name}: row_losses must be [rows], it is {shape}"
    difference = float((together - single).abs().max() / single.abs().max().clamp_min(1e-12))
    assert difference <= tolerance, f"{task.name}: row_losses differ from the rows alone by {difference:.2g}"


def _check_terms(task: Task, model: Any, batch: Batch) -> None:
    """Check that `loss_terms` add up to `loss`, and that `target_counts` has a number for each."""
    import torch

    with torch.no_grad(), promised(task.name, "loss_terms(model, batch) gives the summands of the loss"):
        torch.manual_seed(0)
        terms = task.loss_terms(model, batch)
        torch.manual_seed(0)
        total, loss = float(sum(terms)), float(task.loss(model, batch))
    counts = task.target_counts(batch)
    assert len(terms) == len(counts), f"{task.name}: {len(terms)} loss_terms and {len(counts)} target_counts"
    close = abs(total - loss) <= 1e-3 * max(1.0, abs(loss))
    assert close, f"{task.name}: loss_terms add up to {total:.6g}, the loss is {loss:.6g}"


def _check_predictions(work: TaskModel, rows: Sequence[Any], folder: Path) -> list[Any]:
    task = work.task
    unseen = _without_targets(task, rows)
    _check_parts(work, unseen or rows)
    with promised(task.name, "rows without their targets are predicted"):
        predictions = work.predict(unseen or rows)
    assert len(predictions) == len(rows), f"{task.name}: {len(predictions)} predictions for {len(rows)} rows"
    unmoved = not unseen or same_predictions(list(work.predict(rows)), list(predictions), 1e-4)
    assert unmoved, f"{task.name}: predictions are others when the rows have their targets"
    files = folder / "files"
    files.mkdir(parents=True, exist_ok=True)
    for index, (row, prediction) in enumerate(zip(rows, predictions)):
        with promised(task.name, "write(prediction, folder, name) gives JSON"):
            json.dumps(plain(task.write(prediction, files, f"{index:04d}")), allow_nan=False)
        with promised(task.name, "draw(row, prediction) gives a Picture"):
            picture = task.draw(row, prediction)
        drawn = isinstance(picture, Picture) and isinstance(picture.caption, str) and picture.caption
        assert drawn, f"{task.name}: draw() must give a topwork.Picture with a caption, it gives {picture!r}"
    return predictions


def _check_parts(work: TaskModel, rows: Sequence[Any]) -> None:
    """Check that `predict` gives one part an item, without tensors: they would hold memory until the row is merged."""
    import torch

    task, model = work.task, work.model.eval()
    items = _encoded(task, rows, "predict", 0)
    batch = _collated(task, items, "predict")
    with torch.inference_mode(), promised(task.name, "predict(model, batch) gives one part an item"):
        parts = task.predict(model, batch)
    assert isinstance(parts, list), f"{task.name}: predict() must give a list of parts, it gives {kind_of(parts)}"
    assert len(parts) == len(items), f"{task.name}: predict() gives {len(parts)} parts for {len(items)} items"
    for part in parts:
        held = isinstance(part, torch.Tensor) and (part.device.type != "cpu" or part.requires_grad)
        assert not held, f"{task.name}: parts must lie on the CPU without gradients"
    bare = bool(parts) and all(isinstance(part, torch.Tensor) for part in parts) and type(task).merge is Task.merge
    assert not bare, f"{task.name}: predict() gives tensors as predictions; give JSON, or make them in merge()"


def _check_folder(work: TaskModel, rows: Sequence[Any], predictions: list[Any], folder: Path, plugins: Plugins) -> None:
    from topwork.runs.task_model import TaskModel
    from topwork.saving.loading import load_folder

    with promised(work.task.name, "the model is saved, and loads again"):
        work.save(folder)
        pickles = [file for file in folder.rglob("*") if file.suffix in (".bin", ".pt", ".pkl", ".pickle")]
        assert not pickles, f"{work.task.name}: the folder holds pickles: {pickles[0].name if pickles else ''}"
        again = TaskModel.of(load_folder(folder, plugins)).predict(rows)
    assert same_predictions(again, predictions), f"{work.task.name}: predictions differ after saving and loading"


def example_batch(task: Task, mode: Any = "loss") -> Batch:
    """Return the example rows as one batch."""
    return task.collate(task.encode(task.example_rows(), mode, 0), mode)
