"""question-answering: the span of a context that answers a question, or that there is none (SQuAD 1 and 2).

A long context becomes several windows that share `stride` tokens; the best spans of all windows compete, by the sum of
their two logits. Predictions have the shape of transformers v4's pipeline: {score, start, end, answer}, a list of them
with `top_k` above 1. `score` is the softmax over the `n_best` spans (and "no answer").
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, NonNegativeInt, PositiveInt

from topwork import (
    Base,
    Batch,
    Column,
    DataError,
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
from topwork_tasks._text.windows import span_in, windows
from topwork_tasks.question_answering.squad import SquadMetric, best_spans, read_answers, trim

if TYPE_CHECKING:
    import torch
    from torch import nn

AUTO = "AutoModelForQuestionAnswering"


class QuestionAnsweringOptions(TaskOptions):
    """Options of question-answering."""

    max_length: PositiveInt | None = Field(
        None, description="tokens of a window; by default 384, or what the model takes"
    )
    stride: NonNegativeInt = Field(128, description="tokens of context that neighbouring windows share")
    max_answer_length: PositiveInt = Field(30, description="tokens of an answer, at most")
    n_best: PositiveInt = Field(20, description="spans per window that compete")
    top_k: PositiveInt = Field(1, description="answers in a prediction")
    no_answer: bool | None = Field(
        None, description="may there be no answer? By default, whether training rows have that"
    )
    null_threshold: float = Field(0.0, description="no answer when its logits exceed the best span's by more than this")
    tokenizer: text.TokenizerOptions = Field(
        default_factory=lambda: text.TokenizerOptions(), description="to learn one, when the base is a config"
    )


class QuestionAnswering(Task):
    """Find the span of a context that answers a question, or say that there is none.

    Rows that it refuses or mends: `bad_input.md`.
    """

    name = "question-answering"
    Options = QuestionAnsweringOptions
    columns = {
        "question": Column("the question"),
        "context": Column("the text that the answer is a part of"),
        "answers": Column('{"text": [...], "answer_start": [...]}, both empty when there is no answer', target=True),
    }
    cost_unit = "tokens"

    @classmethod
    def learn(cls, rows: Any, bases: Mapping[str, Base], options: QuestionAnsweringOptions) -> State:
        base = bases["base"]
        texts = text.column_texts(rows, ("question", "context"))
        tokenizer, changes = text.find_tokenizer(base, texts, options.tokenizer)
        impossible = options.no_answer
        if impossible is None:
            impossible = rows is not None and any(not read_answers(row, number) for number, row in enumerate(rows))
        values = {"no_answer": impossible, "token_changes": changes, "inputs": text.model_inputs(base, tokenizer)}
        return State(values, {"tokenizer": tokenizer})

    def __init__(self, bases: Mapping[str, Base], options: QuestionAnsweringOptions, state: State) -> None:
        super().__init__(bases, options, state)
        self.inputs: list[str] = state.values["inputs"]
        self.tokenizer = state.processors["tokenizer"]
        limit = text.length_limit(self.base.config, self.tokenizer, options.max_length)
        self.length = options.max_length or min(384, limit or 384)

    def build(self, weights: bool = True) -> nn.Module:
        changes = self.state.values["token_changes"]
        found = self.base.native(AUTO, weights=weights, **changes)
        if found is not None:
            return found
        from topwork.task_heads import SpanHead

        return SpanHead(self.base.backbone(weights=weights, **changes))

    # ------------------------------------------------------------------ rows -> tensors

    def precheck(self, row: Row, mode: Mode) -> bool:
        text.text_of(row, 0, "question")
        return not text.text_of(row, 0, "context").strip()

    def encode(self, rows: Sequence[Row], mode: Mode, seed: int) -> list[Item]:
        questions = [text.text_of(row, number, "question") for number, row in enumerate(rows)]
        contexts = [text.text_of(row, number, "context") for number, row in enumerate(rows)]
        for number, context in enumerate(contexts):
            if not context.strip():
                raise DataError("is empty", row=number, column="context", hint="leave the row out")
        if not rows:
            return []
        items = []
        by_row = windows(self.tokenizer, questions, contexts, self.inputs, self.length, self.options.stride)
        for number, (row, found) in enumerate(zip(rows, by_row)):
            answers = read_answers(row, number) if mode != "predict" else []
            for window in found:
                inputs: dict[str, Any] = dict(window.inputs)
                if mode != "predict":
                    span = span_in(window, answers[0][1], answers[0][1] + len(answers[0][0])) if answers else None
                    inputs["span"] = span or (window.null, window.null)
                beside = (window.first, window.offsets, window.null)
                items.append(Item(number, inputs, len(inputs["input_ids"]), beside))
        return items

    def collate(self, items: Sequence[Item], mode: Mode) -> Batch:
        import torch

        inputs = text.pad_tokens(self.tokenizer, items, self.inputs)
        if mode != "predict":
            spans = torch.tensor([item.inputs["span"] for item in items], dtype=torch.long)
            if self.tokenizer.padding_side == "left":
                spans = spans + torch.tensor([[self._shift(item, inputs)] for item in items])
            inputs["start_positions"], inputs["end_positions"] = spans.unbind(-1)
        return Batch(inputs, items)

    def _shift(self, item: Item, inputs: Mapping[str, torch.Tensor]) -> int:
        """Padding before an item's first token."""
        if self.tokenizer.padding_side != "left":
            return 0
        return inputs["input_ids"].shape[1] - len(item.inputs["input_ids"])

    def cost_budget(self, device: str) -> int | None:
        return 512 if device == "cpu" else 16384  # on a CPU more than that leaves the cache

    # ------------------------------------------------------------------ tensors -> numbers

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return self._losses(model, batch).mean()

    def row_losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        if self.single_row_losses:
            return super().row_losses(model, batch)
        return batch.mean_by_row(self._losses(model, batch))

    @property
    def single_row_losses(self) -> bool:
        # padding before a text moves its tokens to other positions
        return self.tokenizer.padding_side == "left"

    def _losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """[items]: the mean of the cross-entropies of first and last token, as in Devlin et al. 2019, section 4.2.

        transformers' own loss counts padding among the positions where an answer could be, so it depends on what else
        is in the batch; here padding is left out.
        """
        import torch
        from torch.nn.functional import cross_entropy

        outputs = self._forward(model, batch)
        width, device = outputs.start_logits.shape[1], outputs.start_logits.device
        lengths = torch.tensor([len(item.inputs["input_ids"]) for item in batch.items], device=device).unsqueeze(1)
        positions = torch.arange(width, device=device)
        padding = positions < width - lengths if self.tokenizer.padding_side == "left" else positions >= lengths
        lowest = torch.finfo(torch.float32).min
        losses = [
            cross_entropy(logits.float().masked_fill(padding, lowest), batch.inputs[name], reduction="none")
            for logits, name in ((outputs.start_logits, "start_positions"), (outputs.end_logits, "end_positions"))
        ]
        return (losses[0] + losses[1]) / 2

    def _forward(self, model: nn.Module, batch: Batch) -> Any:
        return model(**text.plain_inputs(batch.inputs, "start_positions", "end_positions"))

    def predict(self, model: nn.Module, batch: Batch) -> list[dict[str, Any]]:
        outputs = self._forward(model, batch)
        starts, ends = outputs.start_logits.float().cpu(), outputs.end_logits.float().cpu()
        parts = []
        for item, start, end in zip(batch.items, starts, ends):
            shift = self._shift(item, batch.inputs)
            first, offsets, null = item.extra
            first, null = first + shift, null + shift
            span = slice(first, first + len(offsets))
            best = best_spans(start[span], end[span], self.options.n_best, self.options.max_answer_length)
            spans = [(score, offsets[begin][0], offsets[stop][1]) for score, begin, stop in best]
            parts.append({"spans": spans, "null": float(start[null] + end[null])})
        return parts

    def merge(self, row: Row, parts: Sequence[Mapping[str, Any]]) -> Any:
        scores: dict[tuple[int, int], float] = {}
        for part in parts:
            for score, start, end in part["spans"]:
                start, end = trim(row["context"], start, end)
                if start < end:
                    scores[start, end] = max(score, scores.get((start, end), -math.inf))
        ranked = sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))[: self.options.n_best]
        found = [(score, start, end, row["context"][start:end]) for (start, end), score in ranked]
        if self.state.values["no_answer"] or not found:
            null = (min(part["null"] for part in parts), 0, 0, "")
            if not found or null[0] - found[0][0] > self.options.null_threshold:
                found = [null, *found]
            else:
                found = [found[0], *sorted([*found[1:], null], key=lambda entry: -entry[0])]
        peak = max(entry[0] for entry in found)
        total = sum(math.exp(entry[0] - peak) for entry in found)
        answers = [
            {"score": math.exp(score - peak) / total, "start": start, "end": end, "answer": answer}
            for score, start, end, answer in found
        ]
        return answers[0] if self.options.top_k == 1 else answers[: self.options.top_k]

    # ------------------------------------------------------------------ numbers -> people

    def metric(self) -> Metric:
        return SquadMetric()

    def units(self, item: Item) -> Units:
        return text.token_units(self.tokenizer, item.inputs["input_ids"])

    def draw(self, row: Row, prediction: Any) -> Picture:
        best = prediction[0] if isinstance(prediction, list) else prediction
        truths = (row.get("answers") or {}).get("text")
        metric = SquadMetric()
        badness = 0.0
        if truths is not None:
            metric.update(row, prediction)
            badness = 1 - metric.result()["f1"]
        start, end, context = best["start"], best["end"], row["context"]
        pieces = [
            (row["question"], "question"),
            (" ", ""),
            (context[:start], ""),
            (context[start:end], "wrong" if badness > 0.5 else "right"),
            (context[end:], ""),
        ]
        told = "unknown" if truths is None else (truths[0] if truths else "no answer")
        pieces += [(" ", ""), (told, "truth")] if truths is not None else []
        caption = f"predicted {best['answer'] or 'no answer'!r}, truth {told!r}"
        return Picture(caption, badness, None, [piece for piece in pieces if piece[0]])

    @classmethod
    def example_rows(cls) -> list[Row]:
        people = [
            ("Ada", "Lima", "baker"),
            ("Ben", "Oslo", "pilot"),
            ("Cleo", "Cairo", "tailor"),
            ("Dan", "Quito", "miner"),
        ]
        rows: list[Row] = []
        for name, place, work in people:
            context = f"{name} lives in {place}. {name} works as a {work}."
            for question, answer in ((f"Where does {name} live?", place), (f"What is the work of {name}?", work)):
                found = {"text": [answer], "answer_start": [context.index(answer)]}
                rows.append({"question": question, "context": context, "answers": found})
        rows.append(
            {"question": "How old is Ada?", "context": rows[0]["context"], "answers": {"text": [], "answer_start": []}}
        )
        return rows


@hookimpl
def register_tasks() -> list[type[Task]]:
    return [QuestionAnswering]
