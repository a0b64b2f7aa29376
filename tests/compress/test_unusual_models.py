"""Compression of models whose neurons lie in experts, in chains of convolutions, or behind a norm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tolerance import close

import topwork
from topwork import Batch, Item
from topwork_compress.compression import Compression
from topwork_compress.plan import Settings
from topwork_lens.flops import count_flops
from topwork_lens.scoring.plain_models import own_loss, single_items

SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 60}
TOKENS = 9


def mixtral() -> tuple[Any, dict[str, torch.Tensor]]:
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 40}
    config = MixtralConfig(**SIZES, **experts, num_key_value_heads=2, head_dim=8, initializer_range=0.3)
    ids = torch.randint(3, 60, (3, TOKENS))
    return MixtralForCausalLM(config).eval(), {"input_ids": ids, "labels": ids}


def mobilevit() -> tuple[Any, dict[str, torch.Tensor]]:
    from transformers import MobileViTConfig, MobileViTForImageClassification

    torch.manual_seed(0)
    config = MobileViTConfig(
        image_size=64,
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 16, 24, 32, 40, 48, 64],
        num_attention_heads=4,
        expand_ratio=2.0,
        num_labels=3,
    )
    generator = torch.Generator().manual_seed(1)
    return MobileViTForImageClassification(config).eval(), {
        "pixel_values": torch.randn(3, 3, 64, 64, generator=generator),
        "labels": torch.tensor([0, 1, 2]),
    }


def bitnet() -> tuple[Any, dict[str, torch.Tensor]]:
    from transformers import BitNetConfig, BitNetForCausalLM

    torch.manual_seed(0)
    config = BitNetConfig(**SIZES, intermediate_size=48, num_key_value_heads=2, initializer_range=0.3)
    ids = torch.randint(3, 60, (2, TOKENS))
    return BitNetForCausalLM(config).eval(), {"input_ids": ids, "labels": ids}


def counted(model: Any, batch: dict[str, torch.Tensor]) -> int:
    rows = list(single_items(batch))
    return count_flops(model, [], lambda: [own_loss(model, row) for row in rows]).total // 2


def squares(model: Any, batch: Batch) -> torch.Tensor:
    """The mean square of the logits of each row."""
    return model(**batch.inputs).logits.square().flatten(1).mean(1)


def test_products_of_experts_are_counted() -> None:
    """Every token meets two experts: one product makes gates and neurons, 80 together, another reads the 40."""
    model, batch = mixtral()
    experts = 2 * 3 * TOKENS * 2 * (32 * 80 + 40 * 32)
    projections = 2 * 3 * TOKENS * (32 * 32 * 2 + 32 * 16 * 2 + 32 * 4) + 3 * TOKENS * 32 * 60
    scores = 2 * 3 * 4 * TOKENS * TOKENS * 8 * 2
    assert counted(model, batch) == experts + projections + scores


def test_experts_are_compressed_in_widths_that_their_kernels_take(tmp_path: Path) -> None:
    model, batch = mixtral()
    result = topwork.compress(model, [batch], macs=0.6)
    assert result.plan.cost == result.after == counted(model, batch) <= 0.6 * result.before
    left = {line["path"]: line for line in result.json()["tables"]["what is left"]}
    experts = [line for path, line in left.items() if path.endswith("experts")]
    assert len(experts) == 2 and all(line["after"] % 8 == 0 for line in experts)
    assert sum(line["after"] for line in experts) < 80
    topwork.save_pretrained(model, tmp_path / "small")
    loaded = topwork.from_pretrained(tmp_path / "small")
    assert torch.equal(loaded(input_ids=batch["input_ids"]).logits, model(input_ids=batch["input_ids"]).logits)


def test_scores_of_experts_are_those_of_rows_alone() -> None:
    """The loss of a row is changed by a factor on the weights that read a neuron, in all experts alike."""
    model, batch = mixtral()
    compression = Compression(model, list(single_items(batch)), squares, None, Settings())
    path = next(path for path in compression.units.chosen if path.endswith("experts"))
    unit, gradients = compression.units.chosen[path], compression.scores.gradients[path]
    weight = model.get_submodule(path).get_parameter(unit.slices[0].parameter)
    assert gradients.shape == (3, 40)
    for row, neuron in ((0, 0), (2, 39)):
        alone, losses = list(single_items(batch))[row], []
        for factor in (1 + 1e-2, 1 - 1e-2):
            before = weight.data.clone()
            with torch.no_grad():
                weight.select(unit.slices[0].dim, neuron).mul_(factor)
                losses.append(float(squares(model, alone)))
            weight.data = before
        assert float(gradients[row, neuron]) == pytest.approx((losses[0] - losses[1]) / 2e-2, rel=0.02, abs=2e-5)


def test_experts_stay_whole_where_rows_cannot_be_parted() -> None:
    model, batch = mixtral()
    together = Batch({**batch, "position_ids": torch.arange(TOKENS)[None]}, [Item(row, {}) for row in range(3)])

    result = topwork.compress(model, [together], macs=0.9, row_losses=squares)
    assert all("one row at a time" in why for why in result.kept_whole.values()) and len(result.kept_whole) == 2


def test_convolutions_in_a_chain_are_cut_from_the_inside_out() -> None:
    """What one block keeps is what the modules around the next one are given."""
    model, batch = mobilevit()
    inputs = {"pixel_values": batch["pixel_values"]}
    look = topwork.look(model)
    blocks = look.find_blocks(inputs)
    neurons = {block.path: list(block.kept[::2]) for block in blocks if block.prunable}
    around = {block.inside for block in blocks}
    assert any(inner.startswith(f"{outer}.") for inner in around for outer in around)
    with look.mask_neurons(neurons, check=inputs):
        wanted = model(**inputs).logits.detach()
    assert look.prune(neurons=neurons, check=inputs).neurons_after < sum(len(block.kept) for block in blocks)
    close(model(**inputs).logits.detach(), wanted)


def test_what_a_residual_stream_adds_to_is_no_block_of_one_row_either() -> None:
    model, batch = mobilevit()
    several = {block.path for block in topwork.look(model).find_blocks({"pixel_values": batch["pixel_values"]})}
    single = {block.path for block in topwork.look(model).find_blocks({"pixel_values": batch["pixel_values"][:1]})}
    assert several == single


def test_a_convolutional_transformer_is_compressed() -> None:
    model, batch = mobilevit()
    result = topwork.compress(model, [batch], macs=0.7)
    assert result.plan.cost == result.after <= 0.7 * result.before
    assert sum(result.plan.costs.removable(result.plan.units).values()) < result.before  # chains are counted once
    assert result.pruned.check is not None and result.pruned.check.difference <= result.pruned.check.tolerance


def test_p10_what_cannot_be_cut_stays_and_says_why() -> None:
    model, batch = bitnet()
    with pytest.raises(topwork.UsageError, match="cannot be removed") as raised:
        topwork.compress(model, [batch], macs=0.5)
    assert "layers.0.self_attn: a slice of its context" in str(raised.value.hint)
    with pytest.raises(topwork.UsageError, match="nothing of this model") as raised:
        topwork.compress(model, [batch], macs=0.5)  # by then it is known of all layers
    assert "layers.0.self_attn: a slice of its context" in str(raised.value.hint)
