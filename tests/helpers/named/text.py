"""Text families, and the tasks of one text that run on them."""

from __future__ import annotations

from typing import Any

from named.harness import Exempt, Named, Settings, cases
from tiny_bases import PAIR
from tiny_bases import TEXT as SMALL

GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
SEQ2SEQ = {**PAIR, "encoder_layers": 2, "decoder_layers": 2, "max_position_embeddings": 128}
DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": 32}


def config(model_type: str, *groups: dict[str, Any], **entries: Any) -> dict[str, Any]:
    """A base from a config."""
    joined = {key: value for group in groups for key, value in group.items()}
    return {"config": {"model_type": model_type, **joined, **entries}}


BASES = {
    "BERT": config("bert", SMALL),
    "DistilBERT": config("distilbert", dim=32, n_layers=2, n_heads=4, hidden_dim=64),
    "RoBERTa": config("roberta", SMALL),
    "DeBERTa-v2": config("deberta-v2", SMALL, DEBERTA),
    "ModernBERT": config("modernbert", SMALL, local_attention=16),
    "BertGeneration": config("bert-generation", SMALL),
    "GPT": config("openai-gpt", GPT),
    "GPT-2": config("gpt2", GPT),
    "DistilGPT2": config("gpt2", GPT, n_layer=1),  # GPT-2 with half of its layers
    "Llama": config("llama", SMALL, num_key_value_heads=2),
    "Qwen3": config("qwen3", SMALL, num_key_value_heads=2, head_dim=8),
    "BART": config("bart", SEQ2SEQ),
    "T5": config("t5", d_model=32, num_layers=2, num_heads=4, d_ff=64, d_kv=8),
    "mBART": config("mbart", SEQ2SEQ),
    "Marian": config("marian", SEQ2SEQ),
}
ENCODERS = ["BERT", "DistilBERT", "RoBERTa", "DeBERTa-v2", "ModernBERT"]
DECODERS = ["GPT", "GPT-2", "DistilGPT2", "Llama", "Qwen3"]
NAMED: Named = {
    "text-classification": {
        "native": [*ENCODERS, *DECODERS, "BART", "T5", "mBART"],
        "generic": ["BertGeneration", "Marian"],
    },
    "token-classification": {
        "native": [*ENCODERS, "GPT-2", "DistilGPT2", "Llama", "Qwen3", "T5"],
        "generic": ["BertGeneration", "GPT", "BART", "mBART", "Marian"],
    },
    "question-answering": {
        "native": [*ENCODERS, "GPT-2", "DistilGPT2", "Llama", "Qwen3", "BART", "T5", "mBART"],
        "generic": ["BertGeneration", "GPT", "Marian"],
    },
    "fill-mask": {"native": [*ENCODERS, "BART", "mBART"]},
    "text-generation": {"native": ["BertGeneration", *DECODERS, "BART", "mBART", "Marian"]},
}
SETTINGS: Settings = [
    ("*", {"options": {"tokenizer": {"min_frequency": 1, "vocab_size": 300}}}),
    ("text-generation/*", {"options": {"generation": {"max_new_tokens": 4}}}),
    ("question-answering/Llama/*", {"training": {"learning_rate": 2e-2}}),
]
SINUSOIDS = "positions are sinusoids, computed and frozen by transformers"
_ALONE = "a decoder without its encoder has nothing to attend to there"
UNLEARNED = [
    *[Exempt(f"text-generation/{family}/*", "*encoder_attn*", _ALONE) for family in ("BART", "mBART", "Marian")],
    Exempt("*/Marian/*", "*embed_positions.weight", SINUSOIDS),
]
CASES = cases(NAMED, BASES, SETTINGS, UNLEARNED)
