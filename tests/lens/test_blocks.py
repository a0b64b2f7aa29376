"""Feed-forward neurons are found by what runs, however they are built, and cut with the proof masked = pruned."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tolerance import close
from torch import nn

import topwork
from architectures import build
from topwork import Block, CheckpointError, Producer, Refused, UsageError, alterations
from topwork_lens.blocks.description import describe_block
from topwork_lens.blocks.rebuild import rebuild_blocks
from topwork_lens.look import Look
from topwork_lens.pruning.equivalence import tensors

#: model type -> forms of the producers of its first block, modules between them, and neurons of that block
KINDS: dict[str, tuple[list[str], tuple[str, ...], str]] = {
    "bert": (["rows"], (), "encoder.layer.0.output.dense"),
    "albert": (["rows"], (), "encoder.albert_layer_groups.0.albert_layers.0.ffn_output"),
    "gpt2": (["rows"], (), "h.0.mlp.c_proj"),
    "llama": (["rows", "rows"], (), "layers.0.mlp.down_proj"),
    "phi3": (["halves"], (), "layers.0.mlp.down_proj"),
    "t5": (["rows"], (), "encoder.block.0.layer.1.DenseReluDense.wo"),
    "segformer": (["rows"], ("dwconv.dwconv",), "stages.0.blocks.0.mlp.fc2"),
    "convnext": (["rows"], (), "encoder.stages.0.layers.0.pwconv2"),
    "wav2vec2": (["rows"], ("conv_layers.0.layer_norm",), "feature_extractor.conv_layers.1.conv"),
}


def outputs(model: Any, inputs: Any) -> list[torch.Tensor]:
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        return tensors(model(**copy.deepcopy(inputs)))


def zero_columns(model: Any, path: str, neurons: list[int]) -> None:
    """Mask neurons by hand: what reads them has weights of 0 for them."""
    consumer = model.get_submodule(path)
    dim = 0 if hasattr(consumer, "nf") else 1
    with torch.no_grad():
        consumer.weight.index_fill_(dim, torch.tensor(neurons), 0)


@pytest.mark.parametrize("name", list(KINDS))
def test_p3_masked_equals_pruned_for_every_way_of_building_neurons(name: str) -> None:
    model, inputs = build.tiny(name)
    look = Look(model)
    blocks = look.find_blocks(lambda: model(**copy.deepcopy(inputs)))
    forms, between, path = KINDS[name]
    assert blocks[0].path == path
    assert [producer.form for producer in blocks[0].producers] == forms
    assert blocks[0].between == between
    neurons = {block.path: list(range(0, block.width, 2)) for block in blocks if block.prunable}
    masked, plain = copy.deepcopy(model), outputs(model, inputs)
    for key, removed in neurons.items():
        zero_columns(masked, key, removed)
    expected = outputs(masked, inputs)
    before = sum(parameter.numel() for parameter in model.parameters())
    result = look.prune(neurons=neurons, check=lambda: model(**copy.deepcopy(inputs)))
    assert len(neurons) == len(blocks)
    assert result.removed_neurons == neurons
    assert result.parameters_after < before
    assert all(comparison.proves for comparison in result.by_layer.values())
    for actual, wanted, original in zip(outputs(model, inputs), expected, plain, strict=True):
        close(actual, wanted)
        assert float((actual - original).abs().max()) > 100 * float((actual - wanted).abs().max())


def test_attention_and_residual_streams_are_no_neurons() -> None:
    """Values reach the output projection row by row, and are attention all the same."""
    model, inputs = build.tiny("bert")
    paths = [block.path for block in Look(model).find_blocks(lambda: model(**inputs))]
    assert paths == [f"encoder.layer.{layer}.output.dense" for layer in range(model.config.num_hidden_layers)]


def test_p10_a_norm_between_is_refused_by_name() -> None:
    model, inputs = build.tiny("bitnet")
    look = Look(model)
    block = look.find_blocks(lambda: model(**inputs))[0]
    assert block.prunable == "" and "up_proj" in block.why
    with pytest.raises(Refused, match="norm") as caught:
        look.prune(neurons={0: [1]}, check=lambda: model(**inputs))
    assert caught.value.place == "layers.0.mlp.down_proj"
    assert caught.value.reason == "not_a_head"


@pytest.mark.parametrize("left", [1, 0])
def test_p3_all_neurons_but_one_can_go_and_all_of_them(left: int) -> None:
    model, inputs = build.tiny("llama")
    masked = copy.deepcopy(model)
    removed = list(range(left, 64))
    zero_columns(masked, "layers.1.mlp.down_proj", removed)
    Look(model).prune(neurons={1: removed}, check=lambda: model(**inputs))
    assert model.layers[1].mlp.down_proj.in_features == left
    for actual, wanted in zip(outputs(model, inputs), outputs(masked, inputs), strict=True):
        close(actual, wanted)


@pytest.mark.parametrize("name", ["segformer", "gpt2", "wav2vec2"])
def test_p7_pruned_again_by_original_numbers_and_rebuilt(name: str) -> None:
    model, inputs = build.tiny(name)
    masked, fresh = copy.deepcopy(model), copy.deepcopy(model)
    look = Look(model)

    def call() -> Any:
        return model(**copy.deepcopy(inputs))

    look.prune(neurons={0: [0, 2, 5]}, check=call)
    result = look.prune(neurons={0: [2, 3, 9], 1: [4]}, check=call)
    first, second = (block.path for block in look.find_blocks(call)[:2])
    assert result.removed_neurons == {first: [3, 9], second: [4]}
    assert look.find_blocks(call)[0].removed == (0, 2, 3, 5, 9)
    zero_columns(masked, first, [0, 2, 3, 5, 9])
    zero_columns(masked, second, [4])
    rebuild_blocks(fresh, copy.deepcopy(alterations(model)["lens"]))
    fresh.load_state_dict(model.state_dict())
    for actual, again, wanted in zip(outputs(model, inputs), outputs(fresh, inputs), outputs(masked, inputs)):
        close(actual, wanted)
        assert torch.equal(actual, again)


def test_p7_a_saved_model_has_the_same_neurons(tmp_path: Any) -> None:
    model, inputs = build.tiny("bert")
    topwork.prune(model, heads={0: [1]}, neurons={0: [1, 5], 1: range(60)}, check=inputs)
    topwork.save_pretrained(model, tmp_path / "model")
    loaded = topwork.from_pretrained(tmp_path / "model")
    assert [len(block.kept) for block in topwork.look(loaded).find_blocks(inputs)] == [62, 4]
    for actual, wanted in zip(outputs(loaded, inputs), outputs(model, inputs), strict=True):
        assert torch.equal(actual, wanted)


def test_heads_and_neurons_go_together_or_not_at_all() -> None:
    model, inputs = build.tiny("bert")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UsageError, match="no neuron 64"):
        topwork.prune(model, heads={0: [0]}, neurons={0: [64]}, check=inputs)
    model.embeddings.other = nn.Linear(64, 32)
    model.embeddings.other.weight = model.encoder.layer[1].output.dense.weight  # what would be cut is used elsewhere
    with pytest.raises(Refused, match="embeddings"):
        topwork.prune(model, heads={0: [0]}, neurons={0: [1], 1: [1]}, check=inputs)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items() if name in before)


def test_masking_neurons_is_a_gate_on_their_reader() -> None:
    model, inputs = build.tiny("phi3")
    masked = copy.deepcopy(model)
    zero_columns(masked, "layers.0.mlp.down_proj", [0, 7])
    with Look(model).mask_neurons({0: [0, 7]}, check=inputs):
        actual = outputs(model, inputs)
    for gated, wanted in zip(actual, outputs(masked, inputs), strict=True):
        close(gated, wanted)


class Shuffled(nn.Module):
    """Neurons whose order is reversed between producer and consumer: no test of locality finds them."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 10), nn.Linear(10, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(x)).flip(-1))


