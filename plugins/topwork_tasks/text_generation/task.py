"""text-generation: a causal language model, trained on texts, on completions of prompts, or on chats.

A row has `text`, or `prompt` and `completion`, or `messages` (`[{"role", "content"}, ...]`, by the tokenizer's chat
template); of several, messages go first, then prompts. The loss is on the completion and on what the assistant says
only. Predicting, a prompt is continued by `generate`; a `text` is only scored (perplexity), unless `continue_text` is
set. Predictions have the shape of the Hub's pipeline: [{"generated_text"}], prompt included unless `return_full_text:
false`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, PositiveInt

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
    UsageError,
    hookimpl,
)
from topwork_tasks._text import generation as generating
from topwork_tasks._text import inputs as text
from topwork_tasks._text.tokenizers import WritingTokenizerOptions
from topwork_tasks.text_generation.prompts import (
    Encoded,
    blocks,
    contents,
    encode_row,
    is_plain,
    pack,
    reference,
    well_formed,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

AUTO = "AutoModelForCausalLM"


class TextGenerationOptions(TaskOptions):
    """Options of text-generation."""

    max_length: PositiveInt | None = Field(None, description="tokens of a block; by default at most 1024")
    packing: bool = Field(
        False,
        description="training: join rows, with an end token between, into full blocks; a row sees those before it",
    )
    continue_text: bool = Field(False, description="predicting: take `text` for a prompt")
    return_full_text: bool = Field(True, description="the prompt is part of `generated_text`")
    generation: generating.GenerationOptions = Field(
        default_factory=lambda: generating.GenerationOptions(), description="how texts are generated"
    )
    tokenizer: WritingTokenizerOptions = Field(
        default_factory=lambda: WritingTokenizerOptions(),
        description="to learn one, when the base is a config",
    )


class TextGeneration(Task):
    """Continue texts, complete prompts, answer messages.

    Rows that it refuses or mends: `bad_input.md`.
    """

    name = "text-generation"
    Options = TextGenerationOptions
    columns = {
        "text": Column("a text to learn or score", required=False),
        "prompt": Column("what is to be continued", required=False),
        "completion": Column("how the prompt goes on", target=True, required=False),
        "messages": Column('a chat: [{"role", "content"}, ...]', required=False),
    }
    cost_unit = "tokens"

    @classmethod
    def learn(cls, rows: Any, bases: Mapping[str, Base], options: TextGenerationOptions) -> State:
        base = bases["base"]
        tokenizer, changes = text.find_tokenizer(base, _texts(rows), options.tokenizer, template=False)
        if getattr(base.config, "is_decoder", None) is False:
            changes["is_decoder"] = True  # bert and its like would see the tokens that they are to predict
        first: Row = next(iter(rows), {}) if rows is not None else {}
        compare = not is_plain(first)
        return State({"token_changes": changes, "compare": compare}, {"tokenizer": tokenizer})

    def __init__(self, bases: Mapping[str, Base], options: TextGenerationOptions, state: State) -> None:
        super().__init__(bases, options, state)
        self.tokenizer = state.processors["tokenizer"]
        limit = text.length_limit(self.base.config, self.tokenizer, options.max_length)
        self.length = options.max_length or min(1024, limit or 1024)
        self.positions = text.length_limit(self.base.config, self.tokenizer, None)
        self.new = options.generation.max_new_tokens
        if self.positions is not None:
            self.new = min(self.new, self.positions - self.positions // 2)
        self.group_rows = 64 if options.packing else 1

    def build(self, weights: bool = True) -> nn.Module:
        found = self.base.native(AUTO, weights=weights, **self.state.values["token_changes"])
        if found is None:
            raise UsageError(
                f"`{self.base.config.model_type}` has no causal language model",
                hint="choose a base such as gpt2 or llama",
            )
        return found

    # ------------------------------------------------------------------ rows -> tensors

    def precheck(self, row: Row, mode: Mode) -> bool:
        return mode == "predict" and not well_formed(row)  # a row without a completion can be continued

    def encode(self, rows: Sequence[Row], mode: Mode, seed: int) -> list[Item]:
        """Mode "predict" keeps two encodings: the prompt alone to be continued, and prompt with target to be scored."""
        targets = mode != "predict"
        encoded = [encode_row(self.tokenizer, row, number, targets) for number, row in enumerate(rows)]
        if mode == "train" and self.options.packing:
            return [_item(row, found) for row, found in pack(encoded, self.length)]
        items = []
        for number, (row, entry) in enumerate(zip(rows, encoded)):
            prompt = None
            if mode == "predict" and (self.options.continue_text or not is_plain(row)):
                prompt = self._prompt(_asked(row, entry))
            for block in blocks(entry, self.length):
                items.append(_item(number, block, prompt, self.new))
                prompt = None  # the first block asks for the row
        return items

    def _prompt(self, ids: Sequence[int]) -> list[int]:
        """The last tokens of a prompt, so that there is room for the answer; never nothing."""
        if ids:
            return list(ids if self.positions is None else ids[-(self.positions - self.new) :])
        start = self.tokenizer.bos_token_id
        return [self.tokenizer.eos_token_id if start is None else start]

    def collate(self, items: Sequence[Item], mode: Mode) -> Batch:
        ids = text.pad_lists([item.inputs["ids"] for item in items], self.tokenizer.pad_token_id)
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": text.pad_lists([[1] * len(item.inputs["ids"]) for item in items], 0),
            "labels": text.pad_lists([item.inputs["labels"] for item in items], -100),
        }
        prompts = [item.inputs["prompt"] for item in items if item.inputs.get("prompt")]
        if prompts:
            inputs["prompt"] = {
                "input_ids": text.pad_lists(prompts, self.tokenizer.pad_token_id, "left"),
                "attention_mask": text.pad_lists([[1] * len(entry) for entry in prompts], 0, "left"),
            }
        return Batch(inputs, items)

    def cost_budget(self, device: str) -> int | None:
        return 1024 if device == "cpu" else 16384

    # ------------------------------------------------------------------ tensors -> numbers

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Nats a token, over all targets of the batch, as transformers' own."""
        nll, count, _ = self._losses(model, batch)
        return nll.sum() / count.sum().clamp(min=1)

    def target_counts(self, batch: Batch) -> tuple[torch.Tensor]:
        return ((batch.inputs["labels"][:, 1:] != -100).sum(),)

    def row_losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        nll, count, _ = self._losses(model, batch)
        mean, tokens = batch.mean_by_row(nll), batch.mean_by_row(count.to(nll.dtype))
        return mean / tokens.clamp(min=1e-9) * (tokens > 0)

    def _losses(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        inputs = text.plain_inputs(batch.inputs, "labels", "prompt")
        return generating.token_losses(model(**inputs).logits, batch.inputs["labels"])

    def predict(self, model: nn.Module, batch: Batch) -> list[dict[str, Any]]:
        if bool((batch.inputs["labels"][:, 1:] != -100).any()):
            scored = [entry.tolist() for entry in self._losses(model, batch)]
        else:
            scored = [[0] * len(batch)] * 3
        parts = [{"nll": float(nll), "tokens": count, "hits": hits} for nll, count, hits in zip(*scored)]
        if "prompt" in batch.inputs:
            options = self.options.generation
            found = generating.generate(
                generating.causal_module(model),
                self.tokenizer,
                batch.inputs["prompt"],
                options,
                self.new,
                batch.items[0].row,
            )
            asked = [place for place, item in enumerate(batch.items) if item.inputs.get("prompt")]
            for place, ids in zip(asked, found):
                prompt = batch.items[place].inputs["prompt"]
                parts[place]["completion"] = generating.continuation(self.tokenizer, prompt, ids, options.stop)
        return parts

    def stream(self, model: nn.Module, row: Row) -> Iterator[str]:
        """The new text of one row, piece by piece while the model writes it; joined, the row's completion.

        (Predictions of many rows come one by one from `TaskModel.predictions`.)
        """
        from topwork_tasks.text_generation.streaming import stream

        entry = encode_row(self.tokenizer, row, 0, False)
        ids = text.pad_lists([self._prompt(_asked(row, entry))], self.tokenizer.pad_token_id)
        ids = ids.to(next(model.parameters()).device)
        model.eval()
        inputs = {"input_ids": ids, "attention_mask": ids.new_ones(ids.shape)}
        return stream(generating.causal_module(model), self.tokenizer, inputs, self.options.generation, self.new)

    def merge(self, row: Row, parts: Sequence[Mapping[str, Any]]) -> generating.Generated:
        completion = parts[0].get("completion") if parts else None
        before: Any = row.get("text") if is_plain(row) else row.get("prompt")
        shown: Any = completion if completion is not None else ""
        if row.get("messages") is not None:
            shown = {"role": "assistant", "content": shown}
            before = [dict(message) for message in row["messages"]]
            if before[-1]["role"] == "assistant":
                before.pop()
            shown = [*before, shown] if self.options.return_full_text else shown["content"]
        elif self.options.return_full_text:
            shown = before + shown
        made = generating.Generated([{"generated_text": shown}])
        made.completion = completion
        made.nll = sum(part["nll"] for part in parts)
        made.tokens = sum(part["tokens"] for part in parts)
        made.hits = sum(part["hits"] for part in parts)
        return made

    # ------------------------------------------------------------------ numbers -> people

    def metric(self) -> Metric:
        return generating.LanguageMetric(self.state.values["compare"], reference)

    def units(self, item: Item) -> Units:
        return text.token_units(self.tokenizer, item.inputs["ids"])

    def draw(self, row: Row, prediction: Any) -> Picture:
        badness = prediction.nll / prediction.tokens if prediction.tokens else 0.0
        asked: Any = "\n".join(contents(row)) or row.get("prompt") or row.get("text")
        pieces = [(asked, "question"), (prediction.completion or "", "predicted"), (reference(row) or "", "truth")]
        caption = f"{badness:.2f} nats a token" if prediction.tokens else "generated"
        return Picture(caption, badness, None, [piece for piece in pieces if piece[0]])

    @classmethod
    def example_rows(cls) -> list[Row]:
        pairs = [
            ("red", "rot"),
            ("green", "grün"),
            ("blue", "blau"),
            ("one", "eins"),
            ("two", "zwei"),
            ("three", "drei"),
        ]
        pairs += [("dog", "Hund"), ("cat", "Katze"), ("house", "Haus")]
        return [{"prompt": f"{word} =", "completion": f" {meaning}"} for word, meaning in pairs]


def _asked(row: Row, entry: Encoded) -> list[int]:
    """The tokens of a row that are to be continued."""
    return entry.ids[: len(entry.ids) - entry.ended] if is_plain(row) else entry.prompt


def _item(row: int, found: Encoded, prompt: list[int] | None = None, new: int = 0) -> Item:
    cost = max(len(found.ids), len(prompt) + new if prompt else 0)
    return Item(row, {"ids": found.ids, "labels": found.labels, "prompt": prompt}, cost)


def _texts(rows: Any) -> Any:
    if rows is None:
        return None
    plain = text.column_texts(rows, ("text", "prompt", "completion"))
    chats = (said for row in rows for said in contents(row))
    return (entry for source in (plain, chats) for entry in source or ())


@hookimpl
def register_tasks() -> list[type[Task]]:
    return [TextGeneration]
