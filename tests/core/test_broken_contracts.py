"""`check_task`, `check_metric` and `check_stage` name each broken promise, and what was found instead."""

from __future__ import annotations

from typing import Any, ClassVar

import engine_plugin
import pytest
import torch
from pydantic import Field

import conftest
from topwork import Column, MeanMetric, Metric, Stage, State
from topwork.testing import check_stage, check_task

BASE = {"config": conftest.TINY_BERT}
Points: Any = engine_plugin.Points


class NoResult(Metric):
    keys = ("accuracy",)
    primary = "accuracy"

    def update(self, row, prediction):
        pass

    def merge(self, other):
        pass

    def result(self):
        return {}


def learn_set(cls, rows, bases, options):
    return State({"classes": [0, 1, 2], "seen": {1, 2}})


def learn_nan(cls, rows, bases, options):
    return State({"classes": [0, 1, 2], "mean": float("nan")})


def learn_keys(cls, rows, bases, options):
    return State({"classes": [0, 1, 2], "names": {1: "one"}})


def read_target(self, rows, mode, seed):
    return [
        engine_plugin.Item(place, {"x": list(row["x"]), "y": row["y"]}, extra=row["y"])
        for place, row in enumerate(rows)
    ]


def encode_dicts(self, rows, mode, seed):
    return [{"x": row["x"]} for row in rows]


def encode_other_signature(self, rows):
    return []


def encode_by_seed(self, rows, mode, seed):
    items = Points.encode(self, rows, mode, seed)
    for item in items:
        item.inputs["x"] = [value + seed for value in item.inputs["x"]]
    return items


def encode_cost_by_seed(self, rows, mode, seed):
    return [
        engine_plugin.Item(item.row, item.inputs, seed + 1, item.extra)
        for item in Points.encode(self, rows, mode, seed)
    ]


def detached(self, model, batch):
    return Points.loss(self, model, batch).detach()


def by_item(self, model, batch):
    return torch.nn.functional.cross_entropy(model(**batch.inputs).logits, batch.inputs["y"], reduction="none")


def two_terms(self, model, batch):
    return (self.loss(model, batch), self.loss(model, batch))


