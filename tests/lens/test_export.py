"""Pruned models elsewhere: `torch.compile`, `torch.export`, ONNX, numerically compared."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import lens_models
import pytest
import soft_models
import torch
from tolerance import close

import topwork
from topwork.testing import same_predictions
from topwork_lens.look import Look

make, without_labels, first_output = lens_models.make, lens_models.without_labels, lens_models.first_output
HEADS: dict[Any, list[int]] = {0: [1, 3], 1: [0, 1, 2, 3], 2: [0]}
SEQ2SEQ = {"encoder.0": [1, 3], "decoder.1": [0], "cross.0": [2], "cross.1": [0, 1, 3]}


def pruned(name: str) -> tuple[Any, dict[str, torch.Tensor]]:
    model, batch = make(name)
    inputs = without_labels(batch, model)
    Look(model).prune_heads(SEQ2SEQ if name == "bart" else HEADS, check=inputs)
    return model, inputs


def test_compiled() -> None:
    model, inputs = pruned("bert")
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    close(first_output(compiled, inputs), first_output(model, inputs))


@pytest.mark.parametrize("name", ["bert", "vit", "gpt2", "wav2vec2", "bart", "llama"])
def test_exported(name: str) -> None:
    model, inputs = pruned(name)
    if name in ("gpt2", "bart", "llama"):
        inputs["use_cache"] = False  # type: ignore[assignment]
    program = torch.export.export(model, (), inputs, strict=False)
    with torch.no_grad():
        exported = program.module()(**inputs)["logits"]
    close(exported, first_output(model, inputs))


def test_exported_softly_pruned() -> None:
    model, inputs = soft_models.make("olmo2")
    Look(model).prune_heads({0: [1]}, check=inputs)
    program = torch.export.export(model, (), {**inputs, "use_cache": False}, strict=False)
    exported = program.module()(**inputs, use_cache=False)["logits"]
    close(exported, soft_models.logits(model, inputs))


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
    close(found, first_output(model, inputs))


ELSEWHERE = """
import json, sys
import topwork

found = {}
for name in sys.argv[1:]:
    work = topwork.load(name)
    rows = work.task.example_rows()
    before = work.predict(rows)
    kept = [list(layer.kept) for layer in work.look().layers]
    again = work.look().prune_heads({0: [0, 1, 2]}).removed
    after = work.predict(rows)
    trained = work.train(rows, steps=2, batch_size=4)["steps"]
    work.save(name + "-again")
    last = [list(layer.kept) for layer in topwork.load(name + "-again").look().layers]
    found[name] = {"before": before, "after": after, "kept": kept, "again": again, "last": last, "trained": trained}
print(json.dumps(found))
"""


def test_in_a_fresh_process_without_the_original_weights(tmp_path: Path) -> None:
    """Saved there, loaded here: the same predictions (generated with a cache), pruned again by original numbers,
    trained on, saved again. The base that it came from is gone."""
    made = {}
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    for kind, task in (("bert", "text-classification"), ("llama", "text-generation")):
        rows = topwork.load_plugins().task(task).example_rows()
        config = {"model_type": kind, **small, "initializer_range": 0.3}
        topwork.build(task, {"config": config}, rows=rows).save(tmp_path / "base")
        (tmp_path / "base" / "topwork.json").unlink()
        work = topwork.build(task, str(tmp_path / "base"), rows=rows)
        topwork.prune_heads(work.model, {0: [1], 1: [0, 3]})
        name = str(work.save(tmp_path / kind))
        shutil.rmtree(tmp_path / "base")
        before = work.predict(rows)
        topwork.prune_heads(work.model, {0: [0, 2]})
        made[name] = before, work.predict(rows)
    code = [sys.executable, "-c", ELSEWHERE, *made]
    done = subprocess.run(code, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for name, (before, after) in made.items():
        assert same_predictions(found[name]["before"], json.loads(json.dumps(before)))
        assert same_predictions(found[name]["after"], json.loads(json.dumps(after)))
        assert found[name]["kept"] == [[0, 2, 3], [1, 2]]
        assert list(found[name]["again"].values()) == [[0, 2]]
        assert found[name]["last"] == [[3], [1, 2]]
        assert found[name]["trained"] == 2
