"""Attention between words, from attention between tokens: to a word the sum of its tokens, from a word their mean.

Clark et al. (2019, section 4.1): rows that add up to 1 still do. Entry points: `between_groups` and `WordAttention`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from topwork import AttentionLayer, Task, UsageError
from topwork_analyses.positions.readers import TextReader
from topwork_analyses.positions.tokens import words_in
from topwork_analyses.positions.weights import whole_weights
from topwork_lens.layers.discovery import numbered
from topwork_lens.look import Look


def between_groups(weights: torch.Tensor, groups: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return attention between groups of tokens.

    Args:
        weights: [heads, tokens, tokens].
        groups: positions of the tokens of each word, or of a special token that counts as a word.

    Returns:
        [heads, groups, groups].
    """
    belongs = torch.zeros(len(groups), weights.shape[-1], dtype=weights.dtype, device=weights.device)
    for index, positions in enumerate(groups):
        belongs[index, list(positions)] = 1
    sizes = belongs.sum(-1, keepdim=True).clamp(min=1)
    return (belongs / sizes) @ weights @ belongs.T


@dataclass
class Words:
    """Attention between the words of one text.

    Args:
        between: [heads of all layers, words, words].
        from_root: [heads, words]: from the first special token to each word; None when there is none.
        to_root: [heads, words]: from each word to the first special token.
    """

    between: torch.Tensor
    from_root: torch.Tensor | None = None
    to_root: torch.Tensor | None = None


class WordAttention:
    """Attention between words of a task's model, or of its encoder.

    Args:
        task: whose tokenizer is used.
        model: the task's model.
        plugins: describes attention layers.

    Attributes:
        heads: (group, number of the layer, original index) of each attention head, in the order of `Words.between`.
    """

    def __init__(self, task: Task, model: nn.Module, plugins: Any = None) -> None:
        self.reader = TextReader(task, model)
        self.look = Look(model, plugins)
        wanted: list[tuple[tuple[str, int], AttentionLayer]] = [
            (key, layer)
            for key, layer in numbered(self.look.layers).items()
            if layer.form == "dense" and layer.kind == "self" and layer.kept and not layer.unseen
        ]
        if self.reader.module is not model:
            wanted = [(key, layer) for key, layer in wanted if layer.side != "decoder"]
        if not wanted:
            raise UsageError("no self-attention of this model has weights between all tokens")
        self.layers = [layer for _, layer in wanted]
        self.heads = [(group, number, head) for (group, number), layer in wanted for head in layer.kept]

    def __call__(self, words: Sequence[str], index: int = 0, text: str | None = None) -> Words | None:
        """Return attention between the words of a text; None when the model does not take all of it.

        Args:
            words: that stand in the text one after another.
            index: of the row, for errors.
            text: None for the words with spaces between them.

        Raises:
            UsageError: a layer has other positions than the tokens.
            DataError: a word does not stand in the text.
        """
        text = " ".join(words) if text is None else text
        items = self.reader.encode({"text": text}, index)
        if not items:
            return None
        count = len(items[0].inputs["input_ids"])
        layout = self.reader.layout(items[0], count)
        groups = layout.words(words_in(text, words, index))
        if groups is None:
            return None
        paths = [layer.path for layer in self.layers]
        with torch.no_grad(), self.look.capture("weights", layers=paths) as captured:
            self.reader.run(items)
        parts = [whole_weights(captured, path)[0] for path in paths]
        for path, part in zip(paths, parts, strict=True):
            if part.shape[1:] != (count, count):
                raise UsageError(f"attention over {tuple(part.shape[1:])} positions of {count} tokens", place=path)
        weights = torch.cat([part.float() for part in parts])
        if not layout.units.special:
            return Words(between_groups(weights, groups))
        merged = between_groups(weights, [[layout.units.special[0]], *groups])
        return Words(merged[:, 1:, 1:], merged[:, 0, 1:], merged[:, 1:, 0])
