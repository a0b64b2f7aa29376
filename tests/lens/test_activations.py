"""Activations of every part of a model, against the library's own outputs, hooks written here, and autograd."""

from __future__ import annotations

import copy
from typing import Any

import lens_models
import pytest
import torch
from tolerance import close

from architectures import build
from topwork import Refused, UsageError
from topwork_lens.look import Look

#: model -> the stack, and the module whose output is the state after the final norm
NORMS = {
    "gpt2": ("transformer.h", "transformer.ln_f"),
    "llama": ("model.layers", "model.norm"),
    "vit": ("vit.layers", "vit.layernorm"),
    "modernbert": ("model.layers", "model.final_norm"),
    "timm_vit": ("blocks", "norm"),
    "swin": ("swin.encoder.layers", "swin.layernorm"),
}
#: model -> its task head
HEADS = {"bert": "classifier", "gpt2": "lm_head", "vit": "classifier", "wav2vec2": "projector", "timm_vit": "head"}
#: model -> the first feed-forward network: what reads the state, what writes it
NETWORKS = {
    "bert": ("bert.encoder.layer.0.intermediate.dense", "bert.encoder.layer.0.output.dense"),
    "llama": ("model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"),
    "gpt2": ("transformer.h.0.mlp.c_fc", "transformer.h.0.mlp.c_proj"),
    "vit": ("vit.layers.0.mlp.fc1", "vit.layers.0.mlp.fc2"),
    "swin": ("swin.encoder.layers.0.blocks.0.mlp.fc1", "swin.encoder.layers.0.blocks.0.mlp.fc2"),
}
WITHOUT_ATTENTION = ("convnext", "resnet", "mamba", "poolformer")
SAMPLE = ("gpt_bigcode", "zamba2", "t5", "swinv2", "wavlm", "timm/eva02_tiny_patch14_224", "falcon", "albert")


def prepared(name: str) -> tuple[Any, dict[str, torch.Tensor]]:
    model, batch = lens_models.make(name)
    return model, lens_models.without_labels(batch, model)


class Watched:
    """Inputs and outputs of modules, kept by hooks of this test."""

    def __init__(self, model: torch.nn.Module, *paths: str) -> None:
        self.inputs: dict[str, torch.Tensor] = {}
        self.outputs: dict[str, torch.Tensor] = {}
        for path in paths:
            model.get_submodule(path).register_forward_hook(self._keep(path))

    def _keep(self, path: str) -> Any:
        def keep(module: Any, args: tuple, output: torch.Tensor) -> None:
            self.inputs[path], self.outputs[path] = args[0], output

        return keep


@pytest.mark.parametrize("name", NORMS)
def test_the_state_after_the_final_norm_is_seen_and_belongs_to_its_stack(name: str) -> None:
    model, inputs = prepared(name)
    stack, norm = NORMS[name]
    watched = Watched(model, norm)
    with torch.no_grad(), Look(model).capture("final_norm") as seen:
        model(**inputs)
    assert torch.equal(seen["final_norm", stack], watched.outputs[norm])
    assert torch.equal(seen["final_norm", 0], watched.outputs[norm])


def test_a_model_whose_norms_stand_before_its_layers_has_no_final_norm() -> None:
    model, inputs = prepared("bert")
    with torch.no_grad(), Look(model).capture("final_norm", "embeddings") as seen:
        output = model(**inputs, output_hidden_states=True)
    close(seen["embeddings", 0], output.hidden_states[0])
    with pytest.raises(Refused, match="no final_norm here: its last layer returns"):
        seen["final_norm", 0]


@pytest.mark.parametrize("name", HEADS)
def test_the_input_of_the_task_head_is_seen(name: str) -> None:
    model, inputs = prepared(name)
    watched = Watched(model, HEADS[name])
    with torch.no_grad(), Look(model).capture("head_input") as seen:
        model(**inputs)
    assert torch.equal(seen["head_input", HEADS[name]], watched.inputs[HEADS[name]])


@pytest.mark.parametrize("name", NETWORKS)
def test_feed_forward_networks_are_seen_with_their_gradients(name: str) -> None:
    model, inputs = prepared(name)
    first, last = NETWORKS[name]
    watched = Watched(model, first, last)
    names = ("mlp_input", "mlp_activation", "mlp_output")
    with Look(model).capture(*names, *(f"{what}_gradient" for what in names)) as seen:
        output = model(**inputs)
        loss = (output.logits if hasattr(output, "logits") else output).square().mean()
        tensors = [watched.inputs[first], watched.inputs[last], watched.outputs[last]]
        loss.backward(retain_graph=True)
    expected = torch.autograd.grad(loss, tensors)
    path = next(iter(seen("mlp_output")))
    for what, tensor, gradient in zip(names, tensors, expected, strict=True):
        assert torch.equal(seen[what, path], tensor)
        close(seen[f"{what}_gradient", path], gradient)


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2", "bart", "modernbert", "swin", "deberta_v2"])
def test_shares_of_attention_heads_are_columns_of_the_output_projection(name: str) -> None:
    model, inputs = prepared(name)
    look = Look(model)
    with torch.no_grad(), look.capture("context", "head_output", "attention_output") as seen:
        model(**inputs)
    for layer in look.layers:
        projection = model.get_submodule(f"{layer.path}.{layer.output}")
        weight = projection.weight.T if name == "gpt2" else projection.weight
        columns = weight.unflatten(1, (layer.heads, layer.width))
        expected = torch.einsum("...hw,dhw->...hd", seen["context", layer.path], columns)
        close(seen["head_output", layer.path], expected, scale=1.0)
        total = expected.sum(-2) + (0 if projection.bias is None else projection.bias)
        close(seen["attention_output", layer.path], total, scale=1.0)


