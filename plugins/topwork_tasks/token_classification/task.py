"""token-classification: a tag for each word of a text (entities, parts of speech, roles).

Rows have `words` and `tags`, or `text` and `spans`. The native `AutoModelForTokenClassification` where the architecture
has one, else a task head on every token of its backbone. Long texts are read in windows; each token is judged in the
window that sees most around it. Rows with `words` are answered with one tag a word, rows with `text` with entities in
the shape of the Hub's pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from topwork import Base, Batch, Column, DataError, Item, Metric, Mode, OutputNames, Picture, Row, State
from topwork_tasks._classification.labels import label_config
from topwork_tasks._classification.options import training_smoothing
from topwork_tasks._text import inputs as text
from topwork_tasks._text.text_task import TokenTargetTask
from topwork_tasks._text.windows import TextWindow, covered_words
from topwork_tasks._text.words import Span, is_punctuation
from topwork_tasks.token_classification import entities, predictions, tags
from topwork_tasks.token_classification.examples import tagged_examples
from topwork_tasks.token_classification.options import TokenClassificationOptions
from topwork_tasks.token_classification.preview import TagsView

if TYPE_CHECKING:
    import torch
    from torch import nn

AUTO = "AutoModelForTokenClassification"


class TokenClassification(TokenTargetTask):
    """Put a tag on every word, and find entities and other spans.

    Rows that it refuses or mends: `bad_input.md`.
    """

    name = "token-classification"
    Options = TokenClassificationOptions
    columns = {
        "words": Column("the words, a list", required=False, kind="words"),
        "tags": Column("a tag for each of the words", target=True, required=False, kind="tags"),
        "text": Column("a text, instead of words", required=False, kind="text"),
        "spans": Column(
            "entities of the text: a list of {start, end, label}, in characters", True, False, kind="spans"
        ),
    }
    state_types: ClassVar[Mapping[str, Any]] = {
        "label_names": OutputNames,
        "declared": OutputNames | None,
        "scheme": entities.Scheme,
        "token_changes": dict[str, Any],
        "inputs": text.InputNames,
    }
    rows_view = TagsView()

    @classmethod
    @override
    def learn(cls, rows: Any, bases: Mapping[str, Base], options: TokenClassificationOptions) -> State:
        base = bases["base"]
        notes: list[str] = []
        names, declared = tags.learn_tag_names(rows, base, (AUTO,), options.label_names, notes)
        scheme = options.scheme
        if scheme == "auto":
            reader = tags.RowReader(names, declared, options.span_words)
            scheme = entities.detect_scheme(names, tags.tag_sequences(rows, reader))
        texts = None if rows is None else (tags.text_and_words(row, index)[0] for index, row in enumerate(rows))
        values = {"label_names": names, "declared": declared, "scheme": scheme}
        state = text.learn_text_state(base, texts, options.tokenizer, values)
        state.notes += notes
        return state

    def __init__(self, bases: Mapping[str, Base], options: TokenClassificationOptions, state: State) -> None:
        super().__init__(bases, options, state)
        values = state.values
        self.names: list[str] = values["label_names"]
        self.scheme: entities.Scheme = values["scheme"]
        self.reader = tags.RowReader(self.names, values["declared"], options.span_words)
        self.text = text.TextInputs.from_state(state, self.base, options.max_length)
        self.stride = options.stride if options.stride is not None else (self.text.max_length or 0) // 4
        self.continuing = entities.continuing_tags(self.names, self.scheme)

    @override
    def build(self, weights: bool = True) -> nn.Module:
        changes = dict(self.state.values["token_changes"])
        model = self.base.native(AUTO, weights=weights, **label_config(self.names), **changes)
        if model is not None:
            return model
        from topwork.task_heads import TokenHead

        return TokenHead(self.base.backbone(weights=weights, **changes), len(self.names), self.options.dropout)

    # ------------------------------------------------------------------ rows -> tensors

    @override
    def precheck(self, row: Row, mode: Mode) -> bool:
        _, words = self.reader.words(row, None)
        if mode != "predict":
            self.reader.tags(row, None, words)
            self.reader.check_spans(row, None, words)
        return False

    @override
    def encode(self, rows: Sequence[Row], mode: Mode, seed: int) -> list[Item]:
        read = [self.reader.words(row, index) for index, row in enumerate(rows)]
        by_row = self.text.windows([string for string, _ in read], self.stride)
        items = []
        for index, (row, (_, words), windows) in enumerate(zip(rows, read, by_row)):
            targets = self._targets(row, index, words, windows) if mode != "predict" else None
            for window in windows:
                inputs: dict[str, Any] = dict(window.inputs)
                if targets is not None:
                    labels = [-100] * len(inputs["input_ids"])
                    for position, target in zip(window.positions, targets[window.first :]):
                        labels[position] = target
                    inputs["labels"] = labels
                items.append(Item(index, inputs, len(inputs["input_ids"]), window))
        return items

    def _targets(self, row: Row, index: int, words: Sequence[Span], windows: Sequence[TextWindow]) -> list[int]:
        """Return the target of each token of the text, -100 where nothing is learned."""
        wanted = self.reader.tags(row, index, words)
        self.reader.check_spans(row, index, words)
        offsets = [offset for window in windows for offset in window.offsets]
        all_tokens = self.options.sub_words == "all"
        targets, lost = tags.token_targets(wanted, words, offsets, self.continuing, all_tokens)
        lost = self._unreadable(row["text"], wanted, words, offsets, lost) if row.get("words") is None else []
        if lost:
            start, end = words[lost[0]]
            raise DataError(
                f"no token begins at {row['text'][start:end]!r} (characters {start} to {end}), which a span needs",
                row=index,
                column="spans",
                hint="choose a base with a finer tokenizer, or leave the row out",
            )
        return targets

    def _unreadable(
        self, string: str, wanted: Sequence[int], words: Sequence[Span], offsets: Sequence[Span], lost: Sequence[int]
    ) -> list[int]:
        """Return the words at whose border a span begins or ends, and no token does.

        Signs that the last token of a span covers are read as outside of it: `."` may be one token.

        Args:
            string: the text.
            wanted: tag of each word.
            words: characters of each word.
            offsets: characters of each token.
            lost: words whose tags no token can carry.
        """
        covered = covered_words(words, offsets)
        signs = [covers and is_punctuation(string[slice(*word)]) for covers, word in zip(covered, words)]
        outside = [entities.is_outside(self.names[tag], self.scheme) for tag in wanted]
        unread = [word for word in lost if not outside[word] or (covered[word] and not signs[word])]
        tags_of_words = [self.names[tag] for tag in wanted]
        ends = {last - 1 for _, _, last in entities.groups(tags_of_words, self.scheme)}
        return sorted({*unread, *(word for word in ends if signs[word])})

    # ------------------------------------------------------------------ tensors -> numbers

    @override
    def token_losses(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sum of the cross-entropy over the targets of each item, and their number; both [items]."""
        logits = model(**text.plain_inputs(batch.inputs, "labels")).logits
        return text.sums_over_targets(logits, batch.inputs["labels"], training_smoothing(self.options, batch))

    def predict(self, model: nn.Module, batch: Batch) -> list[list[predictions.JudgedToken]]:
        """Return for each item the tokens that it owns, with the likeliest tag."""
        probabilities = model(**text.plain_inputs(batch.inputs, "labels")).logits.float().softmax(-1).cpu()
        scores, indices = probabilities.max(-1)
        parts = []
        for row, item in enumerate(batch.items):
            ids, window = item.inputs["input_ids"], item.extra
            shift = self.text.padding_before(item, probabilities.shape[1])
            positions = [position + shift for position in window.positions]
            tokens = [ids[position] for position in window.positions]
            every = probabilities[row, positions].tolist() if self.options.aggregation == "average" else ()
            columns = [indices[row, positions].tolist(), scores[row, positions].tolist(), tokens, window.offsets]
            judged = zip(*columns, every) if every else zip(*columns)
            parts.append([predictions.JudgedToken(*token) for token in judged])
        return parts

    @override
    def merge(self, row: Row, parts: Sequence[list[predictions.JudgedToken]]) -> predictions.TagPrediction:
        reader = predictions.TokenReader(self.tokenizer, self.reader, self.scheme, self.options.aggregation)
        return reader.read(row, [token for part in parts for token in part])

    # ------------------------------------------------------------------ predictions -> readers

    @override
    def metric(self) -> Metric:
        read = entities.strict_entities if self.options.strict else None
        return entities.EntityMetric(self.reader, self.scheme, read)

    @override
    def draw(self, row: Row, prediction: Any) -> Picture:
        return predictions.draw_tags(row, prediction, self.reader, self.scheme)

    @classmethod
    @override
    def example_rows(cls) -> list[Row]:
        return tagged_examples()
