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
def test_masked_equals_pruned_for_every_way_of_building_neurons(name: str) -> None:
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


def test_a_norm_between_is_refused_by_name() -> None:
    model, inputs = build.tiny("bitnet")
    look = Look(model)
    block = look.find_blocks(lambda: model(**inputs))[0]
    assert block.prunable == "" and "up_proj" in block.why
    with pytest.raises(Refused, match="norm") as caught:
        look.prune(neurons={0: [1]}, check=lambda: model(**inputs))
    assert caught.value.place == "layers.0.mlp.down_proj"
    assert caught.value.reason == "not_a_head"


@pytest.mark.parametrize("left", [1, 0])
def test_all_neurons_but_one_can_go_and_all_of_them(left: int) -> None:
    model, inputs = build.tiny("llama")
    masked = copy.deepcopy(model)
    removed = list(range(left, 64))
    zero_columns(masked, "layers.1.mlp.down_proj", removed)
    Look(model).prune(neurons={1: removed}, check=lambda: model(**inputs))
    assert model.layers[1].mlp.down_proj.in_features == left
    for actual, wanted in zip(outputs(model, inputs), outputs(masked, inputs), strict=True):
        close(actual, wanted)


@pytest.mark.parametrize("name", ["segformer", "gpt2", "wav2vec2"])
def test_pruned_again_by_original_numbers_and_rebuilt(name: str) -> None:
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


def test_a_saved_model_has_the_same_neurons(tmp_path: Any) -> None:
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