#: name -> (attributes of the task, what the error says)
BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no name": ({"name": None}, "`name` must be a text"),
    "a name with a space": ({"name": "my task"}, "`name` must be a text .* it is 'my task'"),
    "no docstring": ({"__doc__": ""}, "has no docstring"),
    "columns a list": (
        {"columns": ["x", "y"]},
        r"`columns` must be a dict of name -> topwork.Column, it is \['x', 'y'\]",
    ),
    "columns of texts": ({"columns": {"x": "coordinates"}}, "`columns` must be a dict of name -> topwork.Column"),
    "a column without a description": ({"columns": {**Points.columns, "x": Column("")}}, "column x has no description"),
    "options no TaskOptions": ({"Options": dict}, "`Options` must be a subclass of topwork.TaskOptions"),
    "example rows a dict": ({"example_rows": classmethod(lambda cls: {"x": 1})}, r"example_rows\(\) must give a list"),
    "example rows raise": ({"example_rows": classmethod(lambda cls: [][0])}, r"example_rows.*raised IndexError"),
    "few example rows": (
        {"example_rows": classmethod(lambda cls: engine_plugin.point_rows(5))},
        "5 rows, 8 are wanted",
    ),
    "learn gives a dict": (
        {"learn": classmethod(lambda cls, rows, bases, options: {})},
        r"learn\(\) must give a topwork.State, it gives dict",
    ),
    "learn raises": (
        {"learn": classmethod(lambda cls, rows, bases, options: 1 / 0)},
        "gives a topwork.State; it raised ZeroDivisionError",
    ),
    "a set in the state": ({"learn": classmethod(learn_set)}, "values must be JSON, .*: values.seen is a set"),
    "NaN in the state": ({"learn": classmethod(learn_nan)}, "values.mean is nan"),
    "numbers for keys in the state": ({"learn": classmethod(learn_keys)}, "values.names has the key 1"),
    "build gives None": (
        {"build": lambda self, weights=True: None},
        r"build\(\) must give a torch module, it gives NoneType",
    ),
    "encode gives dicts": (
        {"encode": encode_dicts},
        r"encode\(\) must give a list of topwork.Item, it gives a list with a dict",
    ),
    "encode gives None": ({"encode": lambda self, rows, mode, seed: None}, "list of topwork.Item, it gives a NoneType"),
    "another signature": ({"encode": encode_other_signature}, "raised TypeError"),
    "a target read in mode predict": (
        {"encode": read_target},
        r"mode 'predict' \(targets are not there.*raised KeyError: 'y'",
    ),
    "items depend on the seed": ({"encode": encode_by_seed}, "items depend on the seed, but `repeatable` is True"),
    "costs depend on the seed": ({"encode": encode_cost_by_seed}, "costs depend on the seed"),
    "costs differ": ({"costs": lambda self, rows: [[99] for _ in rows]}, r"costs\(\) differs from the items' own"),
    "collate gives a dict": (
        {"collate": lambda self, items, mode: {"x": 1}},
        r"collate\(\) must give a topwork.Batch, it gives dict",
    ),
    "units None": ({"units": lambda self, item: None}, r"units\(\) must give topwork.Units, it gives NoneType"),
    "a detached loss": ({"loss": detached}, "the loss must depend on the parameters, it is detached"),
    "a loss by item": ({"loss": by_item}, "the loss must be a finite scalar"),
    "a loss that is a number": (
        {"loss": lambda self, model, batch: 1.0},
        r"loss\(\) must give a tensor, it gives float",
    ),
    "row losses of another shape": (
        {"row_losses": lambda self, model, batch: torch.zeros(1)},
        r"row_losses must be \[rows\], it is \(1,\)",
    ),
    "row losses that err": (
        {"row_losses": lambda self, model, batch: torch.ones(batch.row_count)},
        "row_losses differ from the rows alone",
    ),
    "terms that are no summands": (
        {"loss_terms": two_terms, "target_counts": lambda self, batch: (1, 1)},
        "loss_terms add up to",
    ),
    "counts that are too few": ({"target_counts": lambda self, batch: ()}, "1 loss_terms and 0 target_counts"),
    "predict gives tensors": (
        {"predict": lambda self, model, batch: list(model(**batch.inputs).logits)},
        r"predict\(\) gives tensors",
    ),
    "predict gives one tensor": (
        {"predict": lambda self, model, batch: model(**batch.inputs).logits},
        r"predict\(\) must give a list of parts, it gives Tensor",
    ),
    "predict gives too few": ({"predict": lambda self, model, batch: []}, r"predict\(\) gives 0 parts for 12 items"),
    "write gives no JSON": (
        {"write": lambda self, prediction, folder, name: object()},
        "write.*gives JSON; it raised TypeError",
    ),
    "draw gives a text": ({"draw": lambda self, row, prediction: "a picture"}, r"draw\(\) must give a topwork.Picture"),
    "metric None": ({"metric": lambda self: None}, r"metric\(\) must give a topwork.Metric, it gives None"),
    "a metric without its keys": ({"metric": lambda self: NoResult()}, "the metric promised .* and gave"),
    "a metric that cannot be sent": (
        {"metric": lambda self: MeanMetric(lambda row, prediction: {"a": 1.0}, ("a",))},
        "sent to another process",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_contract_is_named(case, tmp_path):
    attributes, text = BROKEN[case]
    task = type("Broken", (Points,), {"__doc__": "Broken on purpose.", "name": "broken", **attributes})
    with pytest.raises(AssertionError, match=text):
        check_task(task, BASE, tmp_path)


def test_methods_that_are_absent_are_named(tmp_path):
    from topwork import Task

    class Empty(Task):
        """Nothing."""

        name: ClassVar[str] = "empty"

    with pytest.raises(AssertionError, match=r"empty: it does not write build, collate, encode, .*metric, predict"):
        check_task(Empty, BASE, tmp_path)


def test_an_unbroken_task_passes(tmp_path):
    assert check_task(Points, BASE, tmp_path).task.name == "points"


class Undescribed(Stage):
    """An option that says nothing."""

    name: ClassVar[str] = "undescribed"
    number: int = 1

    def __call__(self, run):
        return {}


def test_an_option_without_a_description_is_named():
    with pytest.raises(AssertionError, match="stage undescribed: the option `number` has no description"):
        check_stage(Undescribed)


class Fine(Stage):
    """Fine."""

    name: ClassVar[str] = "fine"
    number: int = Field(1, description="a number")

    def __call__(self, run):
        return {}


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ({"name": "a stage"}, "no identifier"),
        ({"name": None}, "no identifier"),
        ({"__doc__": ""}, "no docstring"),
        ({"reads": lambda self: ("training",)}, "unknown roles"),
    ],
)
def test_a_broken_stage_is_named(attributes, text):
    check_stage(Fine)
    broken = type("BrokenStage", (Fine,), {"__doc__": "Broken.", "__module__": __name__, **attributes})
    with pytest.raises(AssertionError, match=text):
        check_stage(broken)