def reversed_block(path: str, module: nn.Module, model: nn.Module) -> Block | None:
    inside, _, name = path.rpartition(".")
    if name != "down" or not isinstance(model.get_submodule(inside), Shuffled):
        return None
    block = describe_block(model, inside, "down", [Producer("up")], pattern="")
    made = tuple(replace(piece, indices=list(reversed(piece.indices))) for piece in block.slices[1:])
    return replace(block, slices=(block.slices[0], *made))


def taught(describe: Any) -> Any:
    return SimpleNamespace(hook=SimpleNamespace(block=describe, attention_layer=lambda path, module, model: None))


def test_a_plugin_teaches_a_block_and_a_wrong_lesson_is_refused() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Shuffled(), Shuffled()).eval()
    x = torch.randn(3, 5, 6)
    assert [block.prunable for block in Look(model).find_blocks(lambda: model(x))] == ["", ""]
    whole = copy.deepcopy(model)

    def wrong(path: str, module: nn.Module, model: nn.Module) -> Block | None:
        block = reversed_block(path, module, model)
        return block and describe_block(model, block.inside, "down", [Producer("up")], pattern="")

    with pytest.raises(Refused, match="masked and pruned differ"):
        Look(model, taught(wrong)).prune(neurons={0: [1, 2]}, check=lambda: model(x))
    assert torch.equal(model(x), whole(x))
    # feature 8 of what reads the neurons is made by row 1
    zero_columns(whole, "0.down", [8])
    taught_model = nn.Sequential(*(copy.deepcopy(layer) for layer in model)).eval()
    look = Look(taught_model, taught(reversed_block))
    look.prune(neurons={0: [8]}, check=lambda: taught_model(x))
    close(taught_model(x), whole(x))
    assert look.find_blocks(lambda: taught_model(x))[0].removed == (8,)


