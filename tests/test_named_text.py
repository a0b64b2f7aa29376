"""The text models that must work, each by name, from tiny random configs, on every text task of one sequence that suits
them: build, train, evaluate, predict, save, load, head importance and pruning, all through the public door.

`NAMED` says which task runs on which family, and by whose task head; the README's table is made of it.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch

import topwork

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
SEQ2SEQ = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 128,
}
CONFIGS = {
    "BERT": {"model_type": "bert", **SMALL},
    "DistilBERT": {"model_type": "distilbert", "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "RoBERTa": {"model_type": "roberta", **SMALL},
    "DeBERTa-v2": {
        "model_type": "deberta-v2",
        **SMALL,
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "max_relative_positions": 32,
    },
    "ModernBERT": {"model_type": "modernbert", **SMALL, "local_attention": 16},
    "BertGeneration": {"model_type": "bert-generation", **SMALL},
    "GPT": {"model_type": "openai-gpt", **GPT},
    "GPT-2": {"model_type": "gpt2", **GPT},
    "DistilGPT2": {"model_type": "gpt2", **GPT, "n_layer": 1},  # GPT-2 with half of its layers
    "Llama": {"model_type": "llama", **SMALL, "num_key_value_heads": 2},
    "Qwen3": {"model_type": "qwen3", **SMALL, "num_key_value_heads": 2, "head_dim": 8},
    "BART": {"model_type": "bart", **SEQ2SEQ},
    "T5": {"model_type": "t5", "d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 64, "d_kv": 8},
    "mBART": {"model_type": "mbart", **SEQ2SEQ},
}
# task: {family: who makes the task head}
NAMED = {
    "text-classification": {
        "BERT": "native",
        "DistilBERT": "native",
        "RoBERTa": "native",
        "DeBERTa-v2": "native",
        "ModernBERT": "native",
        "BertGeneration": "generic",
        "GPT": "native",
        "GPT-2": "native",
        "DistilGPT2": "native",
        "Llama": "native",
        "Qwen3": "native",
        "BART": "native",
        "T5": "native",
        "mBART": "native",
    },
    "question-answering": {
        "BERT": "native",
        "DistilBERT": "native",
        "RoBERTa": "native",
        "DeBERTa-v2": "native",
        "ModernBERT": "native",
        "BertGeneration": "generic",
        "GPT-2": "native",
        "BART": "native",
        "T5": "native",
        "mBART": "native",
    },
    "text-generation": {
        "BertGeneration": "native",
        "GPT": "native",
        "GPT-2": "native",
        "DistilGPT2": "native",
        "Llama": "native",
        "Qwen3": "native",
        "BART": "native",
        "mBART": "native",
    },
}
#: parameters, by a part of their name, that the task never reads: a decoder alone has no encoder to attend to
UNUSED = {("text-generation", "BART"): "encoder_attn", ("text-generation", "mBART"): "encoder_attn"}
#: families whose attention layers the lens does not know
UNSEEN: set[str] = set()
OPTIONS = {
    "text-classification": {},
    "question-answering": {},
    "text-generation": {"generation": {"max_new_tokens": 4}},
}
LEARN = {"tokenizer": {"min_frequency": 1, "vocab_size": 300}}
CASES = [(task, family) for task, families in NAMED.items() for family in families]


@cache
def installed():
    return topwork.load_plugins()


def loss_of(model, rows):
    batch = model.task.collate(model.task.encode(rows, "loss", 0), "loss")
    with torch.no_grad():
        return float(model.task.loss(model.model.eval(), batch))


def reached(model):
    """A set that fills with the names of the parameters that get a gradient that is not zero everywhere."""
    names: set[str] = set()
    for name, parameter in model.model.named_parameters():
        parameter.register_post_accumulate_grad_hook(
            lambda value, name=name: names.add(name) if bool((value.grad != 0).any()) else None
        )
    return names


def same(found, expected):
    """Equal in every text and number, the numbers to 1e-5."""
    if isinstance(expected, float):
        return found == pytest.approx(expected, abs=1e-5)
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(same(one, other) for one, other in zip(found, expected))
    return found == expected


@pytest.mark.parametrize(("task", "family"), CASES, ids=lambda name: name)
def test_a_named_model_works(task, family, tmp_path):
    plugins = installed()
    rows = plugins.task(task).example_rows()
    base = {"config": CONFIGS[family]}
    model = topwork.build(task, base=base, rows=rows, plugins=plugins, **LEARN, **OPTIONS[task])
    assert model.form == NAMED[task][family]

    before, learned = loss_of(model, rows), reached(model)
    model.train(rows, steps=20, batch_size=len(rows), learning_rate=1e-2, schedule="constant", checkpoint_every="never")
    assert loss_of(model, rows) < before / 2
    wanted = {name for name, value in model.model.named_parameters() if value.requires_grad}
    unused = UNUSED.get((task, family))
    assert wanted - learned == {name for name in wanted if unused is not None and unused in name}

    metrics = model.evaluate(rows)
    assert metrics.keys() >= set(model.task.metric().keys)
    predictions = model.predict(rows)
    again = topwork.load(model.save(tmp_path / "model"), plugins=plugins)
    assert same(again.predict(rows), predictions)

    if not again.look().layers:
        assert family in UNSEEN
        return
    scored = again.apply("head_importance", {"calibrate": rows}, run_folder=tmp_path / "scores")
    assert scored["rows"] == len(rows)
    pruned = again.apply("prune_heads", {"calibrate": rows}, share=0.5, importance={"rows": len(rows)})
    assert pruned["heads_after"] < pruned["heads_before"]
    predictions = again.predict(rows)
    assert same(topwork.load(again.save(tmp_path / "pruned"), plugins=plugins).predict(rows), predictions)
