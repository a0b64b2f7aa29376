"""Models without a task: what pruning and gates left is saved, and comes back in a process that saw nothing of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tolerance import close
from torch import nn

import topwork
from topwork import CheckpointError, UsageError

SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
IDS = torch.tensor([[5, 9, 31, 7, 2], [8, 8, 3, 40, 11]])
READ = """
import sys, torch, topwork
torch.manual_seed(1)
model = topwork.from_pretrained(sys.argv[1])
torch.save(model(input_ids=torch.tensor(eval(sys.argv[2])))[0].detach(), sys.argv[3])
"""


def made(model_type: str, **more: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **{**SIZES, "pad_token_id": 0, "eos_token_id": 1, **more})
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def answer(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS)[0]


def hard() -> Any:
    model = transformers.BertForMaskedLM(transformers.BertConfig(**SIZES)).eval()
    topwork.prune_heads(model, {0: [1, 3], 1: [0, 1, 2, 3]})
    return model


def soft() -> Any:
    model = made("olmo2", num_key_value_heads=4)
    assert topwork.prune_heads(model, {1: [2]}).layers[1]["form"] == "soft"
    return model


def gated() -> Any:
    model = made("qwen3", num_key_value_heads=2, head_dim=8)
    topwork.look(model).set_gates({0: [1.0, 0.5, 0.0, 1.0]})
    return model


def half() -> Any:
    model = made("gpt2", n_embd=32, n_layer=2, n_head=4).to(torch.bfloat16)
    topwork.prune_heads(model, {0: [0]})
    model.generation_config.max_new_tokens = 7
    return model


def untouched() -> Any:
    return made("gpt2", n_embd=32, n_layer=2, n_head=4)


@pytest.mark.parametrize("make", [hard, soft, gated, half, untouched])
def test_it_comes_back_as_it_was(make: Any, tmp_path: Path) -> None:
    model = make()
    assert topwork.save_pretrained(model, tmp_path / "saved") == tmp_path / "saved"
    again = topwork.from_pretrained(tmp_path / "saved")
    assert type(again) is type(model) and again.dtype == model.dtype and not again.training
    assert torch.equal(answer(again), answer(model))
    assert topwork.look(again).table() == topwork.look(model).table()
    assert all(parameter.requires_grad for parameter in again.parameters())
    if model.can_generate():
        assert again.generation_config.to_dict() == model.generation_config.to_dict()
        assert torch.equal(again.generate(IDS, max_new_tokens=4), model.generate(IDS, max_new_tokens=4))
    with pytest.raises(OSError):  # plain transformers sees no weights, rather than unpruned ones
        type(model).from_pretrained(tmp_path / "saved")


def test_in_a_new_process_and_pruned_again_by_original_numbers(tmp_path: Path) -> None:
    model = soft()
    topwork.save_pretrained(model, tmp_path / "saved")
    command = [sys.executable, "-c", READ, str(tmp_path / "saved"), repr(IDS.tolist()), str(tmp_path / "out.pt")]
    subprocess.run(command, check=True, capture_output=True)
    assert torch.equal(torch.load(tmp_path / "out.pt", weights_only=True), answer(model))

    again = topwork.from_pretrained(tmp_path / "saved")
    topwork.prune_heads(again, {1: [2, 3]})
    topwork.prune_heads(model, {1: [3]})
    close(answer(again), answer(model))
    topwork.save_pretrained(again, tmp_path / "saved")  # what topwork wrote is replaced
    assert torch.equal(answer(topwork.from_pretrained(tmp_path / "saved")), answer(again))


def test_tied_weights_are_stored_once_and_tied_again(tmp_path: Path) -> None:
    topwork.save_pretrained(hard(), tmp_path / "saved")
    again: Any = topwork.from_pretrained(tmp_path / "saved")
    assert again.cls.predictions.decoder.weight is again.bert.embeddings.word_embeddings.weight


def test_wrong_doors_and_damage_are_named(tmp_path: Path) -> None:
    model = hard()
    topwork.save_pretrained(model, tmp_path / "saved")
    with pytest.raises(CheckpointError, match=r"without a task; topwork\.from_pretrained"):
        topwork.load(tmp_path / "saved")
    with pytest.raises(UsageError, match="Linear is no model class of transformers"):
        topwork.save_pretrained(nn.Linear(2, 2), tmp_path / "linear")
    with pytest.raises(UsageError, match="something else than a model folder"):
        topwork.save_pretrained(model, tmp_path)
    with pytest.raises(CheckpointError, match=r"there is no topwork\.json"):
        topwork.from_pretrained(tmp_path)

    file = tmp_path / "saved" / "topwork.json"
    said = json.loads(file.read_text())
    for key, value, error in [
        ("class", "BertConfig", "BertConfig is no model class"),
        ("class", "os.system", "is no model class"),
        ("tensors", 3, "3 were saved"),
        ("dtype", "nothing", "damaged"),
        ("alterations", {}, "do not fit the model"),
        ("alterations", {"stranger": {"a": 1}}, "stranger"),
    ]:
        file.write_text(json.dumps(topwork.with_checksum({**said, key: value})))
        with pytest.raises(topwork.TopworkError, match=error):
            topwork.from_pretrained(tmp_path / "saved")


def test_a_task_model_is_loaded_with_its_task(tmp_path: Path) -> None:
    base = {"config": {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 60}}
    work = topwork.build("text-generation", base, rows=[{"text": "a b c d"}] * 4)
    work.save(tmp_path / "work")
    with pytest.raises(CheckpointError, match=r"task text-generation; topwork\.load"):
        topwork.from_pretrained(tmp_path / "work")


def test_both_kinds_of_folders_are_read_from_the_hub_by_their_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "models--me--pruned"
    snapshot = cache / "snapshots" / ("0" * 40)
    model = hard()
    topwork.save_pretrained(model, snapshot)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert torch.equal(answer(topwork.from_pretrained("me/pruned")), answer(model))
    with pytest.raises(CheckpointError, match="without a task"):
        topwork.load("me/pruned", revision="main")
    with pytest.raises(CheckpointError, match=r"me/pruned at v2: .*hf download me/pruned"):
        topwork.from_pretrained("me/pruned", revision="v2")
    with pytest.raises(CheckpointError, match=r"no such folder.*correct the path"):
        topwork.load("you/nothing")
