"""fill-mask: the words behind masks in a text; masked language modelling, from scratch too.

The native `AutoModelForMaskedLM`. Training draws the masks anew in every epoch; evaluation draws them from the row
itself, so they are the same in every run. A text with masks is answered in the shape of the Hub's pipeline (a list of
tokens; with several masks a list of lists), and learned only with its `answer`. A text without masks is scored: the
masks that were drawn are filled, and each says with `start` and `end` which characters it hides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from topwork import Base, Batch, Column, Item, Metric, Mode, Picture, Row, State, UsageError
from topwork_tasks._text import inputs as text
from topwork_tasks._text.text_task import TokenTargetTask
from topwork_tasks._text.windows import TextWindow
from topwork_tasks.fill_mask import masking
from topwork_tasks.fill_mask.examples import masked_examples
from topwork_tasks.fill_mask.options import FillMaskOptions

if TYPE_CHECKING:
    import torch
    from torch import nn

AUTO = "AutoModelForMaskedLM"


class FillMask(TokenTargetTask):
    """Say what stands behind the masked tokens of a text.

    Rows that it refuses or mends: `bad_input.md`.
    """

    name = "fill-mask"
    Options = FillMaskOptions
    columns = {
        "text": Column("a text, with or without masks", kind="text"),
        "answer": Column(
            "what belongs in the text's masks: a token, or one for each", target=True, required=False, kind="text"
        ),
    }
    state_types: ClassVar[Mapping[str, Any]] = {"token_changes": dict[str, Any], "inputs": text.InputNames}
    repeatable = False

    @classmethod
    @override
    def learn(cls, rows: Any, bases: Mapping[str, Base], options: FillMaskOptions) -> State:
        state = text.learn_text_state(bases["base"], text.column_texts(rows, ("text",)), options.tokenizer)
        tokenizer = state.processors["tokenizer"]
        if tokenizer.mask_token_id is None:
            raise UsageError("the tokenizer has no mask token", hint="choose a base such as bert or roberta")
        masking.restricted_ids(tokenizer, options.targets)
        return state

    def __init__(self, bases: Mapping[str, Base], options: FillMaskOptions, state: State) -> None:
        super().__init__(bases, options, state)
        self.text = text.TextInputs.from_state(state, self.base, options.max_length)
        self.target_ids = masking.restricted_ids(self.tokenizer, options.targets)
        special = set(self.tokenizer.all_special_ids)
        self.ordinary = [token for token in range(len(self.tokenizer)) if token not in special]

    @override
    def build(self, weights: bool = True) -> nn.Module:
        model = self.base.native(AUTO, weights=weights, **self.state.values["token_changes"])
        if model is None:
            raise UsageError(
                f"`{self.base.config.model_type}` has no task head for masked language modelling",
                hint="choose a base such as bert, roberta, modernbert",
            )
        return model

    # ------------------------------------------------------------------ rows -> tensors

    @override
    def precheck(self, row: Row, mode: Mode) -> bool:
        # the answers to masks have much that can be wrong; rows without them have nothing to learn
        return self.options.mask in self.text.open(row, 0) and mode == "predict"

    @override
    def encode(self, rows: Sequence[Row], mode: Mode, seed: int) -> list[Item]:
        mask = self.tokenizer.mask_token
        texts = [self.text.open(row, index).replace(self.options.mask, mask) for index, row in enumerate(rows)]
        items: list[Item] = []
        if mode == "predict":
            for index, string in enumerate(texts):
                masking.check_foreign_mask(string, mask, index)
        for index, windows in enumerate(self.text.windows(texts, 0)):
            count = sum(window.inputs["input_ids"].count(self.tokenizer.mask_token_id) for window in windows)
            answers = masking.answer_tokens(self.tokenizer, rows[index], index, count, mode)
            chance = seed if mode == "train" else 0
            items.extend(self._item(index, window, count > 0, answers, chance) for window in windows)
        return items

    def _item(self, row: int, window: TextWindow, has_masks: bool, answers: list[int] | None, seed: int) -> Item:
        """Make an item of a window; `answers` loses those of its masks. Labels are -100 where nothing is learned."""
        ids = window.inputs["input_ids"]
        labels = [-100] * len(ids)
        changed = ids
        spans = None
        if has_masks:
            positions = [position for position, token in enumerate(ids) if token == self.tokenizer.mask_token_id]
            for position in positions if answers is not None else ():
                labels[position] = answers.pop(0) if answers else -100
        else:
            draw = masking.generator(seed, ids)
            groups = [[position] for position in window.positions]
            if self.options.whole_words:
                groups = masking.word_groups(self.tokenizer, window)
            positions = masking.choose(groups, self.options.share, draw)
            offsets = dict(zip(window.positions, window.offsets))
            spans = [offsets[position] for position in positions]
            for position in positions:
                labels[position] = ids[position]
            kept, random = self.options.kept, self.options.random
            mask = self.tokenizer.mask_token_id
            changed = masking.corrupt(ids, positions, mask, self.ordinary, kept, random, draw)
        inputs = {**window.inputs, "input_ids": changed, "labels": labels}
        return Item(row, inputs, len(ids), (positions, spans))

    # ------------------------------------------------------------------ tensors -> numbers

    @override
    def token_losses(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sum of the cross-entropy over the masks of each item, and their number; both [items]."""
        from torch.nn.functional import cross_entropy

        labels = batch.inputs["labels"]
        rows, positions = (labels != -100).nonzero(as_tuple=True)
        logits = masking.logits_at(model, text.plain_inputs(batch.inputs, "labels"), rows, positions).float()
        losses = cross_entropy(logits, labels[rows, positions], reduction="none")
        sums = losses.new_zeros(len(labels)).index_add(0, rows, losses)
        return sums, (labels != -100).sum(1).to(losses.dtype)

    def predict(self, model: nn.Module, batch: Batch) -> list[tuple]:
        """Return for each item the entries of its masks (see `masking.mask_entries`) and its tokens."""
        import torch

        inputs = text.plain_inputs(batch.inputs, "labels")
        length = inputs["input_ids"].shape[1]
        shifts = [self.text.padding_before(item, length) for item in batch.items]
        masks = [(row, position + shifts[row]) for row, item in enumerate(batch.items) for position in item.extra[0]]
        device = inputs["input_ids"].device
        rows, positions = torch.tensor(masks, dtype=torch.long, device=device).reshape(-1, 2).unbind(1)
        scores = masking.logits_at(model, inputs, rows, positions).float().log_softmax(-1)
        restricted = scores if self.target_ids is None else scores[:, self.target_ids]
        values, tokens = restricted.exp().topk(min(self.options.top_k, restricted.shape[-1]), dim=-1)
        if self.target_ids is not None:
            tokens = torch.tensor(self.target_ids, device=tokens.device)[tokens]
        labels = [item.inputs["labels"][position] for item in batch.items for position in item.extra[0]]
        truths = torch.tensor(labels, dtype=torch.long, device=device).clamp(min=0)
        nll, right = -scores.gather(1, truths[:, None])[:, 0], scores.argmax(-1) == truths
        judged = zip(values.tolist(), tokens.tolist(), zip(nll.tolist(), right.tolist()), labels)
        return [(masking.mask_entries(item, judged), item.inputs["input_ids"]) for item in batch.items]

    @override
    def merge(self, row: Row, parts: Sequence[Any]) -> masking.FilledMasks:
        return masking.filled_masks(self.tokenizer, parts)

    # ------------------------------------------------------------------ predictions -> readers

    @override
    def metric(self) -> Metric:
        return masking.MaskedTokenMetric()

    @override
    def draw(self, row: Row, prediction: Any) -> Picture:
        return masking.draw_masks(row, prediction)

    @classmethod
    @override
    def example_rows(cls) -> list[Row]:
        return masked_examples()
