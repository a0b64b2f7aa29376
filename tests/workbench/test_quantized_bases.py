"""Quantised bases: refusals by name, and 8-bit weights of torchao trained by LoRA (where torchao is installed)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tiny_bases import BASES

import topwork
from topwork import BaseOptions, CheckpointError, UsageError, load_plugins

pytest.importorskip("peft")

TEXTS = "text-classification"
ROWS = load_plugins().tasks[TEXTS].example_rows()
TRAINING = {"steps": 3, "batch_size": 2, "learning_rate": 0.02, "checkpoint_every": 1}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("base") / "model"
    topwork.build(TEXTS, BASES[TEXTS], rows=ROWS).save(folder)
    return str(folder)


def build(saved: str, **quantize: Any) -> Any:
    return topwork.build(TEXTS, {"model": saved, "quantize": quantize}, rows=ROWS)


@pytest.mark.parametrize(
    ("quantize", "missing", "cause"),
    [
        ({}, ("torchao",), r"the package torchao is not installed.*topwork\[quantize\]"),
        ({"method": "quanto"}, ("optimum",), "the package optimum.quanto is not installed"),
        ({"method": "bitsandbytes"}, (), "needs a GPU, and there is none"),
    ],
)
def test_what_is_missing_is_named_before_anything_is_loaded(saved, quantize, missing, cause, monkeypatch) -> None:
    from topwork_bases.transformers import quantized

    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=cause):
        build(saved, **quantize)


def test_methods_that_nothing_tests_are_refused(saved, monkeypatch) -> None:
    from topwork_bases.transformers import quantized

    monkeypatch.setattr(quantized, "find_spec", lambda name: object())
    with pytest.raises(UsageError, match="`quanto` is not supported yet"):
        build(saved, method="quanto")


def test_random_weights_and_other_bits_are_refused() -> None:
    with pytest.raises(UsageError, match="random weights are not quantised"):
        topwork.build(TEXTS, {**BASES[TEXTS], "quantize": {}}, rows=ROWS)
    with pytest.raises(ValidationError, match="bits"):
        BaseOptions(model="a", quantize={"bits": 3})
    with pytest.raises(UsageError, match="timm are not quantised"):
        topwork.build("image-classification", {"model": "timm/test_vit", "quantize": {}}, rows=[])


def test_a_quantised_base_is_trained_by_lora_and_is_plain_afterwards(saved, tmp_path) -> None:
    pytest.importorskip("torchao", reason="the extra `quantize` is not installed")
    work, twin = build(saved), build(saved)
    query = work.model.bert.encoder.layer[0].attention.self.query
    assert type(query.weight).__module__.startswith("torchao")
    assert len(work.predict(ROWS)) == len(ROWS)
    with pytest.raises(UsageError, match=r"is quantised, and is not trained in full.*lora"):
        work.train(ROWS, **TRAINING)
    with pytest.raises(CheckpointError, match="quantised"):
        work.save(tmp_path / "quantised")
    result = work.train(ROWS, **TRAINING, lora={"targets": "all", "save": "adapter"}, run_folder=tmp_path)
    assert result["check"]["difference"] <= 1e-4
    assert {type(tensor) for tensor in work.model.state_dict().values()} == {torch.Tensor}
    assert all(parameter.requires_grad for parameter in work.model.parameters())
    loaded = topwork.load(work.save(tmp_path / "model"))
    for name, tensor in work.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name
    twin.apply("load_adapter", {}, folder=str(tmp_path / result["adapter_folder"]))
    for name, tensor in work.model.state_dict().items():
        torch.testing.assert_close(twin.model.state_dict()[name], tensor)
    work.train(ROWS, **TRAINING)
    assert topwork.prune_heads(work.model, {0: [1]})


def test_a_recipe_that_trains_a_quantised_base_in_full_is_refused_before_its_first_stage(saved, tmp_path) -> None:
    pytest.importorskip("torchao", reason="the extra `quantize` is not installed")
    recipe = {
        "task": TEXTS,
        "base": {"model": saved, "quantize": {"bits": 8}},
        "data": {"train": {"path": str(tmp_path / "rows.jsonl")}},
        "stages": [{"train": {"steps": 1}}],
    }
    import json

    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with pytest.raises(topwork.TopworkError, match="is trained by `lora"):
        topwork.run(recipe, folder=tmp_path / "run", quiet=True)
