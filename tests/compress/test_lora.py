"""Compression and LoRA: adapters are merged first, and a compressed model is trained on by new ones."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from lens_models import first_output, make, without_labels
from tolerance import close

import topwork

peft = pytest.importorskip("peft")
TARGETS = {"bert": ["query", "value", "intermediate.dense"], "llama": ["q_proj", "v_proj", "up_proj", "down_proj"]}


def adapted(name: str) -> tuple[Any, dict[str, Any]]:
    """A model with adapters that change what it computes."""
    model, batch = make(name)
    model = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=TARGETS[name]))
    torch.manual_seed(0)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.normal_(0, 0.1)
    return model.eval(), batch


@pytest.mark.parametrize("name", list(TARGETS))
def test_adapters_are_merged_first_and_then_count(name: str) -> None:
    model, batch = adapted(name)
    inputs = without_labels(batch, model)
    before = first_output(model, inputs)
    with pytest.raises(topwork.UsageError, match="adapters lie beside") as raised:
        topwork.compress(model, [batch], macs=0.7)
    assert "merge_and_unload" in str(raised.value.hint)
    close(first_output(model, inputs), before)
    merged = model.merge_and_unload()
    result = topwork.compress(merged, [batch], macs=0.7)
    assert result.plan.cost == result.after <= 0.7 * result.before
    assert result.pruned.check is not None and result.pruned.check.proves


@pytest.mark.parametrize("name", list(TARGETS))
def test_the_rank_of_an_adapter_is_no_number_of_neurons(name: str) -> None:
    model, batch = adapted(name)
    blocks = topwork.look(model).find_blocks(without_labels(batch, model))
    assert not [block.path for block in blocks if "lora_" in block.path or "base_layer" in block.path]


@pytest.mark.parametrize("name", list(TARGETS))
def test_a_compressed_model_takes_new_adapters_along_what_is_left(name: str) -> None:
    model, batch = make(name)
    topwork.compress(model, [batch], macs=0.7)
    inputs = without_labels(batch, model)
    plain = first_output(model, inputs)
    small = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(r=2, target_modules=TARGETS[name]))
    close(first_output(small, inputs), plain)  # adapters begin with products of 0
    loss = small(**batch).loss
    loss.backward()
    gradients = [value.grad for key, value in small.named_parameters() if "lora_B" in key]
    assert all(gradient is not None and bool(gradient.isfinite().all()) for gradient in gradients)
    close(first_output(small.merge_and_unload(), inputs), plain)
