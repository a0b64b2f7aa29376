"""question-answering: the span of a context that answers a question, or that there is none (SQuAD 1 and 2).

A long context becomes several windows that share `stride` tokens; the best spans of all windows compete, by the sum of
their two logits. Predictions have the shape of transformers v4's pipeline: {score, start, end, answer}, a list of them
with `top_k` above 1. `score` is the softmax over the `n_best` spans (and "no answer").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from topwork import Base, Batch, Column, DataError, Item, Metric, Mode, OutputKind, Picture, Row, RowsView, State
from topwork_tasks._text import inputs as text
from topwork_tasks._text.text_task import TextTask
from topwork_tasks._text.windows import span_in
from topwork_tasks._text.words import trim_span
from topwork_tasks.question_answering.examples import answer_examples
from topwork_tasks.question_answering.options import QuestionAnsweringOptions
from topwork_tasks.question_answering.squad import SquadMetric, answer_texts, best_spans, rank_answers, read_answers

if TYPE_CHECKING:
    import torch
    from torch import nn

AUTO = "AutoModelForQuestionAnswering"


class _AnswersView(RowsView):
    """Contexts with their answers marked; rows whose answers do not stand in their context are refused."""

    @override
    def preview(self, row: Row, options: Any) -> Picture:
        try:
            answers = read_answers(row, None) if row.get("answers") is not None else []
        except DataError:
            return super().preview(row, options)
        context, (answer, start) = row["context"], answers[0] if answers else ("", 0)
        before, after = context[max(0, start - 200) : start], context[start + len(answer) :][:200]
        cut = "…" if start > 200 else ""
        pieces = [(cut + before, ""), (answer, "answer"), (after, "")]
        return Picture(f"{row['question']} {'' if answers else '(no answer)'}".strip(), text=pieces)

    @override
    def check(self, row: Row, options: Any, *, whole: bool) -> None:
        if not text.text_of(row, None, "context").strip():
            raise DataError("is empty", column="context", hint="leave the row out")
        if row.get("answers") is not None:
            read_answers(row, None)


class QuestionAnswering(TextTask):
    """Find the span of a context that answers a question, or say that there is none.

    Rows that it refuses or mends: `bad_input.md`.
    """

    name = "question-answering"
    Options = QuestionAnsweringOptions
    rows_view = _AnswersView()
    columns = {
        "question": Column("the question", kind="text"),
        "context": Column("the text that the answer is a part of", kind="text"),
        "answers": Column(
            'SQuAD\'s {"text": [...], "answer_start": [...]}, both empty when there is no answer; also [{text, '
            "answer_start}], texts or one text, which starts where the context has it first",
            target=True,
            kind="answers",
        ),
    }
    state_types: ClassVar[Mapping[str, Any]] = {
        "token_changes": dict[str, Any],
        "no_answer": bool,
        "inputs": text.InputNames,
    }

    @classmethod
    @override
    def learn(cls, rows: Any, bases: Mapping[str, Base], options: QuestionAnsweringOptions) -> State:
        may_be_absent = options.no_answer
        if may_be_absent is None:
            may_be_absent = rows is not None and any(not read_answers(row, index) for index, row in enumerate(rows))
        texts = text.column_texts(rows, ("question", "context"))
        return text.learn_text_state(bases["base"], texts, options.tokenizer, {"no_answer": may_be_absent})

    def __init__(self, bases: Mapping[str, Base], options: QuestionAnsweringOptions, state: State) -> None:
        super().__init__(bases, options, state)
        self.text = text.TextInputs.from_state(state, self.base, options.max_length)
        self.length = options.max_length or min(384, self.text.max_length or 384)

    @override
    def build(self, weights: bool = True) -> nn.Module:
        changes = self.state.values["token_changes"]
        model = self.base.native(AUTO, weights=weights, **changes)
        if model is not None:
            return model
        from topwork.task_heads import SpanHead

        return SpanHead(self.base.backbone(weights=weights, **changes))

    # ------------------------------------------------------------------ rows -> tensors

    @override
    def precheck(self, row: Row, mode: Mode) -> bool:
        self.text.precheck(row, "question", "context")
        return not row["context"].strip()

    @override
    def encode(self, rows: Sequence[Row], mode: Mode, seed: int) -> list[Item]:
        questions = [self.text.open(row, index, "question") for index, row in enumerate(rows)]
        contexts = [self.text.open(row, index, "context") for index, row in enumerate(rows)]
        for index, context in enumerate(contexts):
            if not context.strip():
                raise DataError("is empty", row=index, column="context", hint="leave the row out")
        if not rows:
            return []
        items = []
        by_row = self.text.context_windows(questions, contexts, self.length, self.options.stride)
        for index, (row, row_windows) in enumerate(zip(rows, by_row)):
            answers = read_answers(row, index) if mode != "predict" else []
            for window in row_windows:
                inputs: dict[str, Any] = dict(window.inputs)
                if mode != "predict":
                    span = None
                    if answers:
                        answer, start = answers[0]
                        span = span_in(window, *trim_span(row["context"], start, start + len(answer)))
                    inputs["span"] = span or (window.null, window.null)
                extra = (window.first, window.offsets, window.null)
                items.append(Item(index, inputs, len(inputs["input_ids"]), extra))
        return items

    @override
    def collate(self, items: Sequence[Item], mode: Mode) -> Batch:
        import torch

        inputs = self.text.collate(items)
        if mode != "predict":
            spans = torch.tensor([item.inputs["span"] for item in items], dtype=torch.long)
            spans = spans + torch.tensor([[self._shift(item, inputs)] for item in items])
            inputs["start_positions"], inputs["end_positions"] = spans.unbind(-1)
        return Batch(inputs, items)

    def _shift(self, item: Item, inputs: Mapping[str, torch.Tensor]) -> int:
        """Return the number of padding tokens before an item's first token."""
        return self.text.padding_before(item, inputs["input_ids"].shape[1])

    # ------------------------------------------------------------------ tensors -> numbers

    @override
    def output_kinds(self) -> dict[str, OutputKind]:
        return {"start_logits": "positions", "end_logits": "positions"}

    @override
    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return self._losses(model, batch).mean()

    @override
    def row_losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        if self.single_row_losses:
            return super().row_losses(model, batch)
        return batch.mean_by_row(self._losses(model, batch))

    @property
    @override
    def single_row_losses(self) -> bool:
        # padding before a text moves its tokens to other positions
        return self.tokenizer.padding_side == "left"

    def _losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the mean of the cross-entropies of first and last token (Devlin et al. 2019, section 4.2): [items].

        transformers' own loss counts padding among the positions where an answer could be, so it depends on the other
        items of the batch; here padding is left out.
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

    @override
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

    @override
    def merge(self, row: Row, parts: Sequence[Mapping[str, Any]]) -> Any:
        null = min(part["null"] for part in parts) if self.state.values["no_answer"] else None
        spans = [span for part in parts for span in part["spans"]]
        answers = rank_answers(row["context"], spans, null, self.options.n_best, self.options.null_threshold)
        return answers[0] if self.options.top_k == 1 else answers[: self.options.top_k]

    # ------------------------------------------------------------------ predictions -> readers

    @override
    def metric(self) -> Metric:
        return SquadMetric(self.options.punctuation, self.options.normalise)

    @override
    def draw(self, row: Row, prediction: Any) -> Picture:
        best = prediction[0] if isinstance(prediction, list) else prediction
        truths = None if row.get("answers") is None else answer_texts(row, None)
        metric = self.metric()
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
        truth = "unknown" if truths is None else (truths[0] if truths else "no answer")
        pieces += [(" ", ""), (truth, "truth")] if truths is not None else []
        caption = f"predicted {best['answer'] or 'no answer'!r}, truth {truth!r}"
        facts = {"truth": truth, "prediction": best["answer"] or "no answer", "confidence": best["score"]}
        shown = [piece for piece in pieces if piece[0]]
        return Picture(caption, badness, None, shown, facts=facts, measure="1 − F1 of the answer's words")

    @classmethod
    @override
    def example_rows(cls) -> list[Row]:
        return answer_examples()
