"""Loudness of sentences: a task with several items a row, ragged targets, a loss and a metric of its own."""

import topwork
from topwork import Batch, Column, DataError, Item, MeanMetric, State


def sentences(text):
    """Split a text at full stops."""
    return [part.strip() for part in text.split(".") if part.strip()]


def mean_error(row, prediction):
    """Return the mean absolute error of one row."""
    errors = [abs(share - predicted) for share, predicted in zip(row["shares"], prediction, strict=True)]
    return {"mae": sum(errors) / max(1, len(errors))}


class Shouting(topwork.Task):
    """Estimate the share of capitals in each sentence of a text, which is read as bytes."""

    name = "shouting"
    columns = {
        "text": Column("sentences, each ended by a full stop"),
        "shares": Column("one number for each sentence", target=True),
    }

    @classmethod
    def learn(cls, rows, bases, options):
        return State()  # no label names, no vocabulary: nothing to learn from the rows

    def build(self, weights=True):
        from topwork.task_heads import PooledHead  # needs torch, so it is imported only when a model is built

        return PooledHead(self.base.backbone(weights=weights, vocab_size=257, pad_token_id=256), 1, dropout=0.0)

    def encode(self, rows, mode, seed):
        items = []
        for index, row in enumerate(rows):
            texts = sentences(row["text"])
            shares = [0.0] * len(texts) if mode == "predict" else row["shares"]
            if len(texts) != len(shares):
                raise DataError(f"{len(texts)} sentences, {len(shares)} shares", row=index, column="shares")
            for text, share in zip(texts, shares):
                token_ids = list(text.encode()[:60])
                items.append(Item(index, {"ids": token_ids, "share": share}, cost=len(token_ids)))
        return items

    def collate(self, items, mode):
        import torch

        token_ids = [torch.tensor(item.inputs["ids"]) for item in items]
        padded = torch.nn.utils.rnn.pad_sequence(token_ids, batch_first=True, padding_value=256)
        inputs = {"input_ids": padded, "attention_mask": (padded != 256).long()}
        if mode != "predict":
            inputs["shares"] = torch.tensor([item.inputs["share"] for item in items])
        return Batch(inputs, items)

    def loss(self, model, batch):
        inputs = {name: tensor for name, tensor in batch.inputs.items() if name != "shares"}
        return (model(**inputs).logits.squeeze(-1).sigmoid() - batch.inputs["shares"]).abs().mean()

    def predict(self, model, batch):
        return model(**batch.inputs).logits.squeeze(-1).sigmoid().tolist()

    def merge(self, row, parts):
        return [round(share, 6) for share in parts]

    def metric(self):
        return MeanMetric(mean_error, ("mae",), higher_is_better=False)

    @classmethod
    def example_rows(cls):
        rows = [
            {"text": "WE WON. so it is.", "shares": [1.0, 0.0]},
            {"text": "YES. well. STOP IT.", "shares": [1.0, 0.0, 1.0]},
            {"text": "no.", "shares": [0.0]},
            {"text": "", "shares": []},
        ]
        return rows * 3


@topwork.hookimpl
def register_tasks():
    return [Shouting]
