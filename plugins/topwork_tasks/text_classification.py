"""text-classification: one label, several, or a number for a text or a pair of texts.

The native `AutoModelForSequenceClassification` where the architecture has one, else a pooled task head on its backbone
(the mean over real tokens; the last real token of a decoder). Predictions have the shape of the Hub's pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator
from typing_extensions import override

from topwork import Base, Batch, Column, Item, Mode, Picture, Row, State
from topwork_tasks._classification.classifier import Classifier, ClassifierOptions
from topwork_tasks._classification.view import LabelsView
from topwork_tasks._text import inputs as text
from topwork_tasks._text.text_task import TextTask

if TYPE_CHECKING:
    import torch
    from torch import nn

AUTO = "AutoModelForSequenceClassification"


class TextClassificationOptions(ClassifierOptions):
    """Options of text-classification."""

    regression: bool = Field(False, description="the label is a number")
    max_length: PositiveInt | None = Field(None, description="tokens; by default what the model can take")
    # decoders have no pooled token of their own: "auto" takes their last one
    pooling: Literal["auto", "mean", "first", "last"] = Field("auto", description="of the generic task head")
    tokenizer: text.TokenizerOptions = Field(
        default_factory=lambda: text.TokenizerOptions(), description="to learn one, when the base is a config"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> TextClassificationOptions:
        if self.multi_label and self.regression:
            raise ValueError("`multi_label` and `regression` exclude each other")
        return self


class TextClassification(TextTask, Classifier):
    """Put labels on texts and pairs of texts, or a number (regression).

    Rows that it refuses or mends: `_classification/bad_input.md`.
    """

    state_types: ClassVar[Mapping[str, Any]] = {**Classifier.state_types, "inputs": text.InputNames}
    name = "text-classification"
    Options = TextClassificationOptions
    columns = {
        "text": Column("the text", kind="text"),
        "text_pair": Column("a second text, for pairs", required=False, kind="text"),
        "label": Column("the label; a list of labels (multi_label); a number (regression)", target=True, kind="label"),
    }
    HEAD = (AUTO,)
    usual_top = 1  # as the Hub's pipeline; all labels with multi_label
    rows_view = LabelsView()

    @classmethod
    @override
    def learn(cls, rows: Any, bases: Mapping[str, Base], options: TextClassificationOptions) -> State:
        base = bases["base"]
        labels, notes = cls.learn_labels(rows, base, options)
        texts = text.column_texts(rows, ("text", "text_pair"))
        state = text.learn_text_state(base, texts, options.tokenizer, labels)
        state.notes += notes
        return state

    def __init__(self, bases: Mapping[str, Base], options: TextClassificationOptions, state: State) -> None:
        super().__init__(bases, options, state)
        self.text = text.TextInputs.from_state(state, self.base, options.max_length)

    @override
    def build(self, weights: bool = True) -> nn.Module:
        changes = dict(self.state.values["token_changes"])
        native = self.base.native(AUTO, weights=weights, **self.head_config(), **changes)
        if native is not None:
            return native
        from topwork.task_heads import PooledHead, Pooling

        pooling: Pooling = "last" if text.is_causal(self.base.config) else "mean"
        if self.options.pooling != "auto":
            pooling = self.options.pooling
        backbone = self.base.backbone(weights=weights, **changes)
        return PooledHead(backbone, len(self.names), pooling, self.options.dropout)

    # ------------------------------------------------------------------ rows -> tensors

    @override
    def precheck(self, row: Row, mode: Mode) -> bool:
        self.text.precheck(row, "text", *(("text_pair",) if row.get("text_pair") is not None else ()))
        if mode != "predict":
            self.targets.of(row)
        return False

    @override
    def encode(self, rows: Sequence[Row], mode: Mode, seed: int) -> list[Item]:
        texts = [self.text.open(row, index) for index, row in enumerate(rows)]
        pairs = {
            index: self.text.open(row, index, "text_pair")
            for index, row in enumerate(rows)
            if row.get("text_pair") is not None
        }
        single = [index for index in range(len(rows)) if index not in pairs]
        features: dict[int, dict[str, list[int]]] = {
            **dict(zip(single, self.text.features([texts[index] for index in single]))),
            **dict(zip(pairs, self.text.features([texts[index] for index in pairs], list(pairs.values())))),
        }
        items = []
        for index, row in enumerate(rows):
            inputs = self._not_empty(features[index])
            target = None if mode == "predict" else self.targets.of(row, index)
            items.append(Item(index, inputs, len(inputs["input_ids"]), target))
        return items

    def _not_empty(self, inputs: dict[str, list[int]]) -> dict[str, list[int]]:
        if inputs["input_ids"]:
            return inputs
        end = self.tokenizer.eos_token_id
        first = {"input_ids": self.tokenizer.pad_token_id if end is None else end, "attention_mask": 1}
        return {name: [first.get(name, 0)] for name in inputs}

    @override
    def collate(self, items: Sequence[Item], mode: Mode) -> Batch:
        inputs = self.text.collate(items)
        if mode != "predict":
            inputs["labels"] = self.targets.tensor([item.extra for item in items])
        return Batch(inputs, items)

    # ------------------------------------------------------------------ tensors -> numbers

    def logits(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the logits of a batch, [items, labels].

        BART and its like pool the last end token and refuse a batch whose texts have different numbers of them, as
        single texts beside pairs do: texts with the same number then go together.
        """
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
        parts = [model(**{name: value[group] for name, value in inputs.items()}).logits for group in groups]
        return torch.cat(parts)[torch.cat(groups).argsort()]

    # ------------------------------------------------------------------ predictions -> readers

    @override
    def draw(self, row: Row, prediction: Any) -> Picture:
        shown = [(row["text"], "")]
        if row.get("text_pair") is not None:
            shown += [(" / ", ""), (row["text_pair"], "")]
        return self.drawn(row, prediction, shown)

    @classmethod
    @override
    def example_rows(cls) -> list[Row]:
        sentences_of = {
            "good": ["a warm and generous film", "we loved every minute", "a wonderful, moving story"],
            "bad": ["dull from the first scene", "a clumsy, lifeless mess", "we wanted our money back"],
            "mixed": ["fine actors, weak plot", "half of it is worth seeing", "long, but never dull"],
        }
        return [
            {"text": sentence, "label": label} for label, sentences in sentences_of.items() for sentence in sentences
        ]
