"""token-classification: a tag for each word of a text (entities, parts of speech, roles).

Rows have `words` and `tags`, or `text` and `spans`. The native `AutoModelForTokenClassification` where the architecture
has one, else a task head on every token of its backbone. Long texts are read in windows; each token is judged in the
window that sees most around it. Predictions have the shape of the Hub's pipeline (`aggregation_strategy` "simple" or
"none"), over the text, or over the words joined by spaces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from topwork import (
    Base,
    Batch,
    Column,
    Item,
    Metric,
    Mode,
    Picture,
    Row,
    State,
    Task,
    TaskOptions,
    Units,
    hookimpl,
)
from topwork_tasks._text import inputs as text
from topwork_tasks._text import spans
from topwork_tasks.token_classification import entities, tags
from topwork_tasks.token_classification.strict_entities import strict_entities

if TYPE_CHECKING:
    import torch
    from torch import nn

AUTO = "AutoModelForTokenClassification"


class TokenClassificationOptions(TaskOptions):
    """Options of token-classification."""

    scheme: Literal["auto", "IOB1", "IOB2", "IOBES", "plain"] = Field(
        "auto", description="how tags mark entities; auto looks at the training rows"
    )
    strict: bool = Field(False, description="metrics: entities that break the rules of their scheme are none")
    label_names: list[str] | None = Field(None, description="what the data's integers 0, 1, ... stand for")
    sub_words: Literal["first", "all"] = Field("first", description="tokens of a word that learn its tag")
    aggregation: Literal["simple", "none"] = Field("simple", description="predictions: entities, or single tokens")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target spread over all tags")
    max_length: PositiveInt | None = Field(None, description="tokens of a window; by default what the model can take")
    stride: NonNegativeInt | None = Field(None, description="tokens that windows share; by default a quarter")
    dropout: float = Field(0.1, ge=0, lt=1, description="of the generic task head")
    tokenizer: text.TokenizerOptions = Field(
        default_factory=lambda: text.TokenizerOptions(), description="to learn one, when the base is a config"
    )


class TokenClassification(Task):
    """Put a tag on every word, and find entities and other spans.

    Rows that it refuses or mends: `bad_input.md`.
    """

    name = "token-classification"
    Options = TokenClassificationOptions
    columns = {
        "words": Column("the words, a list", required=False),
        "tags": Column("a tag for each of the words", target=True, required=False),
        "text": Column("a text, instead of words", required=False),
        "spans": Column("entities of the text: a list of {start, end, label}, in characters", True, False),
    }
    cost_unit = "tokens"

    @classmethod
    def learn(cls, rows: Any, bases: Mapping[str, Base], options: TokenClassificationOptions) -> State:
        base = bases["base"]
        names, declared = tags.learn_names(rows, base, (AUTO,), options.label_names)
        scheme = options.scheme
        if scheme == "auto":
            scheme = entities.detect(names, tags.sequences(rows, names, declared))
        texts = None if rows is None else (tags.text_and_words(row, number)[0] for number, row in enumerate(rows))
        tokenizer, changes = text.find_tokenizer(base, texts, options.tokenizer)
        values = {
            "label_names": names,
            "declared": declared,
            "scheme": scheme,
            "token_changes": changes,
            "inputs": text.model_inputs(base, tokenizer),
        }
        return State(values, {"tokenizer": tokenizer})

    def __init__(self, bases: Mapping[str, Base], options: TokenClassificationOptions, state: State) -> None:
        super().__init__(bases, options, state)
        values = state.values
        self.names: list[str] = values["label_names"]
        self.declared: list[str] | None = values["declared"]
        self.scheme: entities.Scheme = values["scheme"]
        self.inputs: list[str] = values["inputs"]
        self.tokenizer = state.processors["tokenizer"]
        self.max_length = text.length_limit(self.base.config, self.tokenizer, options.max_length)
        self.stride = options.stride if options.stride is not None else (self.max_length or 0) // 4
        self.later = tags.continuing(self.names)

    def build(self, weights: bool = True) -> nn.Module:
        changes = dict(self.state.values["token_changes"])
        found = self.base.native(AUTO, weights=weights, id2label=dict(enumerate(self.names)), **changes)
        if found is not None:
            return found
        from topwork.task_heads import TokenHead

        return TokenHead(self.base.backbone(weights=weights, **changes), len(self.names), self.options.dropout)

    # ------------------------------------------------------------------ rows -> tensors

    def precheck(self, row: Row, mode: Mode) -> bool:
        _, words = tags.text_and_words(row, None)
        if mode != "predict":
            tags.true_tags(row, None, words, self.names, self.declared)
        return False

    def encode(self, rows: Sequence[Row], mode: Mode, seed: int) -> list[Item]:
        found = [tags.text_and_words(row, number) for number, row in enumerate(rows)]
        windows = spans.pieces(self.tokenizer, [text for text, _ in found], self.inputs, self.max_length, self.stride)
        items = []
        for number, (row, (_, words), own) in enumerate(zip(rows, found, windows)):
            targets = self._targets(row, number, words, own) if mode != "predict" else None
            for piece in own:
                inputs: dict[str, Any] = dict(piece.inputs)
                if targets is not None:
                    labels = [-100] * len(inputs["input_ids"])
                    for place, target in zip(piece.places, targets[piece.first :]):
                        labels[place] = target
                    inputs["labels"] = labels
                items.append(Item(number, inputs, len(inputs["input_ids"]), piece))
        return items

    def _targets(self, row: Row, number: int, words: Sequence[spans.Span], own: Sequence[spans.Piece]) -> list[int]:
        """The target of each token of the text: its word's tag, -100 where nothing is to be learned."""
        wanted = tags.true_tags(row, number, words, self.names, self.declared)
        offsets = [offset for piece in own for offset in piece.offsets]
        first = spans.speakers(words, offsets)
        targets = [-100] * len(offsets)
        if self.options.sub_words == "all":
            for token, word in enumerate(spans.word_of(words, offsets)):
                if word is not None:
                    targets[token] = self.later[wanted[word]]
        for word_number, speaker in enumerate(first):
            if speaker is not None:
                targets[speaker] = wanted[word_number]
        return targets

    def collate(self, items: Sequence[Item], mode: Mode) -> Batch:
        return text.labelled_batch(self.tokenizer, items, self.inputs, mode)

    def cost_budget(self, device: str) -> int | None:
        return 512 if device == "cpu" else 16384

    # ------------------------------------------------------------------ tensors -> numbers

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return text.mean_over_targets(*self._losses(model, batch))

    def target_counts(self, batch: Batch) -> tuple[torch.Tensor]:
        return ((batch.inputs["labels"] != -100).sum(),)

    def row_losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return text.row_means_over_targets(batch, *self._losses(model, batch))

    def _losses(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of the cross-entropy over the targets of each item, and their number; both [items]."""
        from torch.nn.functional import cross_entropy

        logits = model(**text.plain_inputs(batch.inputs, "labels")).logits.float()
        labels = batch.inputs["labels"]
        losses = cross_entropy(
            logits.transpose(1, 2),
            labels,
            reduction="none",
            ignore_index=-100,
            label_smoothing=self.options.label_smoothing if batch.mode == "train" else 0.0,
        )
        return losses.sum(1), (labels != -100).sum(1).to(losses.dtype)

    def predict(self, model: nn.Module, batch: Batch) -> list[tags.Judged]:
        """For each token that an item owns: number of the likeliest tag, its probability, the token's own number, and
        its characters."""
        logits = model(**text.plain_inputs(batch.inputs, "labels")).logits.float()
        scores, numbers = logits.softmax(-1).max(-1)
        scores, numbers = scores.cpu(), numbers.cpu()
        parts = []
        for row, item in enumerate(batch.items):
            ids, piece = item.inputs["input_ids"], item.extra
            shift = logits.shape[1] - len(ids) if self.tokenizer.padding_side == "left" else 0
            at = [place + shift for place in piece.places]
            tokens = [ids[place] for place in piece.places]
            parts.append(list(zip(numbers[row, at].tolist(), scores[row, at].tolist(), tokens, piece.offsets)))
        return parts

    def merge(self, row: Row, parts: Sequence[tags.Judged]) -> tags.TagPrediction:
        judged = [token for part in parts for token in part]
        said, words = tags.text_and_words(row, None)
        return tags.read_tokens(self.tokenizer, judged, said, words, self.names, self.scheme, self.options.aggregation)

    # ------------------------------------------------------------------ numbers -> people

    def metric(self) -> Metric:
        read = strict_entities if self.options.strict else None
        return entities.EntityMetric(tags.Truth(self.names, self.declared), self.scheme, read)

    def units(self, item: Item) -> Units:
        return text.token_units(self.tokenizer, item.inputs["input_ids"])

    def draw(self, row: Row, prediction: Any) -> Picture:
        return tags.draw(row, prediction, tags.Truth(self.names, self.declared), self.scheme)

    @classmethod
    def example_rows(cls) -> list[Row]:
        said = [
            ("Ada Lovelace lived in London .", "B-PER I-PER O O B-LOC O"),
            ("Alan Turing worked at Bletchley .", "B-PER I-PER O O B-LOC O"),
            ("The bank lent money to Acme .", "O O O O O B-ORG O"),
            ("Acme opened a shop in New York .", "B-ORG O O O O B-LOC I-LOC O"),
            ("Nothing happened today .", "O O O O"),
            ("Grace Hopper left London .", "B-PER I-PER O B-LOC O"),
            ("New York was quiet .", "B-LOC I-LOC O O O"),
            ("Acme hired Alan .", "B-ORG O B-PER O"),
        ]
        return [{"words": words.split(), "tags": marks.split()} for words, marks in said]


@hookimpl
def register_tasks() -> list[type[Task]]:
    return [TokenClassification]
