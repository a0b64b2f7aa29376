"""Tasks and stages that exercise the engine: nothing in them looks like classification of one input per row.

`windows` has none, one or several items a row, ragged targets, a loss of its own on a model that computes none, and
predicts by `generate`. `points` has a network of its own, small enough to train in milliseconds. `couple` has two
bases. torch is imported inside, so that the file can be a local plugin of the command line.
"""

from __future__ import annotations

from typing import ClassVar

from topwork import Batch, Column, DataError, Item, MeanMetric, Stage, State, Task, TaskOptions, hookimpl


def measure_windows(row, prediction):
    return {"count": float(len(prediction)), "total": float(sum(sum(part) for part in prediction) + len(row["target"]))}


class Windows(Task):
    """Goes on with several windows of numbers a row."""

    name: ClassVar[str] = "windows"
    columns: ClassVar = {
        "windows": Column("lists of numbers"),
        "target": Column("any number of numbers", target=True),
    }

    class Options(TaskOptions):
        new: int = 2

    @classmethod
    def learn(cls, rows, bases, options):
        return State({"longest": 64})

    def build(self, weights=True):
        return self.base.native("AutoModelForCausalLM", weights=weights)

    def encode(self, rows, mode, seed):
        items = []
        for place, row in enumerate(rows):
            if row["windows"] is None:
                raise DataError("there are no windows", row=place, column="windows", hint="give a list")
            target = None if mode == "predict" else list(row["target"])
            items += [Item(place, {"ids": list(ids)}, cost=len(ids), extra=target) for ids in row["windows"]]
        return items

    def collate(self, items, mode):
        import torch

        longest = max(len(item.inputs["ids"]) for item in items)
        ids = torch.zeros(len(items), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for line, item in enumerate(items):
            ids[line, longest - len(item.inputs["ids"]) :] = torch.tensor(item.inputs["ids"])
            mask[line, longest - len(item.inputs["ids"]) :] = 1
        return Batch({"input_ids": ids, "attention_mask": mask}, items)

    def item_losses(self, model, batch):
        import torch

        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        places = (mask.cumsum(1) - 1).clamp(min=0)
        logits = model(**batch.inputs, position_ids=places).logits[:, :-1]
        scores = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        known = mask[:, :-1] * mask[:, 1:]
        weight = torch.tensor([1.0 + 0.1 * len(item.extra) for item in batch.items], device=ids.device)
        return weight * (scores * known).sum(1) / known.sum(1).clamp(min=1)

    def loss(self, model, batch):
        return self.item_losses(model, batch).mean()

    def predict(self, model, batch):
        new = self.options.new
        out = model.generate(**batch.inputs, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0)
        return [line[-new:].tolist() for line in out.cpu()]

    def merge(self, row, parts):
        return list(parts)

    def metric(self):
        return MeanMetric(measure_windows, ("total", "count"))

    @classmethod
    def example_rows(cls):
        return window_rows(9)


class TogetherWindows(Windows):
    """The same with row losses from one forward."""

    name: ClassVar[str] = "together-windows"

    def row_losses(self, model, batch):
        return batch.mean_by_row(self.item_losses(model, batch))


def window_rows(number, seed=0):
    """Rows with 0, 1, 2 or 3 windows of 2 to 9 numbers, and 0 to 4 targets."""
    import numpy as np

    random = np.random.default_rng(seed)
    rows = []
    for place in range(number):
        lengths = random.integers(2, 10, size=place % 4)
        windows = [random.integers(2, 40, size=length).tolist() for length in lengths]
        rows.append({"windows": windows, "target": random.integers(0, 9, size=place % 5).tolist()})
    return rows


def measure_points(row, prediction):
    return {"accuracy": float(prediction["label"] == row["y"]), "score": prediction["score"]}


class Points(Task):
    """Points into classes."""

    name: ClassVar[str] = "points"
    columns: ClassVar = {
        "x": Column("coordinates"),
        "y": Column("class", target=True),
        "cost": Column("what the item costs", required=False),
    }

    class Options(TaskOptions):
        dropout: float = 0.0
        norm: bool = False
        scaled: bool = True
        augment: bool = False
        draws: bool = False
        sink: str | None = None
        pause: float = 0.0

    @classmethod
    def learn(cls, rows, bases, options):
        return State({"classes": sorted({row["y"] for row in rows})})

    def __init__(self, bases, options, state):
        super().__init__(bases, options, state)
        self.repeatable = not options.augment
        self.seen = []

    def build(self, weights=True):
        from engine_network import PointNetwork

        return PointNetwork(self.base.config, len(self.state.values["classes"]), self.options)

    def encode(self, rows, mode, seed):
        import numpy as np

        random = np.random.default_rng(seed)
        items = []
        for place, row in enumerate(rows):
            if row["x"] is None:
                raise DataError("no coordinates", row=place, column="x")
            x = list(row["x"])
            if mode == "train" and self.options.augment:
                x = (np.array(x) + random.normal(size=len(x)) * 0.1).tolist()
            items.append(Item(place, {"x": x, "y": row.get("y")}, cost=row.get("cost") or 1, extra=row.get("y")))
        return items

    def collate(self, items, mode):
        import torch

        inputs = {"x": torch.tensor([item.inputs["x"] for item in items], dtype=torch.float32)}
        if mode != "predict":
            inputs["y"] = torch.tensor([item.extra for item in items])
        return Batch(inputs, items)

    def loss(self, model, batch):
        import os
        import time

        import torch

        self.seen.append([tuple(item.inputs["x"]) for item in batch.items])
        if self.options.sink:
            with open(f"{self.options.sink}.{os.getpid()}", "a") as out:
                out.writelines(f"{item.inputs['x'][0]}\n" for item in batch.items)
        if self.options.pause:
            time.sleep(self.options.pause)
        return torch.nn.functional.cross_entropy(model(**batch.inputs).logits.float(), batch.inputs["y"])

    def predict(self, model, batch):
        import torch

        logits = model(**batch.inputs).logits.float().cpu()
        noise = torch.rand(len(logits)) if self.options.draws else torch.zeros(len(logits))
        scores = logits.softmax(-1).max(-1)
        return [
            {"label": int(label), "score": float(score) + 0 * float(extra)}
            for label, score, extra in zip(scores.indices, scores.values, noise)
        ]

    def metric(self):
        return MeanMetric(measure_points, ("accuracy", "score"))

    @classmethod
    def example_rows(cls):
        return point_rows(12)


def point_rows(number, seed=0):
    """Three blobs; `cost` from 1 to 9."""
    import numpy as np

    random = np.random.default_rng(seed)
    rows = []
    for _ in range(number):
        y = int(random.integers(3))
        x = random.normal(size=4) * 0.5
        x[y] += 2
        rows.append({"x": x.round(6).tolist(), "y": y, "cost": int(random.integers(1, 10))})
    return rows


class Couple(Points):
    """Points, seen by two bases."""

    name: ClassVar[str] = "couple"
    roles: ClassVar = ("left", "right")

    def build(self, weights=True):
        from engine_network import CoupleNetwork

        backbones = [self.bases[role].backbone(weights=weights) for role in self.roles]
        return CoupleNetwork(*backbones, len(self.state.values["classes"]))


class Break(Stage):
    """Fails when told to."""

    name: ClassVar[str] = "break"

    kind: str = "topwork"
    unless: str | None = None

    def __call__(self, run):
        import pathlib

        from topwork import TopworkError

        if self.unless and pathlib.Path(self.unless).exists():
            return {"broke": False}
        if self.kind == "data":
            raise DataError("bad row", row=7, column="x")
        if self.kind == "topwork":
            raise TopworkError("broken", place="here", hint="mend it")
        raise RuntimeError("boom")


class Draw(Stage):
    """Draws random numbers from every source, and tells its seed."""

    name: ClassVar[str] = "draw"

    def __call__(self, run):
        import random

        import numpy as np
        import torch

        return {"seed": run.seed, "drawn": [random.random(), float(np.random.rand()), float(torch.rand(()))]}


class Agree(Stage):
    """Whether the model is the same on every process."""

    name: ClassVar[str] = "agree"

    def __call__(self, run):
        weights = [tensor.double().sum().item() for tensor in run.model.state_dict().values()]
        gathered = run.process.gather(weights)
        return {"processes": len(gathered), "agree": all(other == gathered[0] for other in gathered)}


@hookimpl
def register_tasks():
    return [Windows, TogetherWindows, Points, Couple]


@hookimpl
def register_stages():
    return [Break, Draw, Agree]
