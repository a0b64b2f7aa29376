"""text-generation: a causal language model, trained on texts, on completions of prompts, or on chats.

A row has `text`, or `prompt` and `completion`, or `messages` (`[{"role", "content"}, ...]`, by the tokenizer's chat
template or the option `chat_template`); of several, messages go first, then prompts. The loss is on the completion and
on the assistant's turns only. Predicting, a prompt is continued by `generate`; a `text` is only scored (perplexity),
unless `continue_text` is set. Predictions have the shape of the Hub's pipeline: [{"generated_text"}], prompt included
unless `return_full_text: false`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from topwork import (
    Base,
    BaseOptions,
    Batch,
    Column,
    Item,
    Metric,
    Mode,
    Picture,
    Row,
    RowsView,
    State,
    Task,
    Units,
    UsageError,
)
from topwork_tasks._text import generation
from topwork_tasks._text import inputs as text
from topwork_tasks.text_generation import prompts
from topwork_tasks.text_generation.examples import generation_examples
from topwork_tasks.text_generation.metric import GeneratedText, LanguageMetric, causal_token_losses, draw_text
from topwork_tasks.text_generation.options import TextGenerationOptions

if TYPE_CHECKING:
    import torch
    from torch import nn

AUTO = "AutoModelForCausalLM"


class _TextsView(RowsView):
    """Chats with their speakers; rows that are neither a text, nor a prompt, nor a chat are refused."""

    @override
    def preview(self, row: Row, options: Any) -> Picture:
        if row.get("messages") is None or not prompts.is_well_formed(row):
            return super().preview(row, options)
        turns = [(str(message["content"])[:300], str(message["role"])) for message in row["messages"][:8]]
        pieces = [piece for turn in turns for piece in (turn, ("\n", ""))]
        return Picture(f"{len(row['messages'])} messages", text=pieces)

    @override
    def check(self, row: Row, options: Any, *, whole: bool) -> None:
        prompts.check_types(row, None)


class TextGeneration(Task):
    """Continue texts, complete prompts, answer messages.

    Rows that it refuses or mends: `bad_input.md`.
    """

    name = "text-generation"
    Options = TextGenerationOptions
    columns = {
        "text": Column(
            "a text to learn or score; of a .txt file a line, or with `options: {sample_by: paragraph}` a paragraph",
            required=False,
            kind="text",
        ),
        "prompt": Column("the beginning of a text that is to be continued", required=False, kind="text", single=True),
        "completion": Column("the continuation of the prompt", target=True, required=False, kind="text"),
        "messages": Column('a chat: [{"role", "content"}, ...]', required=False, kind="messages"),
    }
    rows_view = _TextsView()
    cost_unit = "tokens"
    state_types: ClassVar[Mapping[str, Any]] = {"token_changes": dict[str, Any], "compare": bool}

    @classmethod
    @override
    def recipe_problems(
        cls, options: Any, bases: Mapping[str, BaseOptions], columns: Collection[str], stages: Sequence[str]
    ) -> Sequence[tuple[str, str]]:
        base = bases.get("base")
        has_template = options.chat_template is not None or base is None or base.config is None or base.processor
        if "messages" in columns and not has_template:
            return [("data.columns.messages", f"a base from a config has no chat template: {prompts.TEMPLATE_HINT}")]
        return ()

    @classmethod
    @override
    def learn(cls, rows: Any, bases: Mapping[str, Base], options: TextGenerationOptions) -> State:
        base = bases["base"]
        tokenizer, changes = text.find_tokenizer(base, prompts.row_texts(rows), options.tokenizer, template=False)
        if options.chat_template is not None:
            tokenizer.chat_template = options.chat_template
        if getattr(base.config, "is_decoder", None) is False:
            changes["is_decoder"] = True  # bert and its like would see the tokens that they are to predict
        first: Row = next(iter(rows), {}) if rows is not None else {}
        if first.get("messages") is not None:
            prompts.check_template(tokenizer)
        compare = not prompts.is_plain(first)
        return State({"token_changes": changes, "compare": compare}, {"tokenizer": tokenizer})

    def __init__(self, bases: Mapping[str, Base], options: TextGenerationOptions, state: State) -> None:
        super().__init__(bases, options, state)
        self.tokenizer = state.processors["tokenizer"]
        limit = text.length_limit(self.base.config, self.tokenizer, options.max_length)
        self.length = options.max_length or min(1024, limit or 1024)
        self.positions = text.length_limit(self.base.config, self.tokenizer, None)
        new, default = options.generation.max_new_tokens, generation.GenerationOptions().max_new_tokens
        self.new = generation.length_behind_prompt("generation.max_new_tokens", new, default, self.positions)
        self.group_rows = 64 if options.packing else 1

    @override
    def build(self, weights: bool = True) -> nn.Module:
        model = self.base.native(AUTO, weights=weights, **self.state.values["token_changes"])
        if model is None:
            raise UsageError(
                f"`{self.base.config.model_type}` has no causal language model",
                hint="choose a base such as gpt2 or llama",
            )
        return model

    # ------------------------------------------------------------------ rows -> tensors

    @override
    def precheck(self, row: Row, mode: Mode) -> bool:
        return mode == "predict" and not prompts.is_well_formed(row)  # a row without a completion can be continued

    def encode(self, rows: Sequence[Row], mode: Mode, seed: int) -> list[Item]:
        """Mode "predict" keeps two encodings: the prompt alone to be continued, and prompt with target to be scored."""
        encoded = [prompts.encode_row(self.tokenizer, row, index, mode != "predict") for index, row in enumerate(rows)]
        packed = self._packed(rows, mode)
        items = []
        for index, block in prompts.pack([encoded[index] for index in packed], self.length) if packed else ():
            items.append(_item(packed[index], block))
        for index in sorted({*range(len(rows))} - {*packed}):
            prompt = None
            if mode == "predict" and (self.options.continue_text or not prompts.is_plain(rows[index])):
                prompt = self._prompt(prompts.continued_tokens(rows[index], encoded[index]))
            for block in prompts.blocks(encoded[index], self.length):
                items.append(_item(index, block, prompt, self.new))
                prompt = None  # the first block is continued for the row
        return items

    def _packed(self, rows: Sequence[Row], mode: Mode) -> list[int]:
        """Return the indices of the rows that share blocks: all in training, in predictions those that are only scored.

        In mode "loss" each row has a loss of its own.
        """
        if not self.options.packing or mode == "loss" or (mode == "predict" and self.options.continue_text):
            return []
        return [index for index, row in enumerate(rows) if mode == "train" or prompts.is_plain(row)]

    def _prompt(self, ids: Sequence[int]) -> list[int]:
        """Return the last tokens of a prompt, so that there is room for the new text; at least one token."""
        if ids:
            return list(ids if self.positions is None else ids[-(self.positions - self.new) :])
        start = self.tokenizer.bos_token_id
        return [self.tokenizer.eos_token_id if start is None else start]

    @override
    def collate(self, items: Sequence[Item], mode: Mode) -> Batch:
        pad = self.tokenizer.pad_token_id
        inputs: dict[str, Any] = {
            "input_ids": text.pad_lists([item.inputs["ids"] for item in items], pad),
            "attention_mask": text.pad_lists([[1] * len(item.inputs["ids"]) for item in items], 0),
            "labels": text.pad_lists([item.inputs["labels"] for item in items], -100),
        }
        to_continue = [item.inputs["prompt"] for item in items if item.inputs.get("prompt")]
        if to_continue:
            inputs["prompt"] = {
                "input_ids": text.pad_lists(to_continue, pad, "left"),
                "attention_mask": text.pad_lists([[1] * len(ids) for ids in to_continue], 0, "left"),
            }
        return Batch(inputs, items)

    @override
    def cost_budget(self, device: str) -> int | None:
        return 1024 if device == "cpu" else 16384

    # ------------------------------------------------------------------ tensors -> numbers

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the nats per token over all targets of the batch, as transformers' own loss."""
        nll, count, _ = self._losses(model, batch)
        return text.mean_over_targets(nll, count)

    @override
    def target_counts(self, batch: Batch) -> tuple[torch.Tensor]:
        return ((batch.inputs["labels"][:, 1:] != -100).sum(),)

    @override
    def row_losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        nll, count, _ = self._losses(model, batch)
        mean, tokens = batch.mean_by_row(nll), batch.mean_by_row(count.to(nll.dtype))
        return mean / tokens.clamp(min=1e-9) * (tokens > 0)

    def _losses(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        inputs = text.plain_inputs(batch.inputs, "labels", "prompt")
        return causal_token_losses(model(**inputs).logits, batch.inputs["labels"])

    @override
    def predict(self, model: nn.Module, batch: Batch) -> list[dict[str, Any]]:
        if bool((batch.inputs["labels"][:, 1:] != -100).any()):
            scored = [values.tolist() for values in self._losses(model, batch)]
        else:
            scored = [[0] * len(batch)] * 3
        parts = [{"nll": float(nll), "tokens": count, "hits": hits} for nll, count, hits in zip(*scored)]
        if "prompt" in batch.inputs:
            module, options = generation.causal_module(model), self.options.generation
            first_row = batch.items[0].row
            sequences = generation.generate_continuations(
                module, self.tokenizer, batch.inputs["prompt"], options, self.new, first_row
            )
            continued = [index for index, item in enumerate(batch.items) if item.inputs.get("prompt")]
            for index, ids in zip(continued, sequences):
                prompt = batch.items[index].inputs["prompt"]
                parts[index]["completion"] = generation.continuation(self.tokenizer, prompt, ids, options.stop)
        return parts

    def stream(self, model: nn.Module, row: Row) -> Iterator[str]:
        """Yield the new text of one row, piece by piece while the model writes it; joined, the row's completion.

        (Predictions of many rows come one by one from `TaskModel.predictions`.)
        """
        from topwork_tasks.text_generation.streaming import stream

        encoded = prompts.encode_row(self.tokenizer, row, 0, False)
        ids = text.pad_lists([self._prompt(prompts.continued_tokens(row, encoded))], self.tokenizer.pad_token_id)
        ids = ids.to(next(model.parameters()).device)
        model.eval()
        inputs = {"input_ids": ids, "attention_mask": ids.new_ones(ids.shape)}
        return stream(generation.causal_module(model), self.tokenizer, inputs, self.options.generation, self.new)

    @override
    def merge(self, row: Row, parts: Sequence[Mapping[str, Any]]) -> GeneratedText:
        completion = parts[0].get("completion") if parts else None
        shown = prompts.full_text(row, completion or "") if self.options.return_full_text else completion or ""
        return GeneratedText.of_parts(shown, completion, parts)

    # ------------------------------------------------------------------ predictions -> readers

    @override
    def metric(self) -> Metric:
        options = self.options
        packed = options.packing and not options.continue_text
        context = f"texts packed into blocks of {self.length} tokens" if packed else "single texts"
        return LanguageMetric(
            self.state.values["compare"], prompts.reference, options.bleu_tokenizer, options.normalise, context
        )

    @override
    def units(self, item: Item) -> Units:
        return text.token_units(self.tokenizer, item.inputs["ids"])

    @override
    def draw(self, row: Row, prediction: Any) -> Picture:
        question: Any = "\n".join(prompts.contents(row)) or row.get("prompt") or row.get("text")
        return draw_text(question, prediction, prompts.reference(row))

    @classmethod
    @override
    def example_rows(cls) -> list[Row]:
        return generation_examples()


def _item(row: int, block: prompts.EncodedRow, prompt: list[int] | None = None, new: int = 0) -> Item:
    cost = max(len(block.ids), len(prompt) + new if prompt else 0)
    return Item(row, {"ids": block.ids, "labels": block.labels, "prompt": prompt}, cost)
