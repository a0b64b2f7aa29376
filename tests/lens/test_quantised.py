"""Models whose linear layers torch has quantised dynamically: found, captured, masked; pruning is refused by name."""

from __future__ import annotations

import copy
from typing import Any

import lens_models
import pytest
import torch
from torch import nn

import topwork
from topwork import Refused
from topwork_lens.look import Look

NAMES = ("bert", "distilbert", "llama", "bart", "t5", "vit", "wav2vec2", "modernbert", "timm_vit")


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    """A model, its quantised form, and inputs."""
    model, batch = lens_models.make(request.param)
    supported = [engine for engine in torch.backends.quantized.supported_engines if engine != "none"]
    if not supported:
        pytest.skip("torch was built without an engine for quantised layers")
    torch.backends.quantized.engine = "x86" if "x86" in supported else supported[0]
    quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    return model, quantised, lens_models.without_labels(batch, model)


def test_a_quantised_model_has_the_layers_of_the_model(case: Any) -> None:
    model, quantised, _ = case
    layers, found = Look(model).layers, Look(quantised).layers
    assert [(layer.path, layer.heads, layer.width) for layer in found] == [
        (layer.path, layer.heads, layer.width) for layer in layers
    ]


def test_it_is_masked_like_the_model_and_captured(case: Any) -> None:
    model, quantised, inputs = case
    path = Look(model).layers[0].path
    outputs = []
    for form in (model, quantised):
        with torch.no_grad():
            plain = lens_models.first_output(form, inputs)
            with Look(form).mask_heads({path: [0, 2]}):
                outputs.append(lens_models.first_output(form, inputs) - plain)
    change, expected = outputs[1], outputs[0]
    assert change.norm() > 0
    assert (change - expected).norm() < 0.5 * expected.norm(), "eight bits change the effect a little, not what it is"
    with torch.no_grad(), Look(quantised).capture("entropy") as seen:
        lens_models.first_output(quantised, inputs)
    assert seen["entropy", path].isfinite().any()


def test_pruning_is_refused_by_name(case: Any) -> None:
    _, quantised, inputs = case
    look = Look(quantised)
    with pytest.raises(Refused, match=r"quantised or packed \(qint8\)") as refused:
        look.prune_heads({look.layers[0].path: [0]}, check=lambda: lens_models.first_output(quantised, inputs))
    assert refused.value.reason == "unknown_layout"
    assert not topwork.alterations(quantised)
