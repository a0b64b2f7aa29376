"""How loud is each sentence? A task with several items a row, ragged targets, a loss and a metric of its own."""

from topwork import Batch, Column, DataError, Item, MeanMetric, State, Task, hookimpl


def errors(row, prediction):
    wrong = [abs(truth - found) for truth, found in zip(row["shares"], prediction, strict=True)]
    return {"mae": sum(wrong) / max(1, len(wrong))}


class Shouting(Task):
    """The share of capitals in each sentence; texts are read as bytes. A text without sentences has no items."""

    name = "shouting"
    columns = {"text": Column("sentences, each ended by a full stop"), "shares": Column("one number each", target=True)}

    @classmethod
    def learn(cls, rows, bases, options):
        return State()

    def build(self, weights=True):
        from topwork.task_heads import PooledHead

        return PooledHead(self.base.backbone(weights=weights, vocab_size=257, pad_token_id=256), 1, dropout=0.0)

    def encode(self, rows, mode, seed):
        items = []
        for number, row in enumerate(rows):
            parts = [part.strip().encode() for part in row["text"].split(".") if part.strip()]
            shares = [0.0] * len(parts) if mode == "predict" else row["shares"]
            if len(parts) != len(shares):
                raise DataError(f"{len(parts)} sentences, {len(shares)} shares", row=number, column="shares")
            items += [Item(number, {"ids": p[:60], "share": s}, cost=len(p[:60])) for p, s in zip(parts, shares)]
        return items

    def collate(self, items, mode):
        import torch

        ids = [torch.tensor(list(item.inputs["ids"])) for item in items]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=256)
        targets = {} if mode == "predict" else {"shares": torch.tensor([item.inputs["share"] for item in items])}
        return Batch({"input_ids": padded, "attention_mask": (padded != 256).long(), **targets}, items)

    def loss(self, model, batch):
        inputs = {name: value for name, value in batch.inputs.items() if name != "shares"}
        return (model(**inputs).logits.squeeze(-1).sigmoid() - batch.inputs["shares"]).abs().mean()

    def predict(self, model, batch):
        return [round(share, 6) for share in model(**batch.inputs).logits.squeeze(-1).sigmoid().tolist()]

    merge = staticmethod(lambda row, parts: list(parts))
    metric = staticmethod(lambda: MeanMetric(errors, ("mae",), higher_is_better=False))

    @classmethod
    def example_rows(cls):
        kinds = [("WE WON. so it is.", [1.0, 0.0]), ("no.", [0.0]), ("YES. well. STOP IT.", [1.0, 0.0, 1.0]), ("", [])]
        return [{"text": text, "shares": shares} for text, shares in kinds * 3]


register_tasks = hookimpl(specname="register_tasks")(lambda: [Shouting])
