"""Pruned models elsewhere: checkpoints that transformers 4 pruned, `torch.compile`, `torch.export`, ONNX."""

from __future__ import annotations

import copy
import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from topwork import CheckpointError, alterations
from topwork_lens import v4
from topwork_lens.look import Look
from topwork_lens.rebuild import rebuild

MODELS = runpy.run_path(str(Path(__file__).with_name("lens_models.py")))
make, without_labels, first_output = MODELS["make"], MODELS["without_labels"], MODELS["first_output"]
HEADS = {0: [1, 3], 2: [0]}


def pruned(name: str) -> tuple[Any, dict[str, torch.Tensor]]:
    model, batch = make(name)
    inputs = without_labels(batch, model)
    Look(model).prune_heads(HEADS, check=inputs)
    return model, inputs


def written_by_version_4(name: str, folder: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    """A folder as transformers 4 wrote it, cut by the function of its own that is still there."""
    from safetensors.torch import save_file
    from transformers.pytorch_utils import prune_linear_layer

    model, batch = make(name)
    whole = copy.deepcopy(model)
    model.config.save_pretrained(folder)
    for number, heads in HEADS.items():
        index = torch.tensor([8 * head + i for head in range(4) if head not in heads for i in range(8)])
        if name == "bert":
            attention = model.bert.encoder.layer[number].attention
            owner, names, output = attention.self, ("query", "key", "value"), (attention.output, "dense")
        else:
            owner = model.distilbert.transformer.layer[number].attention
            names, output = ("q_lin", "k_lin", "v_lin"), (owner, "out_lin")
        for part in names:
            setattr(owner, part, prune_linear_layer(getattr(owner, part), index))
        setattr(*output, prune_linear_layer(getattr(*output), index, dim=1))
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["pruned_heads"] = {str(number): heads for number, heads in HEADS.items()}
    (folder / "config.json").write_text(json.dumps(config))
    return whole, without_labels(batch, whole)


@pytest.mark.parametrize("name", ["bert", "distilbert"])
def test_a_checkpoint_that_version_4_pruned_loads_pruned(name: str, tmp_path: Path) -> None:
    whole, inputs = written_by_version_4(name, tmp_path)
    model = v4.load(tmp_path, type(whole))
    assert type(model) is type(whole)
    with Look(whole).mask_heads(HEADS):
        torch.testing.assert_close(first_output(model, inputs), first_output(whole, inputs), atol=1e-5, rtol=1e-5)
    assert [layer.removed for layer in Look(model).layers] == [(1, 3), (), (0,)]
    assert not model.config.pruned_heads
    again = Look(model).prune_heads({0: [1, 2]}, check=inputs)
    assert list(again.removed.values()) == [[2]]


def test_the_hook_takes_what_a_config_of_version_4_says(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    whole, inputs = written_by_version_4("bert", tmp_path)
    fresh, _ = make("bert")
    rebuild(fresh, {"pruned_heads": json.loads((tmp_path / "config.json").read_text())["pruned_heads"]})
    fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    with Look(whole).mask_heads(HEADS):
        torch.testing.assert_close(first_output(fresh, inputs), first_output(whole, inputs), atol=1e-5, rtol=1e-5)
    assert "layers" in alterations(fresh)["lens"]


def test_a_note_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    whole, _ = written_by_version_4("bert", tmp_path)
    for wrong, match in (({"0": [9]}, "has 4"), ({"0": [1]}, "fit")):
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps({**config, "pruned_heads": wrong}))
        with pytest.raises(CheckpointError, match=match):
            v4.load(tmp_path, type(whole))


def test_compiled() -> None:
    model, inputs = pruned("bert")
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(first_output(compiled, inputs), first_output(model, inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["bert", "vit", "gpt2"])
def test_exported(name: str) -> None:
    model, inputs = pruned(name)
    if name == "gpt2":
        inputs["use_cache"] = False  # type: ignore[assignment]
    program = torch.export.export(model, (), inputs, strict=False)
    with torch.no_grad():
        exported = program.module()(**inputs)["logits"]
    torch.testing.assert_close(exported, first_output(model, inputs), atol=1e-5, rtol=1e-5)


def test_exported_softly_pruned() -> None:
    soft = runpy.run_path(str(Path(__file__).with_name("test_lens_soft.py")))
    model, inputs = soft["make"]("olmo2")
    Look(model).prune_heads({0: [1]}, check=inputs)
    program = torch.export.export(model, (), {**inputs, "use_cache": False}, strict=False)
    exported = program.module()(**inputs, use_cache=False)["logits"]
    torch.testing.assert_close(exported, soft["logits"](model, inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_onnx(name: str, tmp_path: Path) -> None:
    """Needs `pip install topwork[export]`."""
    import onnxruntime

    model, inputs = pruned(name)
    file = tmp_path / "model.onnx"
    program = torch.onnx.export(model, (), kwargs=inputs, dynamo=True, verbose=False)
    program.save(file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    feed = {entry.name: inputs[entry.name].numpy() for entry in session.get_inputs()}
    found = torch.from_numpy(session.run(None, feed)[0])
    torch.testing.assert_close(found, first_output(model, inputs), atol=1e-4, rtol=1e-4)