def test_a_damaged_manifest_is_refused() -> None:
    model, inputs = build.tiny("bert")
    path = "encoder.layer.0.output.dense"
    Look(model).prune(neurons={0: [1]}, check=inputs)
    section = copy.deepcopy(alterations(model)["lens"])
    fresh, _ = build.tiny("bert")
    with pytest.raises(CheckpointError, match="keeps"):
        rebuild_blocks(fresh, {"blocks": {path: {**section["blocks"][path], "kept": [70]}}})
    with pytest.raises(CheckpointError, match="no such block"):
        rebuild_blocks(fresh, {"blocks": {path: {**section["blocks"][path], "producers": [["nowhere", "rows"]]}}})


# ---------------------------------------------------------------- gates that stay, and experts


def test_gates_of_neurons_stay_are_saved_and_follow_pruning(tmp_path: Any) -> None:
    model, inputs = build.tiny("bert")
    path = "encoder.layer.0.output.dense"
    masked = copy.deepcopy(model)
    zero_columns(masked, path, [1, 5, 9])
    look = Look(model)
    assert look.keep_masked_neurons({0: [1, 5]}, check=inputs) == {path: [1, 5]}
    look.keep_masked_neurons({0: [9]}, check=inputs)
    for kept, wanted in zip(outputs(model, inputs), outputs(masked, inputs), strict=True):
        close(kept, wanted)
    look.prune(neurons={0: [1, 2]}, check=inputs)
    zero_columns(masked, path, [2])
    topwork.save_pretrained(model, tmp_path / "model")
    loaded = topwork.from_pretrained(tmp_path / "model")
    for kept, again, wanted in zip(outputs(model, inputs), outputs(loaded, inputs), outputs(masked, inputs)):
        close(kept, wanted)
        assert torch.equal(kept, again)
    fresh, _ = build.tiny("bert")
    section = copy.deepcopy(alterations(model)["lens"])
    with pytest.raises(CheckpointError, match="gates for 3 neurons"):
        rebuild_blocks(fresh, {**section, "neuron_gates": {path: [0.0, 1.0, 1.0]}})
    with pytest.raises(CheckpointError, match="no such block"):
        rebuild_blocks(fresh, {"neuron_gates": {"nowhere": [0.0]}})


