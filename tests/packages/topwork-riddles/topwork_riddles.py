"""Riddles: a multiple-choice task, a linear-probe stage, a tracker and a source of rows, in one local file.

topwork run recipe.yaml --plugin topwork_riddles.py
"""

import topwork
from topwork import Batch, Column, DataError, Item, MeanMetric, State, hookimpl

PAD, START, MIDDLE = 256, 257, 258


def correct(row, prediction):
    return {"accuracy": float(prediction["choice"] == row["answer"])}


class MultipleChoice(topwork.Task):
    """Choose the answer to a question; texts are read as bytes."""

    name = "multiple-choice"
    cost_unit = "tokens"
    columns = {
        "question": Column("a text"),
        "choices": Column("a list of texts"),
        "answer": Column("index of the right choice", target=True),
    }

    @classmethod
    def learn(cls, rows, bases, options):
        return State()

    def build(self, weights=True):
        changes = {"vocab_size": 259, "pad_token_id": PAD}
        return self.base.native("AutoModelForMultipleChoice", weights=weights, **changes)

    def encode(self, rows, mode, seed):
        items = []
        for index, row in enumerate(rows):
            question = list(row["question"].encode())
            ids = [[START, *question, MIDDLE, *choice.encode()] for choice in row["choices"]]
            answer = 0 if mode == "predict" else row["answer"]
            if not 0 <= answer < len(ids):
                raise DataError(f"there is no choice {answer}", row=index, column="answer", hint="count from 0")
            cost = len(ids) * max(map(len, ids))
            items.append(Item(index, {"ids": ids, "answer": answer}, cost=cost, extra=row["choices"]))
        return items

    def collate(self, items, mode):
        import torch

        longest = max(len(ids) for item in items for ids in item.inputs["ids"])
        most = max(len(item.inputs["ids"]) for item in items)
        input_ids = torch.full((len(items), most, longest), PAD)
        for index, item in enumerate(items):
            for choice, ids in enumerate(item.inputs["ids"]):
                input_ids[index, choice, : len(ids)] = torch.tensor(ids)
        inputs = {"input_ids": input_ids, "attention_mask": (input_ids != PAD).long()}
        if mode != "predict":
            inputs["answer"] = torch.tensor([item.inputs["answer"] for item in items])
        return Batch(inputs, items)

    def scores(self, model, batch):
        """Return the logits of all choices, [items, choices]; padding is no choice."""
        inputs = {name: tensor for name, tensor in batch.inputs.items() if name != "answer"}
        missing = inputs["attention_mask"].sum(-1) == 0
        return model(**inputs).logits.masked_fill(missing, -1e4)

    def loss(self, model, batch):
        return self.row_losses(model, batch).mean()

    def row_losses(self, model, batch):
        from torch.nn.functional import cross_entropy

        return cross_entropy(self.scores(model, batch), batch.inputs["answer"], reduction="none")

    def predict(self, model, batch):
        scores = self.scores(model, batch).softmax(-1)
        best = scores.argmax(-1).tolist()
        return [
            {"choice": index, "text": item.extra[index], "score": float(line[index])}
            for item, index, line in zip(batch.items, best, scores)
        ]

    def merge(self, row, parts):
        return parts[0]

    def metric(self):
        return MeanMetric(correct, ("accuracy",))

    @classmethod
    def example_rows(cls):
        names = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gil", "Hana")
        rows = []
        for index, name in enumerate(names):
            choices = ["nobody", name[::-1]][: 1 + index % 2]
            answer = index % 3 if index % 2 else index % 4 // 2
            rows.append({"question": f"Who am I, {name}?", "choices": choices, "answer": answer})
            choices.insert(answer, name)
        return rows


class LinearProbe(topwork.Stage):
    """Fit a linear probe on the states of the last layer, and measure whether they say which choice is right."""

    name = "linear_probe"
    changes_model = False
    role: str = "train"

    def reads(self):
        return (self.role,)

    def __call__(self, run):
        import torch
        from sklearn.linear_model import LogisticRegression

        states, right = [], []
        for batch in run.loss_batches(self.role, batch_size=4):
            inputs = {name: tensor.flatten(0, 1) for name, tensor in batch.inputs.items() if name != "answer"}
            with torch.no_grad():
                hidden = run.model.base_model(**inputs).last_hidden_state[:, 0]
            choices = batch.inputs["input_ids"].shape[1]
            for index, answer in enumerate(batch.inputs["answer"].tolist()):
                states += hidden[index * choices : (index + 1) * choices].tolist()
                right += [choice == answer for choice in range(choices)]
        probe = LogisticRegression(max_iter=500).fit(states, right)
        accuracy = float(probe.score(states, right))
        return {"metrics": {"accuracy": accuracy}, "primary": "accuracy", "measures": "probe", "rows": len(right)}


class Notes:
    """Tracker that writes what a training logs into a text file of the run folder."""

    def __init__(self, run):
        self.file = run.root / "notes.txt"

    @hookimpl
    def step_logged(self, stage, step, numbers):
        with self.file.open("a") as file:
            file.write(f"{stage.name} {step} {numbers.get('loss')}\n")


@hookimpl
def register_tasks():
    return [MultipleChoice]


@hookimpl
def register_stages():
    return [LinearProbe]


@hookimpl
def register_samples():
    return {"riddles": "Eight questions with two or three choices."}


@hookimpl
def load_rows(source):
    import datasets

    return datasets.Dataset.from_list(MultipleChoice.example_rows()) if source == "sample:riddles" else None


@hookimpl
def register_trackers():
    return {"notes": "Write the losses into notes.txt."}


@hookimpl
def make_tracker(name, run):
    return Notes(run) if name == "notes" else None
