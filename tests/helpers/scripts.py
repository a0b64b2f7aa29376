"""Texts in many scripts, tokenizers that normalise, and models that answer perfectly."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import normalizers, pre_tokenizers, processors

#: script -> two words that differ by their marks alone
PAIRS = {
    "Latin, decomposed": ("cafe\u0301", "cafe"),
    "Latin, composed": ("\u00e9t\u00e9", "ete"),
    "Vietnamese": ("ma\u0301", "ma\u0309"),
    "Devanagari": ("\u092e\u0947\u0902", "\u092e"),
    "Tamil": ("\u0b95\u0bbf", "\u0b95\u0bc0"),
    "Thai": ("\u0e01\u0e34", "\u0e01\u0e35"),
    "Lao": ("\u0e81\u0eb4", "\u0e81\u0eb5"),
    "Khmer": ("\u1780\u17b7", "\u1780\u17b8"),
    "Myanmar": ("\u1000\u102d", "\u1000\u102e"),
    "Tibetan": ("\u0f40\u0f72", "\u0f40\u0f74"),
    "Hebrew with points": ("\u05e9\u05b8\u05c1", "\u05e9\u05b4"),
    "Arabic with vowels": ("\u0643\u064e\u062a", "\u0643\u064f\u062a"),
    "Japanese, decomposed": ("\u304b\u3099", "\u304b"),
    "Cyrillic": ("\u0438\u0306", "\u0438"),
    "Greek, composed": ("\u03ac", "\u03b1"),
}
#: script -> a text and an answer in it, which ends with a mark or stands without spaces around it
ANSWERS = {
    "Latin, decomposed": ("we met in the cafe\u0301 of Lyon", "cafe\u0301"),
    "Latin, at the end": ("we met in the cafe\u0301", "cafe\u0301"),
    "Devanagari": (
        "\u092e\u0947\u0930\u093e \u0918\u0930 \u0926\u093f\u0932\u094d\u0932\u0940 \u092e\u0947\u0902 \u0939\u0948",
        "\u0926\u093f\u0932\u094d\u0932\u0940 \u092e\u0947\u0902",
    ),
    "Thai": (
        "\u0e09\u0e31\u0e19\u0e2d\u0e22\u0e39\u0e48\u0e17\u0e35\u0e48\u0e1a\u0e49\u0e32\u0e19\u0e19\u0e35\u0e49",
        "\u0e17\u0e35\u0e48\u0e1a\u0e49",
    ),
    "Khmer": ("\u1781\u17d2\u1789\u17bb\u17c6\u1793\u17c5\u1795\u17d2\u1791\u17c7", "\u1793\u17c5"),
    "Han": ("\u6211\u7231\u5317\u4eac\u5929\u5b89\u95e8", "\u5317\u4eac"),
    "Japanese": ("\u79c1\u306f\u6771\u4eac\u30bf\u30ef\u30fc\u306b\u3044\u308b", "\u6771\u4eac\u30bf\u30ef\u30fc"),
    "Hebrew with points": (
        "\u05d0\u05b2\u05e0\u05b4\u05d9 \u05d1\u05bc\u05b0\u05d9\u05b8\u05e4\u05d5\u05b9 \u05d2\u05bc\u05b8\u05e8",
        "\u05d1\u05bc\u05b0\u05d9\u05b8\u05e4\u05d5\u05b9",
    ),
    "Arabic with vowels": (
        "\u0623\u064e\u0646\u064e\u0627 \u0641\u0650\u064a \u0645\u0650\u0635\u0652\u0631\u064e "
        "\u0627\u0644\u0622\u0646",
        "\u0645\u0650\u0635\u0652\u0631\u064e",
    ),
    "Korean": ("\ub098\ub294 \uc11c\uc6b8 \uc0ac\ub78c", "\uc11c\uc6b8"),
}

BERT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}


def normalising_tokenizer(kind: str, texts: list[str]) -> Any:
    """A WordPiece tokenizer of letters that normalises as a downloaded one does."""
    normalizer = {
        "bert uncased": normalizers.BertNormalizer(strip_accents=True, lowercase=True),
        "albert": normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]),
        "NFC": normalizers.NFC(),
        "NFD": normalizers.NFD(),
    }[kind]
    letters = sorted({letter for text in texts for letter in normalizer.normalize_str(text) if not letter.isspace()})
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    made = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({name: index for index, name in enumerate(names)}, unk_token="[UNK]")
    )
    made.normalizer, made.pre_tokenizer = normalizer, pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=128, **special)


def downloaded(folder: Path, kind: str, texts: list[str]) -> dict[str, Any]:
    """A base as it is downloaded: a small BERT with a tokenizer that normalises."""
    tokenizer = normalising_tokenizer(kind, texts)
    tokenizer.save_pretrained(folder)
    config = transformers.BertConfig(**BERT, vocab_size=len(tokenizer), max_position_embeddings=128)
    transformers.BertModel(config).save_pretrained(folder)
    return {"model": str(folder)}


class PerfectModel(torch.nn.Module):
    """Answers every item with its own targets: what the best model could reach."""

    def __init__(self, task: Any) -> None:
        super().__init__()
        self.task, self.answer = task, SimpleNamespace()

    def forward(self, **_: Any) -> Any:
        return self.answer


def perfect_predictions(task: Any, rows: list[dict[str, Any]]) -> list[Any]:
    """The predictions of a model that is right at every target; tokens without one are called outside."""
    model = PerfectModel(task)
    items = task.encode(rows, "loss", 0)
    targets = task.collate(items, "loss").inputs
    if "start_positions" in targets:
        width = targets["input_ids"].shape[1]
        for side in ("start", "end"):
            onehot = torch.nn.functional.one_hot(targets[f"{side}_positions"], width).float()
            setattr(model.answer, f"{side}_logits", 20 * onehot)
    else:
        labels = targets["labels"].clamp(min=0)  # the first tag is O
        model.answer.logits = 20 * torch.nn.functional.one_hot(labels, len(task.names)).float()
    inputs = task.encode(rows, "predict", 0)
    parts = task.predict(model, task.collate(inputs, "predict"))
    by_row: list[list[Any]] = [[] for _ in rows]
    for item, part in zip(inputs, parts, strict=True):
        by_row[item.row].append(part)
    return [task.merge(row, row_parts) for row, row_parts in zip(rows, by_row)]


def best_metrics(task: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The metrics that a model reaches that is right at every target."""
    metric = task.metric()
    for row, prediction in zip(rows, perfect_predictions(task, rows)):
        metric.update(row, prediction)
    return metric.result()
