"""The model and the rows of the lens benchmarks: a BERT, and sentences of varied length with a word to be found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from topwork import Batch, Item

#: tokens of the longest row, words of the vocabulary
LONGEST, WORDS = 128, 1000
Row = tuple[torch.Tensor, int]


def bert(layers: int, heads: int, width: int, seed: int = 0, **more: Any) -> Any:
    """A random BERT for two classes."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    config = BertConfig(**sizes, intermediate_size=4 * width, vocab_size=WORDS, num_labels=2, **more)
    return BertForSequenceClassification(config).eval()


def sentences(count: int, seed: int, words: int = WORDS) -> list[Row]:
    """Rows of 8 to 128 tokens, most of them short, and whether the word 3 stands among them."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number in range(count):
        length = int(8 + (LONGEST - 8) * torch.rand(1, generator=generator) ** 3)
        ids = torch.randint(4, words, (length,), generator=generator)
        ids[0] = 1
        if number % 2:
            ids[int(torch.randint(1, length, (1,), generator=generator))] = 3
        found.append((ids, number % 2))
    return found


def by_length(rows: Sequence[Row], tokens: int = 512) -> Iterator[Batch]:
    """Batches of rows of like length with about as many tokens each."""
    order = sorted(range(len(rows)), key=lambda number: len(rows[number][0]))
    waiting: list[int] = []
    for number in order:
        if waiting and len(rows[number][0]) * (len(waiting) + 1) > tokens:
            yield batch([rows[one] for one in waiting])
            waiting = []
        waiting.append(number)
    yield batch([rows[one] for one in waiting])


def batch(rows: Sequence[Row], longest: int = 0) -> Batch:
    """Rows padded to the longest of them, or to `longest`."""
    longest = longest or max(len(ids) for ids, _ in rows)
    ids = torch.stack([torch.nn.functional.pad(one, (0, longest - len(one))) for one, _ in rows])
    inputs = {
        "input_ids": ids,
        "attention_mask": (ids > 0).long(),
        "labels": torch.tensor([label for _, label in rows]),
    }
    return Batch(inputs, [Item(number, {}) for number in range(len(rows))])


def losses(model: Any, one: Batch) -> torch.Tensor:
    """[rows]."""
    inputs = {key: value for key, value in one.inputs.items() if key != "labels"}
    return torch.nn.functional.cross_entropy(model(**inputs).logits.float(), one.inputs["labels"], reduction="none")


def write(folder: Path, model: Any, rows: Sequence[Row]) -> None:
    """Model and rows for the process with transformers 4."""
    from safetensors.torch import save_file

    model.save_pretrained(folder)
    whole = batch(rows)
    save_file({"ids": whole.inputs["input_ids"], "labels": whole.inputs["labels"]}, folder / "rows.safetensors")
