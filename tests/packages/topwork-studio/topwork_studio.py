"""Three tasks that classify nothing: points in pictures, texts that belong together, and what a series does next; and
a stage whose result the page draws."""

from __future__ import annotations

import io
import math
from typing import ClassVar

from topwork import (
    Batch,
    Column,
    DataError,
    Item,
    MeanMetric,
    Metric,
    Picture,
    Stage,
    State,
    Task,
    TaskOptions,
    Units,
    hookimpl,
)


def opened(image, number=None):
    """A picture as rows hold it: a PIL picture, or what a data set has not decoded."""
    from PIL import Image

    try:
        if isinstance(image, dict):
            image = Image.open(io.BytesIO(image["bytes"]) if image["bytes"] else image["path"])
        return image.convert("RGB")
    except OSError as error:
        raise DataError(f"cannot be read: {error}", row=number, column="image") from error


def distance(row, prediction):
    pairs = zip(row["points"], prediction["points"], strict=True)
    far = [math.dist(truth, found) for truth, found in pairs]
    return {"pixels": sum(far) / len(far)}


class Keypoints(Task):
    """Where certain points of a picture are, in pixels of the picture."""

    name = "keypoints"
    columns = {"image": Column("the picture", lazy=True), "points": Column("[x, y] of each point", target=True)}
    cost_unit = "pixels"
    single_row_losses = False

    class Options(TaskOptions):
        size: int = 16

    @classmethod
    def learn(cls, rows, bases, options):
        return State({"points": len(rows[0]["points"])})

    def build(self, weights=True):
        from topwork.task_heads import PooledHead

        return PooledHead(self.base.backbone(weights=weights), 2 * self.state.values["points"], dropout=0.0)

    def encode(self, rows, mode, seed):
        import numpy as np

        items, size = [], self.options.size
        for number, row in enumerate(rows):
            image = opened(row["image"], number)
            pixels = np.asarray(image.resize((size, size)), np.float32).transpose(2, 0, 1) / 127.5 - 1
            targets = {} if mode == "predict" else {"points": row["points"]}
            items.append(Item(number, {"pixels": pixels, **targets}, cost=size * size, extra=image.size))
        return items

    def collate(self, items, mode):
        import numpy as np
        import torch

        sizes = torch.tensor([item.extra for item in items])[:, None]
        inputs = {"pixel_values": torch.tensor(np.stack([item.inputs["pixels"] for item in items])), "sizes": sizes}
        if mode != "predict":
            inputs["targets"] = torch.tensor([item.inputs["points"] for item in items]) / sizes
        return Batch(inputs, items)

    def found(self, model, batch):
        return model(pixel_values=batch.inputs["pixel_values"]).logits.unflatten(-1, (-1, 2)).sigmoid()

    def row_losses(self, model, batch):
        return batch.mean_by_row((self.found(model, batch) - batch.inputs["targets"]).abs().mean((1, 2)))

    def loss(self, model, batch):
        return (self.found(model, batch) - batch.inputs["targets"]).abs().mean()

    def predict(self, model, batch):
        points = self.found(model, batch) * batch.inputs["sizes"]
        return [{"points": entry} for entry in points.cpu().tolist()]

    metric = staticmethod(lambda: MeanMetric(distance, ("pixels",), higher_is_better=False))

    def units(self, item):
        return Units("patch", special=(0,), grid=(self.options.size // 4,) * 2)

    def draw(self, row, prediction):
        return Picture("<script>alert(1)</script>", distance(row, prediction)["pixels"], opened(row["image"]))

    @classmethod
    def example_rows(cls):
        from PIL import Image

        rows = []
        for number in range(9):
            image = Image.new("RGB", (40, 24))
            place = 4 * number + 2, 2 * number + 3
            image.paste((255, 255, 255), (place[0] - 2, place[1] - 2, place[0] + 2, place[1] + 2))
            rows.append({"image": image, "points": [list(map(float, place)), [20.0, 12.0]]})
        return rows


class Recall(Metric):
    """The share of texts whose nearest text of the other side is their own."""

    keys = ("recall",)
    primary = "recall"

    def __init__(self):
        self.pairs = []

    def update(self, row, prediction):
        self.pairs.append(prediction)

    def merge(self, other):
        self.pairs += other.pairs

    def result(self):
        import numpy as np

        if not self.pairs:
            return {"recall": math.nan}
        left, right = (np.array([pair[side] for pair in self.pairs]) for side in (0, 1))
        return {"recall": float(((left @ right.T).argmax(1) == np.arange(len(left))).mean())}


class Pairs(Task):
    """Vectors of texts: those that belong together come to lie together, against all others of the batch."""

    name = "text-pairs"
    columns = {"text": Column("a text"), "other": Column("what belongs to it")}

    @classmethod
    def learn(cls, rows, bases, options):
        return State()

    def build(self, weights=True):
        from topwork.task_heads import PooledHead

        return PooledHead(self.base.backbone(weights=weights, vocab_size=257, pad_token_id=256), 8, dropout=0.0)

    def encode(self, rows, mode, seed):
        sides = [[list(row[name].encode()[:60]) for name in ("text", "other")] for row in rows]
        return [Item(number, {"sides": both}, cost=max(map(len, both))) for number, both in enumerate(sides)]

    def collate(self, items, mode):
        import torch

        texts = [torch.tensor(item.inputs["sides"][side]) for side in (0, 1) for item in items]
        ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=256)
        return Batch({"ids": ids, "among": mode == "train"}, items)

    def sides(self, model, batch):
        import torch

        ids = batch.inputs["ids"]
        vectors = model(input_ids=ids, attention_mask=(ids != 256).long()).logits
        return torch.nn.functional.normalize(vectors, dim=-1).chunk(2)

    def loss(self, model, batch):
        import torch

        left, right = self.sides(model, batch)
        if not batch.inputs["among"]:  # what one row can tell, without the others
            return (1 - (left * right).sum(-1)).mean()
        return torch.nn.functional.cross_entropy(left @ right.T / 0.1, torch.arange(len(left), device=left.device))

    def predict(self, model, batch):
        return [list(pair) for pair in zip(*(side.cpu().tolist() for side in self.sides(model, batch)), strict=True)]

    metric = staticmethod(Recall)

    @classmethod
    def example_rows(cls):
        words = ["red", "green", "blue", "sun", "moon", "rain", "snow", "wind", "tree"]
        return [{"text": word * 2, "other": word.upper()} for word in words]


def error(row, prediction):
    apart = [abs(truth - found) for truth, found in zip(row["future"], prediction, strict=True)]
    return {"mae": sum(apart) / len(apart)}


class Forecast(Task):
    """The next values of a series."""

    name = "forecast"
    columns = {"past": Column("numbers, oldest first"), "future": Column("the next ones", target=True)}
    cost_unit = "steps"

    @classmethod
    def learn(cls, rows, bases, options):
        return State({"ahead": len(rows[0]["future"])})

    def build(self, weights=True):
        from topwork.task_heads import PooledHead

        return PooledHead(self.base.backbone(weights=weights), self.state.values["ahead"], dropout=0.0)

    def encode(self, rows, mode, seed):
        length, items = self.base.config.context_length, []
        for number, row in enumerate(rows):
            if len(row["past"]) < length:
                raise DataError(f"{len(row['past'])} values, {length} are needed", row=number, column="past")
            targets = {} if mode == "predict" else {"future": row["future"]}
            items.append(Item(number, {"past": row["past"][-length:], **targets}, cost=length))
        return items

    def collate(self, items, mode):
        import torch

        table = {name: torch.tensor([item.inputs[name] for item in items]) for name in items[0].inputs}
        return Batch({"past_values": table.pop("past").unsqueeze(-1), **table}, items)

    def loss(self, model, batch):
        return (model(past_values=batch.inputs["past_values"]).logits - batch.inputs["future"]).square().mean()

    def predict(self, model, batch):
        return model(**batch.inputs).logits.cpu().tolist()

    metric = staticmethod(lambda: MeanMetric(error, ("mae",), higher_is_better=False))

    @classmethod
    def example_rows(cls):
        series = [[math.sin(0.3 * step + shift) for step in range(36)] for shift in range(9)]
        return [{"past": one[:32], "future": one[32:]} for one in series]


class Drift(Stage):
    """How the metric goes with the number of rows."""

    name: ClassVar[str] = "weight_drift"

    def reads(self):
        return ("evaluate",)

    def __call__(self, run):
        primary = run.task.metric().primary
        points = [[rows, run.evaluate("evaluate", limit=rows)[primary]] for rows in (2, 4, 8)]
        chart = {"title": "By <b>rows</b>", "x": "rows", "series": {primary: points}}
        return {"last": points[-1][1], "curves": [chart], "note": "<img src=x onerror=alert(1)>"}


@hookimpl
def register_tasks():
    return [Keypoints, Pairs, Forecast]


@hookimpl
def register_stages():
    return [Drift]
