"""Base class of tasks that turn a text into a text.

A task of this kind (summarization, translation; sentence fusion, splitting, grammar correction ...) is a subclass that
names its columns, the key of its predictions and its metrics; twelve lines make one:

    class GrammarCorrection(SequenceToSequence):
        "Sentences with mistakes become sentences without."
        name, answer = "grammar-correction", "corrected_text"
        columns = {"text": Column("with mistakes"), "corrected": Column("without", target=True)}

        @classmethod
        def example_rows(cls): ...

The bases decide the form of the model:

| bases | form |
|---|---|
| one that is an encoder-decoder (T5, BART, mBART, Marian, a folder of EncoderDecoderModel) | "seq2seq", native |
| `encoder` and `decoder`: any two checkpoints, warm-started (`warm_start`), `share`d or not | "pair" |
| `source` and `base`: a new encoder in front of a finished sequence-to-sequence model | "source" |
| one that is a decoder: the target continues a prompt | "prompt" |
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from topwork import (
    Base,
    BaseOptions,
    Batch,
    CheckpointError,
    DataError,
    Item,
    Metric,
    Mode,
    Picture,
    Row,
    State,
    Task,
    Units,
)
from topwork_tasks._classification.options import training_smoothing
from topwork_tasks._text import inputs as text
from topwork_tasks._text.metrics import TextMetric, rouge_l
from topwork_tasks.sequence_to_sequence import generation, tokens
from topwork_tasks.sequence_to_sequence.options import Seq2SeqOptions

if TYPE_CHECKING:
    import torch
    from torch import nn

AUTO = "AutoModelForSeq2SeqLM"
#: stages that remove attention heads
_PRUNING = ("prune_heads", "prune_schedule")


class SequenceToSequence(Task):
    """Turn a text into a text; subclass it, see the module.

    Class attributes:
        columns: one source and one target, in any order.
        answer: key of the predictions: [{answer: text}].
        metrics: kinds of `TextMetric`; the first key of the first is the primary one.
    """

    Options = Seq2SeqOptions
    alternatives = (("encoder", "decoder"), ("source", "base"))
    answer: ClassVar[str] = "generated_text"
    metrics: ClassVar[tuple[str, ...]] = ("exact_match", "bleu", "chrf", "rouge", "length")
    cost_unit = "tokens"
    state_types: ClassVar[Mapping[str, Any]] = {"token_changes": dict[str, Any], "generation": dict[str, Any] | None}

    # ------------------------------------------------------------------ rows

    @classmethod
    def source_text(cls, row: Row, index: int, options: Any) -> str:
        """Return the source of a row; override both methods where rows hold their texts differently."""
        name = next(name for name, column in cls.columns.items() if not column.target)
        return text.text_of(row, index, name)

    @classmethod
    def target_text(cls, row: Row, index: int, options: Any) -> str:
        """Return the target of a row."""
        name = next(name for name, column in cls.columns.items() if column.target)
        return text.text_of(row, index, name)

    # ------------------------------------------------------------------ once

    @classmethod
    @override
    def recipe_problems(
        cls, options: Any, bases: Mapping[str, BaseOptions], columns: Collection[str], stages: Sequence[str]
    ) -> Sequence[tuple[str, str]]:
        pruning = [name for name in stages if name in _PRUNING] if options.share else []
        message = (
            "encoder and decoder share their weights (`share: true`): attention heads of one side cannot be removed "
            "without the other's; mask them (`mask_heads`), or leave out `share`"
        )
        return [(f"stages.{name}", message) for name in dict.fromkeys(pruning)]

    @classmethod
    @override
    def learn(cls, rows: Any, bases: Mapping[str, Base], options: Seq2SeqOptions) -> State:
        def texts(*sides: str) -> Any:
            if rows is None:
                return None
            read = {"source": cls.source_text, "target": cls.target_text}
            return (read[side](row, index, options) for index, row in enumerate(rows) for side in sides)

        return tokens.learn_tokenizers(bases, texts, options)

    def __init__(self, bases: Mapping[str, Base], options: Seq2SeqOptions, state: State) -> None:
        super().__init__(bases, options, state)
        self.form = tokens.form_of_bases(bases)
        self.sides = tokens.Sides(bases, options, state)
        self.tokenizer, self.target_tokenizer = self.sides.source, self.sides.target

    @override
    def build(self, weights: bool = True) -> nn.Module:
        changes = self.state.values["token_changes"]
        model: Any
        if self.form == "pair":
            from topwork_tasks.sequence_to_sequence.warm_start import build_pair

            model = build_pair(
                self.bases["encoder"],
                self.bases["decoder"],
                weights=weights,
                changes=(changes["encoder"], changes["decoder"]),
                share=self.options.share,
                generation=self.options.bert_generation,
            )
        elif tokens.is_shared(self.bases["base"].config):
            from topwork_tasks.sequence_to_sequence.warm_start import SharedEncoderDecoder

            model = self.bases["base"].native(AUTO, weights=weights, subclass=SharedEncoderDecoder, **changes["base"])
        else:
            auto = "AutoModelForCausalLM" if self.form == "prompt" else AUTO
            model = self.bases["base"].native(auto, weights=weights, **changes["base"])
            if model is None:
                cause = f"`{self.bases['base'].config.model_type}` has no sequence-to-sequence language model"
                raise CheckpointError(cause, hint="choose a base such as t5, bart or marian")
            if model.config.model_type == "encoder-decoder":
                model.encoder.pooler = None  # unused: it would be saved untrained, and never get a gradient
        if self.form == "source":
            from topwork_tasks.sequence_to_sequence.warm_start import SourceEncoder

            model = SourceEncoder(self.bases["source"].backbone(weights=weights, **changes["source"]), model)
        generation.settle_generation(model, self.sides, self.options, self.state, fresh=weights)
        return model

    # ------------------------------------------------------------------ rows -> tensors

    @override
    def precheck(self, row: Row, mode: Mode) -> bool:
        self.source_text(row, 0, self.options)
        if mode != "predict":
            self.target_text(row, 0, self.options)
        return False

    @override
    def encode(self, rows: Sequence[Row], mode: Mode, seed: int) -> list[Item]:
        sources = [self.source_text(row, index, self.options) for index, row in enumerate(rows)]
        targets = None
        if mode != "predict":
            targets = [self.target_text(row, index, self.options) for index, row in enumerate(rows)]
        items = []
        for index, (ids, labels) in enumerate(self.sides.encode(sources, targets)):
            inputs = {"input_ids": ids, "attention_mask": [1] * len(ids)}
            cost = len(ids)
            if labels is not None:
                inputs["labels"] = labels
                cost += 0 if self.form == "prompt" else len(labels)
            items.append(Item(index, inputs, cost))
        return items

    @override
    def collate(self, items: Sequence[Item], mode: Mode) -> Batch:
        together = self.form == "prompt"  # source and target are one sequence
        side = "left" if together and mode == "predict" else self.sides.padding
        inputs = {
            "input_ids": self._padded(items, "input_ids", self.tokenizer.pad_token_id, side),
            "attention_mask": self._padded(items, "attention_mask", 0, side),
        }
        if mode != "predict":
            inputs["labels"] = self._padded(items, "labels", -100, side if together else "right")
        if mode != "predict" and self.sides.shifts:
            shifted = [[self.sides.start, *item.inputs["labels"][:-1]] for item in items]
            inputs["decoder_input_ids"] = text.pad_lists(shifted, self.target_tokenizer.pad_token_id)
            inputs["decoder_attention_mask"] = text.pad_lists([[1] * len(ids) for ids in shifted], 0)
        return Batch(inputs, items)

    def _padded(self, items: Sequence[Item], name: str, value: int, side: str) -> torch.Tensor:
        return text.pad_lists([item.inputs[name] for item in items], value, side)

    @override
    def cost_budget(self, device: str) -> int | None:
        beams = self.options.generation.num_beams or 1
        return max(256, (2048 if device == "cpu" else 32768) // beams)

    # ------------------------------------------------------------------ tensors -> numbers

    @override
    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        if not training_smoothing(self.options, batch) and "decoder_input_ids" not in batch.inputs:
            return super().loss(model, batch)
        return text.mean_over_targets(*self._losses(model, batch))

    @override
    def target_counts(self, batch: Batch) -> tuple[torch.Tensor]:
        labels = batch.inputs["labels"]
        return (((labels[:, 1:] if self.form == "prompt" else labels) != -100).sum(),)

    @override
    def row_losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return text.row_means_over_targets(batch, *self._losses(model, batch))

    def _losses(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sum of the cross-entropy over the target tokens of each item, and their number; both [items]."""
        labels = batch.inputs["labels"]
        # native models make their decoder's inputs of the labels, each in its own way
        inputs = text.plain_inputs(batch.inputs, "labels") if "decoder_input_ids" in batch.inputs else batch.inputs
        logits = model(**inputs).logits
        if self.form == "prompt":
            logits, labels = logits[:, :-1], labels[:, 1:]
        return text.sums_over_targets(logits, labels, training_smoothing(self.options, batch))

    @override
    def predict(self, model: nn.Module, batch: Batch) -> list[list[dict[str, str]]]:
        first_row = batch.row_numbers[0]
        prompts = self.form == "prompt"
        texts = generation.generate_targets(
            model, batch.inputs, self.target_tokenizer, self.options, prompts, first_row
        )
        return [[{self.answer: string}] for string in texts]

    # ------------------------------------------------------------------ predictions -> readers

    @override
    def metric(self) -> Metric:
        def truth(row: Row) -> str:
            return self.target_text(row, 0, self.options)

        return TextMetric(
            self.metrics,
            truth,
            lambda prediction: prediction[0][self.answer].strip(),
            self.options.bleu_tokenizer,
            self.options.normalise,
        )

    @override
    def units(self, item: Item) -> Units:
        units = text.token_units(self.tokenizer, item.inputs["input_ids"])
        if "labels" in item.inputs and self.form != "prompt":  # of mode "loss": the decoder reads the target
            read = [self.sides.start, *item.inputs["labels"][:-1]]
            units.target_names = text.token_units(self.target_tokenizer, read).names
        return units

    def draw(self, row: Row, prediction: Any) -> Picture:
        """Draw source, prediction and truth; badness is 1 - ROUGE-L."""
        predicted = prediction[0][self.answer].strip()
        shown = [(self.source_text(row, 0, self.options)[:600], ""), (" -> ", ""), (predicted, "wrong")]
        try:
            true = self.target_text(row, 0, self.options).strip()
        except DataError:
            return Picture(
                predicted[:300] or "nothing was generated", text=[*shown[:2], (predicted or "(nothing)", "right")]
            )
        badness = 0.0 if predicted == true else 1 - rouge_l(predicted, true)
        shown = [
            *shown[:2],
            (predicted or "(nothing)", "right" if predicted == true else "wrong"),
            (" ", ""),
            (true, "truth"),
        ]
        caption, pieces = f"{predicted[:140]} (true: {true[:140]})", [pair for pair in shown if pair[0]]
        facts = {"truth": true, "prediction": predicted}
        return Picture(caption, badness, text=pieces, facts=facts, measure="1 − ROUGE-L")


__all__ = ["Seq2SeqOptions", "SequenceToSequence"]
