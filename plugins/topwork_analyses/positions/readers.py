"""Readers of rows: from a row to the input of a frozen model, the run of that model, and what its positions are.

Entry point: `reader_of`. A text goes to the model as it is, by the tokenizer alone: what a task does with it (masks,
templates, windows) is not looked at; of an encoder-decoder the encoder runs. Images and sound are prepared by the task.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from topwork import Item, Refused, Row, Task, Units, map_tensors
from topwork_analyses.positions.spans import Layout
from topwork_analyses.positions.tokens import text_tokens, tokenizer_of
from topwork_lens.model_state import device_of


def text_of_row(row: Row) -> str | None:
    """Return the text of a row, or its words with spaces between them; None for a row of something else."""
    if isinstance(row.get("text"), str):
        return row["text"]
    words = row.get("words")
    return " ".join(map(str, words)) if isinstance(words, list | tuple) else None


def reader_of(
    task: Task, model: nn.Module, row: Row, max_length: int | None = None, *, with_targets: bool = False
) -> Reader:
    """Return the reader of rows like this one.

    Args:
        task: whose tokenizer or preparation is used.
        model: the task's model.
        row: any of the rows.
        max_length: tokens of a text, at most; None for what tokenizer and model allow.
        with_targets: run a model that the task prepares rows for as for its loss, where the row has targets.

    Raises:
        UsageError: the row is a text, and the task has no tokenizer that knows characters.
        Refused: the model's encoder cannot be run by itself.
    """
    has_media = any(column.lazy and not column.target and name in row for name, column in task.columns.items())
    if has_media or text_of_row(row) is None:
        known = all(name in row for name, column in task.columns.items() if column.target and column.required)
        return TaskReader(task, model, "loss" if with_targets and known else "predict")
    return TextReader(task, model, max_length)


class Reader(ABC):
    """Reader of rows of one kind.

    Attributes:
        module: what runs: the model, or its encoder.
    """

    module: nn.Module

    @abstractmethod
    def encode(self, row: Row, index: int) -> list[Item]:
        """Return the items of a row.

        Raises:
            DataError: the row cannot be used.
        """

    @abstractmethod
    def run(self, items: Sequence[Item]) -> Any:
        """Run the model on items of one shape, without gradients, and return what it gives."""

    @abstractmethod
    def layout(self, item: Item, count: int) -> Layout:
        """Return what the positions of an item's states are.

        Raises:
            Refused: there are not `count` positions.
        """


class TextReader(Reader):
    """Reader of texts, for a model with an encoder or a decoder of text.

    Args:
        task: whose tokenizer is used.
        model: the task's model.
        max_length: tokens, at most; None for what tokenizer and model allow.
    """

    def __init__(self, task: Task, model: nn.Module, max_length: int | None = None) -> None:
        self.tokenizer = tokenizer_of(task)
        config = getattr(model, "config", None)
        self.module = model
        if getattr(config, "is_encoder_decoder", False):
            get_encoder: Any = getattr(model, "get_encoder", None)
            encoder = get_encoder() if callable(get_encoder) else None
            if not isinstance(encoder, nn.Module):
                raise Refused("the encoder of this model cannot be run by itself", reason="unknown_layout")
            self.module = encoder
        self.names = task.state.values.get("inputs") or ["input_ids", "attention_mask"]
        self.max_length = max_length or _longest(self.tokenizer, config)

    def encode(self, row: Row, index: int) -> list[Item]:
        """Return the text of a row as one item, cut at the longest that the model takes."""
        text = text_of_row(row) or ""
        encoded = self.tokenizer(text, truncation=True, max_length=self.max_length)
        inputs = {name: list(encoded[name]) for name in self.names if name in encoded}
        return [Item(index, inputs, len(inputs["input_ids"]), text)] if inputs["input_ids"] else []

    @torch.no_grad()
    def run(self, items: Sequence[Item]) -> Any:
        """Run the model, or its encoder, on texts of one length."""
        device = device_of(self.module)
        names = items[0].inputs
        return self.module(
            **{name: torch.tensor([item.inputs[name] for item in items], device=device) for name in names}
        )

    def layout(self, item: Item, count: int) -> Layout:
        """Return the characters that each token covers."""
        ids = item.inputs["input_ids"]
        if len(ids) != count:
            hint = "choose the states of another stack of layers"
            raise Refused(f"{count} states for {len(ids)} tokens", reason="unknown_layout", hint=hint)
        text = text_tokens(self.tokenizer, item.extra, ids)
        special = set(self.tokenizer.all_special_ids)
        # An unknown word, or a special token that is written in the text, stands for something in it.
        apart = [index for index, token in enumerate(ids) if token in special and text.characters[index] is None]
        return Layout(count, Units("token", special=apart), text)


class TaskReader(Reader):
    """Reader of rows as the task prepares them: images and sound, and texts in columns of the task.

    Args:
        task: that prepares rows.
        model: the task's model.
        mode: "predict", or "loss": a decoder then reads the true target at once, where it would generate one.
    """

    def __init__(self, task: Task, model: nn.Module, mode: Literal["predict", "loss"] = "predict") -> None:
        self.task, self.module, self.mode = task, model, mode

    def encode(self, row: Row, index: int) -> list[Item]:
        """Return the items that the task makes of a row."""
        columns = {name: row[name] for name in self.task.columns if name in row}
        return [item.at(index) for item in self.task.encode([columns], self.mode, 0)]

    @torch.no_grad()
    def run(self, items: Sequence[Item]) -> Any:
        """Predict, or compute losses."""
        batch = self.task.collate(items, self.mode).to(device_of(self.module))
        floating = (weights.dtype for weights in self.module.parameters() if weights.is_floating_point())
        dtype = next(floating, torch.float32)

        def cast(values: torch.Tensor) -> torch.Tensor:
            return values.to(dtype) if values.is_floating_point() else values

        batch.inputs = map_tensors(batch.inputs, cast)
        run = self.task.predict if self.mode == "predict" else self.task.row_losses
        return run(self.module, batch)

    def layout(self, item: Item, count: int) -> Layout:
        """Return what the task says of the positions of an item."""
        units = self.task.units(item)
        expected = None if units.grid is None else units.grid[0] * units.grid[1] + len(units.special)
        if expected is not None and expected != count:
            raise Refused(f"{count} states for {expected} positions", reason="unknown_layout")
        return Layout(count, units)


def _longest(tokenizer: Any, config: Any) -> int:
    """Return the longest text that tokenizer and model take, in tokens; some models count positions from 2."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    positions = getattr(text, "max_position_embeddings", None)
    bounds = [512, tokenizer.model_max_length or 512]
    return min([*bounds, positions - 2] if isinstance(positions, int) and positions > 2 else bounds)
