"""fill-mask: the words behind masks in a text; masked language modelling, from scratch too.

The native `AutoModelForMaskedLM`. Training draws the masks anew in every epoch; evaluation draws them from the row
itself, so they are the same in every run. A text that holds masks already is a question: it is answered in the shape of
the Hub's pipeline (a list of tokens; with several masks a list of lists), and learned only with its `answer`. A text
without masks is scored: the masks that were drawn are filled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, PositiveInt, model_validator

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
    UsageError,
    hookimpl,
)
from topwork_tasks._text import inputs as text
from topwork_tasks._text import spans
from topwork_tasks.fill_mask import masking

if TYPE_CHECKING:
    import torch
    from torch import nn

AUTO = "AutoModelForMaskedLM"


class FillMaskOptions(TaskOptions):
    """Options of fill-mask."""

    mask: str = Field("[MASK]", description="what stands for a mask in the data, beside the tokenizer's own mask token")
    share: float = Field(0.15, gt=0, le=1, description="of the tokens of a text that are masked")
    kept: float = Field(0.1, ge=0, le=1, description="share of the chosen tokens that stay as they are")
    random: float = Field(0.1, ge=0, le=1, description="share of the chosen tokens that become another token")
    whole_words: bool = Field(False, description="mask all tokens of a word together")
    top_k: PositiveInt = Field(5, description="tokens in a prediction, for each mask")
    targets: list[str] | None = Field(None, description="predict these tokens only")
    max_length: PositiveInt | None = Field(None, description="tokens of a window; by default what the model can take")
    tokenizer: text.TokenizerOptions = Field(
        default_factory=lambda: text.TokenizerOptions(), description="to learn one, when the base is a config"
    )

    @model_validator(mode="after")
    def _shares(self) -> FillMaskOptions:
        if self.kept + self.random > 1:
            raise ValueError("`kept` and `random` are shares of the same tokens: together they are 1 at most")
        return self


class FillMask(Task):
    """Say what stands behind the masked tokens of a text.

    Rows that it refuses or mends: `bad_input.md`.
    """

    name = "fill-mask"
    Options = FillMaskOptions
    columns = {
        "text": Column("a text, with or without masks"),
        "answer": Column("what belongs in the text's masks: a token, or one for each", target=True, required=False),
    }
    cost_unit = "tokens"
    repeatable = False

    @classmethod
    def learn(cls, rows: Any, bases: Mapping[str, Base], options: FillMaskOptions) -> State:
        base = bases["base"]
        tokenizer, changes = text.find_tokenizer(base, _texts(rows), options.tokenizer)
        if tokenizer.mask_token_id is None:
            raise UsageError("the tokenizer has no mask token", hint="choose a base such as bert or roberta")
        masking.target_ids(tokenizer, options.targets)
        return State({"token_changes": changes, "inputs": text.model_inputs(base, tokenizer)}, {"tokenizer": tokenizer})

    def __init__(self, bases: Mapping[str, Base], options: FillMaskOptions, state: State) -> None:
        super().__init__(bases, options, state)
        self.inputs: list[str] = state.values["inputs"]
        self.tokenizer = state.processors["tokenizer"]
        self.max_length = text.length_limit(self.base.config, self.tokenizer, options.max_length)
        self.target_ids = masking.target_ids(self.tokenizer, options.targets)
        special = set(self.tokenizer.all_special_ids)
        self.ordinary = [number for number in range(len(self.tokenizer)) if number not in special]

    def build(self, weights: bool = True) -> nn.Module:
        found = self.base.native(AUTO, weights=weights, **self.state.values["token_changes"])
        if found is None:
            raise UsageError(
                f"`{self.base.config.model_type}` has no task head for masked language modelling",
                hint="choose a base such as bert, roberta, modernbert",
            )
        return found

    # ------------------------------------------------------------------ rows -> tensors

    def precheck(self, row: Row, mode: Mode) -> bool:
        # the answers to masks have much that can be wrong; for whom they are missing, there is nothing to learn
        return self.options.mask in text.text_of(row, 0, "text") and mode == "predict"

    def encode(self, rows: Sequence[Row], mode: Mode, seed: int) -> list[Item]:
        own = self.tokenizer.mask_token
        texts = [text.text_of(row, number, "text").replace(self.options.mask, own) for number, row in enumerate(rows)]
        items: list[Item] = []
        for number, windows in enumerate(spans.pieces(self.tokenizer, texts, self.inputs, self.max_length, 0)):
            asked = sum(piece.inputs["input_ids"].count(self.tokenizer.mask_token_id) for piece in windows)
            answers = self._answers(rows[number], number, asked, mode)
            chance = seed if mode == "train" else 0
            items.extend(self._item(number, piece, asked, answers, chance) for piece in windows)
        return items

    def _answers(self, row: Row, number: int, asked: int, mode: Mode) -> list[int] | None:
        """The tokens behind the masks of a text, or None when they are not known or it has none."""
        given = row.get("answer")
        answers = [given] if isinstance(given, str) else given or []
        hint = "give one answer for each mask"
        if not isinstance(answers, list | tuple) or not all(isinstance(answer, str) for answer in answers):
            raise DataError(f"{given!r} is no text, nor a list of them", row=number, column="answer", hint=hint)
        if asked and given is None:
            if mode == "predict":
                return None
            raise DataError("is missing: the text has masks", row=number, column="answer", hint=hint)
        if len(answers) != asked:
            raise DataError(f"has {len(answers)} answers to {asked} masks", row=number, column="answer", hint=hint)
        found = []
        for answer in answers:
            token = masking.token_id(self.tokenizer, answer)
            if token is None:
                raise DataError(
                    f"{answer!r} is no single token", row=number, column="answer", hint="leave the row out or reword it"
                )
            found.append(token)
        return found

    def _item(self, number: int, piece: spans.Piece, asked: int, answers: list[int] | None, seed: int) -> Item:
        """Masks, and -100 wherever nothing is to be learned; `answers` loses those of this window."""
        ids = piece.inputs["input_ids"]
        labels = [-100] * len(ids)
        changed = ids
        if asked:
            places = [place for place, token in enumerate(ids) if token == self.tokenizer.mask_token_id]
            for place in places if answers is not None else ():
                labels[place] = answers.pop(0) if answers else -100
        else:
            draw = masking.generator(seed, ids)
            groups = [[place] for place in piece.places]
            if self.options.whole_words:
                groups = masking.word_groups(self.tokenizer, piece)
            places = masking.choose(groups, self.options.share, draw)
            for place in places:
                labels[place] = ids[place]
            options = self.options
            changed = masking.corrupt(
                ids, places, self.tokenizer.mask_token_id, self.ordinary, options.kept, options.random, draw
            )
        inputs = {**piece.inputs, "input_ids": changed, "labels": labels}
        return Item(number, inputs, len(ids), places)

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
        """Sum of the cross-entropy over the masks of each item, and their number; both [items]."""
        from torch.nn.functional import cross_entropy

        labels = batch.inputs["labels"]
        rows, places = (labels != -100).nonzero(as_tuple=True)
        logits = masking.logits_at(model, text.plain_inputs(batch.inputs, "labels"), rows, places).float()
        losses = cross_entropy(logits, labels[rows, places], reduction="none")
        sums = losses.new_zeros(len(labels)).index_add(0, rows, losses)
        return sums, (labels != -100).sum(1).to(losses.dtype)

    def predict(self, model: nn.Module, batch: Batch) -> list[Any]:
        """For each item, for each of its masks: (probabilities, tokens) of the best, the negative log probability of
        the truth or None, and whether the best is the truth; and the item's own tokens."""
        import torch

        inputs = text.plain_inputs(batch.inputs, "labels")
        length = inputs["input_ids"].shape[1]
        shifts = [length - len(item.inputs["input_ids"]) for item in batch.items]
        if self.tokenizer.padding_side != "left":
            shifts = [0] * len(shifts)
        masks = [(row, place + shifts[row]) for row, item in enumerate(batch.items) for place in item.extra]
        rows, places = torch.tensor(masks, dtype=torch.long, device=inputs["input_ids"].device).reshape(-1, 2).unbind(1)
        found = masking.logits_at(model, inputs, rows, places).float().log_softmax(-1)
        chosen = found if self.target_ids is None else found[:, self.target_ids]
        values, tokens = chosen.exp().topk(min(self.options.top_k, chosen.shape[-1]), dim=-1)
        if self.target_ids is not None:
            tokens = torch.tensor(self.target_ids, device=tokens.device)[tokens]
        labels = [item.inputs["labels"][place] for item in batch.items for place in item.extra]
        truths = torch.tensor(labels, dtype=torch.long, device=found.device).clamp(min=0)
        nll, right = -found.gather(1, truths[:, None])[:, 0], found.argmax(-1) == truths
        judged = zip(values.tolist(), tokens.tolist(), zip(nll.tolist(), right.tolist()), labels)
        return [_part(item, [next(judged) for _ in item.extra]) for item in batch.items]

    def merge(self, row: Row, parts: Sequence[Any]) -> masking.FilledMasks:
        made = masking.FilledMasks()
        made.scores = [score for part in parts for score in part[2]]
        single = sum(len(part[4]) for part in parts) == 1
        for values, tokens, _, ids, places in parts:
            for place, chances, choices in zip(places, values, tokens):
                filled = [masking.filled(self.tokenizer, ids, place, *pair, single) for pair in zip(choices, chances)]
                made.append(filled)
        made.best = [entries[0]["token_str"] for entries in made]
        if single:
            made[:] = made[0]
        return made

    # ------------------------------------------------------------------ numbers -> people

    def metric(self) -> Metric:
        return masking.MaskMetric()

    def units(self, item: Item) -> Units:
        return text.token_units(self.tokenizer, item.inputs["input_ids"])

    def draw(self, row: Row, prediction: Any) -> Picture:
        scores = prediction.scores
        wrong = sum(not right for _, right in scores) / len(scores) if scores else 0.0
        shown = [(row["text"], ""), (" -> ", ""), (", ".join(prediction.best), "wrong" if wrong else "right")]
        if row.get("answer") is not None:
            told = row["answer"] if isinstance(row["answer"], str) else ", ".join(row["answer"])
            shown.append((f" {told}", "truth"))
        caption = f"{', '.join(prediction.best) or 'no masks'}: {row['text']}"
        return Picture(caption[:300], wrong, text=[pair for pair in shown if pair[0]])

    @classmethod
    def example_rows(cls) -> list[Row]:
        asked = [
            ("the red fox ran over the [MASK] hill", "green"),
            ("the [MASK] fox ran over the green hill", "red"),
            ("the blue bird sat on the green [MASK]", "hill"),
            ("a [MASK] bird sat on the red hill", "blue"),
        ]
        plain = [
            "the red fox ran over the green hill",
            "a blue bird sat on the red hill",
            "the green bird ran over the blue fox",
            "a red fox sat on the green bird",
        ]
        return [{"text": said, "answer": answer} for said, answer in asked] + [
            {"text": said, "answer": None} for said in plain
        ]


def _texts(rows: Any) -> Any:
    return text.column_texts(rows, ("text",))


def _part(item: Item, judged: Sequence[tuple]) -> tuple:
    """What `FillMask.predict` answers for an item, from what is known of each of its masks."""
    values, tokens = [entry[0] for entry in judged], [entry[1] for entry in judged]
    scores = [score for _, _, score, label in judged if label != -100]
    return values, tokens, scores, item.inputs["input_ids"], item.extra


@hookimpl
def register_tasks() -> list[type[Task]]:
    return [FillMask]
