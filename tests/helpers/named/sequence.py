"""Families that turn a text into a text: encoder-decoders, any two networks warm-started as a pair, decoders alone."""

from __future__ import annotations

from typing import Any

from named import text
from named.harness import Exempt, Named, Settings, cases


def pair(encoder: str, decoder: str) -> dict[str, Any]:
    """A base for each role."""
    return {"encoder": text.BASES[encoder], "decoder": text.BASES[decoder]}


PAIRS = {
    "BERT + BERT": pair("BERT", "BERT"),
    "RoBERTa + BertGeneration": pair("RoBERTa", "BertGeneration"),
    "DistilBERT + GPT-2": pair("DistilBERT", "GPT-2"),
    "BertGeneration + BertGeneration": pair("BertGeneration", "BertGeneration"),
    "BERT + BERT, shared": pair("BERT", "BERT"),
}
FINISHED = ["BART", "T5", "mBART", "Marian"]
WARM = [name for name in PAIRS if not name.endswith("shared")]
NAMED: Named = {
    "summarization": {"native": [*FINISHED, "BertGeneration + BertGeneration", *text.DECODERS]},
    "translation": {"native": [*FINISHED, *WARM, *text.DECODERS], "generic": ["BERT + BERT, shared"]},
}
TOKENIZER = {"kind": "bpe", "lowercase": False, "min_frequency": 1, "vocab_size": 320}
SETTINGS: Settings = [
    ("*", {"options": {"tokenizer": TOKENIZER, "generation": {"max_new_tokens": 4}}}),
    ("*/T5/*", {"options": {"prefix": "say: "}}),
    ("*, shared/*", {"options": {"share": True}}),
]
UNLEARNED = [Exempt("*/Marian/*", "*embed_positions.weight", text.SINUSOIDS)]
#: one plan would have to cut both sides alike
REFUSED = [
    Exempt("*, shared/*", "encoder.*", "its weights are also those of"),
    Exempt("*, shared/*", "decoder.*.attention", "its weights are also those of"),
]
CASES = cases(NAMED, {**text.BASES, **PAIRS}, SETTINGS, UNLEARNED, REFUSED)
