"""text-classification: one label, several, or a number for a text or a pair of texts.

The native `AutoModelForSequenceClassification` where the architecture has one, else a pooled task head on its backbone
(the mean over real tokens; the last real token of a decoder). Predictions have the shape of the Hub's pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from topwork import Base, Batch, Column, Item, Metric, Mode, Picture, Row, State, Task, TaskOptions, Units, hookimpl
from topwork_tasks._classification import loss as classification
from topwork_tasks._text import inputs as text

if TYPE_CHECKING:
    import torch
    from torch import nn

AUTO = "AutoModelForSequenceClassification"
_PROBLEMS = {
    "single": "single_label_classification",
    "multi": "multi_label_classification",
    "regression": "regression",
}


class TextClassificationOptions(TaskOptions):
    """Options of text-classification."""

    multi_label: bool = Field(False, description="any number of labels a row: the column holds lists")
    regression: bool = Field(False, description="the label is a number")
    label_names: list[str] | None = Field(None, description="what the data's integers 0, 1, ... stand for")
    class_weights: Literal["balanced"] | dict[str, NonNegativeFloat] | None = Field(
        None, description="weights of the labels in the loss: `balanced`, or by name"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all labels")
    max_length: PositiveInt | None = Field(None, description="tokens; by default what the model can take")
    top_k: PositiveInt | None = Field(None, description="labels in a prediction; by default 1, of multi-label all")
    pooling: Literal["auto", "mean", "first", "last"] = Field("auto", description="of the generic task head")
    dropout: float = Field(0.1, ge=0, lt=1, description="of the generic task head")
    tokenizer: text.TokenizerOptions = Field(
        default_factory=lambda: text.TokenizerOptions(), description="to learn one, when the base is a config"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> TextClassificationOptions:
        if self.multi_label and self.regression:
            raise ValueError("`multi_label` and `regression` exclude each other")
        if self.label_smoothing and (self.multi_label or self.regression):
            raise ValueError("`label_smoothing` is for one label a row")
        return self


class TextClassification(Task):
    """Put labels on texts and pairs of texts, or a number (regression).

    | bad input | what happens |
    |---|---|
    | `text`, `label`: missing; None | refused |
    | `text`, `text_pair`: a number; a list | refused |
    | `text`, `text_pair`: empty; blank; strange letters | handled: special tokens alone, else one end token |
    | `text`, `text_pair`: longer than the model | handled: cut at `max_length`, of a pair the longer text first |
    | `text_pair`: None | handled: no pair |
    | `label`: unknown; empty; a list; a float; NaN; True; an integer | refused: the known labels, the nearest |
    | `label`: -1 with `label_names`; a number beyond with `label_names`; a list with `label_names` | refused |
    | `label`: a number with `label_names` | handled: the name at that place |
    | `label`: no list with `multi_label`; None with `multi_label`; None in it with `multi_label` | refused |
    | `label`: unknown with `multi_label` | refused |
    | `label`: empty with `multi_label`; twice with `multi_label` | handled: every label is wrong; counts once |
    | `label`: NaN with `regression`; infinite with `regression`; None with `regression` | refused |
    | `label`: a text with `regression`; a list with `regression` | refused |
    | `label`: digits with `regression` | handled: the number that they write |
    """

    name = "text-classification"
    Options = TextClassificationOptions
    columns = {
        "text": Column("the text"),
        "text_pair": Column("a second text, for pairs", required=False),
        "label": Column("the label; a list of labels (multi_label); a number (regression)", target=True),
    }
    cost_unit = "tokens"

    @classmethod
    def learn(cls, rows: Any, bases: Mapping[str, Base], options: TextClassificationOptions) -> State:
        base = bases["base"]
        kind = _kind(base, options)
        names = classification.learn_labels(rows, "label", kind, base, (AUTO,), options.label_names)
        declared = options.label_names or classification.class_names(rows, "label")
        weights = classification.learn_weights(options.class_weights, rows, kind, names, declared)
        texts = text.column_texts(rows, ("text", "text_pair"))
        tokenizer, changes = text.find_tokenizer(base, texts, options.tokenizer)
        values = {
            "kind": kind,
            "label_names": names,
            "declared": declared,
            "class_weights": weights,
            "token_changes": changes,
            "inputs": text.model_inputs(base, tokenizer),
        }
        return State(values, {"tokenizer": tokenizer})

    def __init__(self, bases: Mapping[str, Base], options: TextClassificationOptions, state: State) -> None:
        super().__init__(bases, options, state)
        values = state.values
        self.kind: classification.Kind = values["kind"]
        self.names: list[str] = values["label_names"]
        self.declared: list[str] | None = values["declared"]
        self.inputs: list[str] = values["inputs"]
        self.tokenizer = state.processors["tokenizer"]
        self.max_length = text.length_limit(self.base.config, self.tokenizer, options.max_length)

    def build(self, weights: bool = True) -> nn.Module:
        changes = dict(self.state.values["token_changes"])
        found = self.base.native(
            AUTO,
            weights=weights,
            id2label=dict(enumerate(self.names)),
            problem_type=_PROBLEMS[self.kind],
            **changes,
        )
        if found is not None:
            return found
        from topwork.task_heads import PooledHead, Pooling

        pooling: Pooling = "last" if text.is_causal(self.base.config) else "mean"
        if self.options.pooling != "auto":
            pooling = self.options.pooling
        backbone = self.base.backbone(weights=weights, **changes)
        return PooledHead(backbone, len(self.names), pooling, self.options.dropout)

    # ------------------------------------------------------------------ rows -> tensors

    def precheck(self, row: Row, mode: Mode) -> bool:
        for column in ("text", *(("text_pair",) if row.get("text_pair") is not None else ())):
            text.text_of(row, 0, column)
        if mode != "predict":
            classification.target(row, self.kind, self.names, self.declared)
        return False

    def encode(self, rows: Sequence[Row], mode: Mode, seed: int) -> list[Item]:
        texts = [text.text_of(row, number, "text") for number, row in enumerate(rows)]
        pairs = [
            None if row.get("text_pair") is None else text.text_of(row, n, "text_pair") for n, row in enumerate(rows)
        ]
        items: list[Item | None] = [None] * len(rows)
        for paired in (False, True):
            numbers = [number for number, pair in enumerate(pairs) if (pair is not None) == paired]
            if not numbers:
                continue
            second = [pairs[number] for number in numbers] if paired else None
            encoded = self.tokenizer(
                [texts[number] for number in numbers],
                second,
                truncation=self.max_length is not None,
                max_length=self.max_length,
            )
            for place, number in enumerate(numbers):
                inputs = {name: encoded[name][place] for name in self.inputs}
                items[number] = Item(number, self._not_empty(inputs), len(inputs["input_ids"]) or 1)
        found = [item for item in items if item is not None]
        if mode != "predict":
            for number, (row, item) in enumerate(zip(rows, found)):
                item.extra = classification.target(row, self.kind, self.names, self.declared, number)
        return found

    def _not_empty(self, inputs: dict[str, list[int]]) -> dict[str, list[int]]:
        if inputs["input_ids"]:
            return inputs
        end = self.tokenizer.eos_token_id
        first = {"input_ids": self.tokenizer.pad_token_id if end is None else end, "attention_mask": 1}
        return {name: [first.get(name, 0)] for name in inputs}

    def collate(self, items: Sequence[Item], mode: Mode) -> Batch:
        inputs = text.pad_tokens(self.tokenizer, items, self.inputs)
        if mode != "predict":
            inputs["labels"] = classification.target_tensor([item.extra for item in items], self.kind, len(self.names))
        return Batch(inputs, items)

    def cost_budget(self, device: str) -> int | None:
        # on a CPU a small batch stays in the cache; a large one of varied lengths loses more than it gains
        return 512 if device == "cpu" else 16384

    # ------------------------------------------------------------------ tensors -> numbers

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return self._losses(model, batch).mean()

    def row_losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return batch.mean_by_row(self._losses(model, batch))

    def _losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return classification.classification_loss(
            self._logits(model, batch),
            batch.inputs["labels"],
            self.kind,
            self.state.values["class_weights"],
            reduction="none",
            smoothing=self.options.label_smoothing if batch.mode == "train" else 0.0,
        )

    def _logits(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """[items, labels]. BART and its like pool the last end token and refuse a batch whose texts have different
        numbers of them, as single texts beside pairs do: each number then goes by itself."""
        inputs = text.plain_inputs(batch.inputs, "labels")
        end = self.tokenizer.eos_token_id
        if end is None or not getattr(self.base.config, "is_encoder_decoder", False):
            return model(**inputs).logits
        counts = (inputs["input_ids"] == end).sum(1)
        kinds = counts.unique()
        if len(kinds) == 1:
            return model(**inputs).logits
        import torch

        groups = [(counts == kind).nonzero()[:, 0] for kind in kinds]
        found = [model(**{name: value[group] for name, value in inputs.items()}).logits for group in groups]
        return torch.cat(found)[torch.cat(groups).argsort()]

    def predict(self, model: nn.Module, batch: Batch) -> list[classification.LabelScores]:
        logits = self._logits(model, batch)
        top = self.options.top_k or (None if self.kind == "multi" else 1)
        scores = classification.logits_to_scores(logits, self.kind)
        return [classification.LabelScores(row, self.names, top) for row in scores]

    # ------------------------------------------------------------------ numbers -> people

    def metric(self) -> Metric:
        return classification.ClassificationMetric(self.names, self.kind, declared=self.declared)

    def units(self, item: Item) -> Units:
        return text.token_units(self.tokenizer, item.inputs["input_ids"])

    def draw(self, row: Row, prediction: Any) -> Picture:
        shown = [(row["text"], "")]
        if row.get("text_pair") is not None:
            shown += [(" / ", ""), (row["text_pair"], "")]
        return classification.draw_labels(row, prediction, self.kind, self.names, self.declared, shown)

    @classmethod
    def example_rows(cls) -> list[Row]:
        said = {
            "good": ["a warm and generous film", "we loved every minute", "a wonderful, moving story"],
            "bad": ["dull from the first scene", "a clumsy, lifeless mess", "we wanted our money back"],
            "mixed": ["fine actors, weak plot", "half of it is worth seeing", "long, but never dull"],
        }
        return [{"text": sentence, "label": label} for label, sentences in said.items() for sentence in sentences]


def _kind(base: Base, options: TextClassificationOptions) -> classification.Kind:
    """What the options say; if they say nothing, what the checkpoint's own task head was trained for."""
    if options.multi_label or options.regression:
        return "multi" if options.multi_label else "regression"
    trained = base.trained_labels(AUTO)
    if trained is None:
        return "single"
    problem = getattr(base.config, "problem_type", None)
    saved: dict[str, classification.Kind] = {
        "multi_label_classification": "multi",
        "regression": "regression",
    }
    return saved.get(problem or "", "regression" if len(trained) == 1 else "single")


@hookimpl
def register_tasks() -> list[type[Task]]:
    return [TextClassification]
