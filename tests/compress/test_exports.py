"""Compressed models elsewhere, compared in numbers: torch.export, ONNX, torch.compile, bfloat16."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lens_models import first_output, make, without_labels
from tolerance import close

import topwork


def compressed(name: str) -> tuple[Any, dict[str, Any], Any]:
    """A model without half of what heads and neurons cost, its inputs, and what it computes."""
    model, batch = make(name)
    result = topwork.compress(model, [batch], macs=0.6)
    assert result.pruned.heads_after < result.pruned.heads_before
    assert result.pruned.neurons_after < result.pruned.neurons_before
    inputs = without_labels(batch, model)
    if name in ("gpt2", "llama"):
        inputs["use_cache"] = False
    return model, inputs, first_output(model, inputs)


@pytest.mark.parametrize("name", ["bert", "vit", "gpt2"])
def test_exported(name: str) -> None:
    model, inputs, wanted = compressed(name)
    program = torch.export.export(model, (), inputs, strict=False)
    with torch.no_grad():
        close(program.module()(**inputs)["logits"], wanted)


def test_onnx(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, inputs, wanted = compressed("bert")
    file = tmp_path / "model.onnx"
    program = torch.onnx.export(model, (), kwargs=inputs, dynamo=True, verbose=False)
    assert program is not None
    program.save(file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    feed = {entry.name: inputs[entry.name].numpy() for entry in session.get_inputs()}
    close(torch.from_numpy(session.run(None, feed)[0]), wanted)


def test_compiled() -> None:
    model, inputs, wanted = compressed("bert")
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    close(first_output(compiled, inputs), wanted)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_in_bfloat16(name: str) -> None:
    """What rounding does to the compressed model is no more than a few times what it does to the whole one."""
    whole, batch = make(name)
    model, inputs, wanted = compressed(name)
    inputs = {key: value for key, value in inputs.items() if key in without_labels(batch, model) or key == "use_cache"}
    errors = []
    for network, exact in ((whole, first_output(whole, inputs)), (model, wanted)):
        narrow = copy.deepcopy(network).to(torch.bfloat16)
        chosen = {
            key: value.bfloat16() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
            for key, value in inputs.items()
        }
        rounded = first_output(narrow, chosen)
        assert rounded.dtype == torch.bfloat16
        errors.append(float((rounded.float() - exact).abs().max() / exact.abs().max()))
    assert errors[1] <= max(4 * errors[0], 64 * torch.finfo(torch.bfloat16).eps)


def test_a_model_in_bfloat16_is_compressed_as_one_in_float32() -> None:
    """Scores are those of rounded gradients, so the choice may differ in a few neurons; the counted budget does not."""
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        model, batch = make("bert")
        results.append(topwork.compress(model.to(dtype), [batch], macs=0.6))
        assert next(model.parameters()).dtype == dtype
    first, second = results
    assert first.before == second.before and second.after <= 0.6 * second.before
    assert abs(first.after - second.after) < 0.02 * first.before
    assert second.pruned.check is not None and second.pruned.check.difference <= second.pruned.check.tolerance