def test_what_cannot_be_cut_can_be_switched_off(tmp_path: Any) -> None:
    """A second module has the very weight that pruning would cut."""
    model, inputs = build.tiny("bert")
    path = "encoder.layer.1.output.dense"
    model.embeddings.other = nn.Linear(64, 32)
    model.embeddings.other.weight = model.get_submodule(path).weight
    block = Look(model).find_blocks(inputs)[1]
    assert (block.path, block.prunable) == (path, "") and "embeddings" in block.why
    with Look(model).mask_neurons({1: [3, 4]}, check=inputs):
        wanted = outputs(model, inputs)
    Look(model).keep_masked_neurons({1: [3, 4]}, check=inputs)
    for kept, masked in zip(outputs(model, inputs), wanted, strict=True):
        close(kept, masked)


EXPERTS: dict[str, dict[str, Any]] = {
    "MixtralForCausalLM": {"num_local_experts": 4},
    "Qwen3MoeForCausalLM": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    "GptOssForCausalLM": {"num_local_experts": 4, "num_experts_per_tok": 2},  # fused in pairs, with biases, transposed
}


def mixture(name: str) -> tuple[Any, dict[str, torch.Tensor]]:
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    kind = getattr(transformers, name)
    more = {"head_dim": 8, "intermediate_size": 24, "initializer_range": 0.3, "vocab_size": 60}
    model = kind(kind.config_class(**sizes, **more, **EXPERTS[name])).eval()
    return model, {"input_ids": torch.randint(3, 60, (2, 9))}


@pytest.mark.parametrize("name", list(EXPERTS))
def test_neurons_of_experts_are_cut_as_they_are_masked(name: str, tmp_path: Any) -> None:
    model, inputs = mixture(name)
    masked = copy.deepcopy(model)
    look = Look(model)
    blocks = look.find_blocks(inputs)
    assert [(block.gate, block.width, block.prunable) for block in blocks] == [("weight", 24, "hard")] * 2
    gone = [0, 3, 5, 7, 20, 21, 22, 23]  # kernels of experts want widths of 16 bytes
    with torch.no_grad():
        for block in blocks:
            piece = block.slices[0]
            weight = masked.get_submodule(block.path)._parameters[piece.parameter]
            weight.index_fill_(piece.dim, torch.tensor(gone), 0)
    with look.mask_neurons({0: gone, 1: gone}, check=inputs):
        close(model(**inputs).logits.detach(), masked(**inputs).logits.detach())
    before = sum(parameter.numel() for parameter in model.parameters())
    result = topwork.prune(model, neurons={0: gone, 1: gone}, check=inputs)
    assert (
        result.check is not None and result.check.proves and (result.neurons_before, result.neurons_after) == (48, 32)
    )
    assert sum(parameter.numel() for parameter in model.parameters()) < before - 2 * 4 * 8 * 3 * 32 + 1
    close(model(**inputs).logits.detach(), masked(**inputs).logits.detach())
    topwork.save_pretrained(model, tmp_path / "model")
    loaded = topwork.from_pretrained(tmp_path / "model")
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    again = topwork.prune(loaded, neurons={0: [*gone, 1, 2, 4, 6]}, check=inputs)
    assert list(again.removed_neurons.values()) == [[1, 2, 4, 6]]
    with torch.no_grad():
        piece = blocks[0].slices[0]
        weight = masked.get_submodule(blocks[0].path)._parameters[piece.parameter]
        weight.index_fill_(piece.dim, torch.tensor([1, 2, 4, 6]), 0)
    close(loaded(**inputs).logits.detach(), masked(**inputs).logits.detach())


def test_experts_refuse_what_they_cannot_have() -> None:
    model, inputs = mixture("MixtralForCausalLM")
    before = model(**inputs).logits
    with pytest.raises(Refused, match="experts have none"):
        Look(model).keep_masked_neurons({0: [1]}, check=inputs)
    assert torch.equal(model(**inputs).logits, before)
    topwork.prune(model, neurons={0: [0, 1, 2, 3]}, check=inputs)
    note = copy.deepcopy(alterations(model)["lens"]["blocks"])
    fresh, _ = mixture("MixtralForCausalLM")
    with pytest.raises(CheckpointError, match="damaged") as damaged:
        rebuild_blocks(fresh, {"blocks": {path: {**entry, "kept": [99]} for path, entry in note.items()}})
    assert damaged.value.place == "model.layers.0.mlp.experts"
