"""Gates on models with adapters of peft: those that stay act on what the adapter reads too, and outlive its merge."""

from __future__ import annotations

import copy
from typing import Any

import lens_models
import pytest
import torch
from tolerance import close
from torch import nn

from topwork import Refused
from topwork_lens.look import Look

peft = pytest.importorskip("peft")

NAMES = ("bert", "gpt2", "llama", "bart", "t5", "vit", "swin", "wav2vec2", "modernbert", "deberta_v2", "albert")


def with_adapters(model: Any, layers: list[Any]) -> Any:
    """LoRA on the projections of attention layers, with products that are not 0."""
    names = [
        f"{layer.path}.{name}"
        for layer in layers
        for name, module in model.get_submodule(layer.path).named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    ]
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=names, lora_dropout=0.0)).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return adapted


def without_columns(model: Any, layer: Any, head: int) -> Any:
    """A copy whose output projection reads nothing of an attention head."""
    other = copy.deepcopy(model)
    projection = other.get_submodule(f"{layer.path}.{layer.output}")
    columns = slice(head * layer.width, (head + 1) * layer.width)
    with torch.no_grad():
        (projection.weight.T if type(projection).__name__ == "Conv1D" else projection.weight)[:, columns] = 0
    return other


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest) -> Any:
    """A model, its first attention layer, inputs; and what it gives with adapters and without an attention head."""
    model, batch = lens_models.make(request.param)
    inputs = lens_models.without_labels(batch, model)
    layer = Look(model).layers[0]
    merged = with_adapters(copy.deepcopy(model), [layer]).merge_and_unload()
    expected = lens_models.first_output(without_columns(merged, layer, 1), inputs)
    assert (lens_models.first_output(merged, inputs) - expected).abs().max() > 1e-3 * expected.abs().max()
    return model, layer, inputs, expected


def same(model: Any, inputs: Any, expected: torch.Tensor) -> None:
    close(lens_models.first_output(model, inputs), expected, scale=10 * float(expected.abs().max()))


def test_a_mask_that_stays_holds_for_adapters_that_come_later(case: Any) -> None:
    model, layer, inputs, expected = case
    Look(model).keep_masked({layer.path: [1]})
    adapted = with_adapters(model, [layer])
    same(adapted, inputs, expected)
    same(copy.deepcopy(adapted), inputs, expected)
    same(adapted.merge_and_unload(), inputs, expected)


def test_a_mask_that_is_put_on_adapters_stays_when_they_are_merged(case: Any) -> None:
    model, layer, inputs, expected = case
    adapted = with_adapters(model, [layer])
    (path,) = (found.path for found in Look(adapted).layers if found.path.endswith(layer.path))
    with Look(adapted).mask_heads({path: [1]}):
        same(adapted, inputs, expected)
    Look(adapted).keep_masked({path: [1]})
    same(adapted, inputs, expected)
    merged = adapted.merge_and_unload()
    same(merged, inputs, expected)
    Look(merged).set_gates({layer.path: [1.0] * layer.heads})
    assert (lens_models.first_output(merged, inputs) - expected).abs().max() > 1e-3 * expected.abs().max()


def test_a_factor_acts_once_whatever_stands_around_the_projection(case: Any) -> None:
    model, layer, inputs, _ = case
    factors = [1.0, 0.5] + [1.0] * (layer.heads - 2)
    with Look(model).gates({layer.path: factors}):
        expected = lens_models.first_output(model, inputs)
    Look(model).set_gates({layer.path: factors})
    adapted = with_adapters(model, [layer])
    same(adapted.unload(), inputs, expected)


def test_pruning_with_adapters_on_is_refused_by_name(case: Any) -> None:
    model, layer, inputs, _ = case
    adapted = with_adapters(model, [layer])
    (path,) = (found.path for found in Look(adapted).layers if found.path.endswith(layer.path))
    with pytest.raises(Refused, match="merge what was put around it first"):
        Look(adapted).prune_heads({path: [1]}, check=inputs)