@pytest.mark.parametrize("name", ["bert", "llama", "vit", "bart"])
def test_gradients_of_hidden_states_are_those_of_autograd(name: str) -> None:
    model, inputs = prepared(name)
    with Look(model).capture("hidden_states", "hidden_states_gradient") as seen:
        output = model(**inputs, output_hidden_states=True)
        loss = output.logits.square().mean()
        loss.backward(retain_graph=True)
    theirs = output.get("hidden_states") or output.decoder_hidden_states
    expected = torch.autograd.grad(loss, theirs[:-1])
    stack = list(seen.hidden_states())[-1]
    for index, gradient in enumerate(expected):
        close(seen["hidden_states_gradient", (stack, index)], gradient)
        assert seen["hidden_states", (stack, index)].shape == gradient.shape


@pytest.mark.parametrize("name", WITHOUT_ATTENTION)
def test_models_without_attention_have_activations_too(name: str) -> None:
    model, inputs = build.tiny(name)
    look = Look(model)
    with torch.no_grad(), look.capture("embeddings", "hidden_states") as seen:
        model(**copy.deepcopy(dict(inputs)))
    states = seen.hidden_states()
    assert all(torch.equal(seen["embeddings", stack], states[stack][0]) for stack in states)
    with pytest.raises(Refused, match="no attention layer"), look.capture("attention_output"):
        pass


def test_layers_are_stacked_where_their_shapes_allow() -> None:
    model, inputs = prepared("bart")
    with torch.no_grad(), Look(model).capture("entropy", "mlp_output", "hidden_states") as seen:
        model(**inputs)
    entropy = seen.stack("entropy", "encoder")
    assert entropy.shape == (2, 4, 4, 9)
    assert torch.equal(entropy[1], seen["entropy", ("encoder", 1)])
    assert seen.stack("entropy").shape == (6, 4, 4, 9)
    assert seen.stack("mlp_output", "model.decoder.layers").shape == (2, 4, 9, 32)
    assert seen.stack("hidden_states", "model.encoder.layers").shape == (3, 4, 9, 32)
    with pytest.raises(UsageError, match="name one"):
        seen.stack("hidden_states")
    swin, pictures = prepared("swin")
    with torch.no_grad(), Look(swin).capture("entropy") as seen:
        swin(**pictures)
    with pytest.raises(UsageError, match="several shapes"):
        seen.stack("entropy")


def test_activations_go_to_disk_and_their_memory_is_bounded(tmp_path: Any) -> None:
    model, inputs = prepared("bert")
    look = Look(model)
    with torch.no_grad(), look.capture("mlp_activation") as kept:
        model(**inputs)
    with torch.no_grad(), look.capture("mlp_activation", folder=tmp_path, memory=1) as seen:
        model(**inputs)
    assert torch.equal(seen.stack("mlp_activation"), kept.stack("mlp_activation"))
    assert len(list(tmp_path.glob("*.safetensors"))) == 3
    with torch.no_grad(), pytest.raises(UsageError, match="exceeds"), look.capture("mlp_activation", memory=1000):
        model(**inputs)


def consistent(name: str) -> None:
    """Captured activations of one architecture explain each other."""
    model, inputs = build.tiny(name)
    look = Look(model)
    names = ["embeddings", "hidden_states", "attention_output", "head_output", "context"]
    with torch.no_grad(), look.capture(*names, layers=[layer.path for layer in look.layers if layer.output]) as seen:
        model(**copy.deepcopy(dict(inputs)))
    for path in seen.values.get("head_output", {}):
        layer = look[path]
        projection = model.get_submodule(f"{layer.path}.{layer.output}")
        calls = zip(seen.calls("head_output", path), seen.calls("attention_output", path), strict=True)
        for (shares, output), context in zip(calls, seen.calls("context", path), strict=True):
            assert shares.shape[-2] == context.shape[-2] == len(layer.kept)
            bias = getattr(projection, "bias", None)
            close(shares.sum(-2) + (0 if bias is None else bias.detach()), output, scale=float(output.abs().max()) + 1)
    assert all(state.isfinite().all() for states in seen.hidden_states().values() for state in states)


@pytest.mark.parametrize("name", SAMPLE)
def test_shares_add_up_to_the_output_in_a_sample_of_architectures(name: str) -> None:
    consistent(name)


@pytest.mark.architectures
@pytest.mark.parametrize("name", [name for name in build.sixty() if name not in SAMPLE])
def test_shares_add_up_to_the_output_in_every_architecture(name: str) -> None:
    consistent(name)
