"""Activations of models with several towers, with experts, and with norms at the end of layers: each is that of a hook
of this test, or refused by name."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from torch import nn

from architectures import build
from topwork import Refused
from topwork_lens.look import Look

#: model type -> stack of each tower
TOWERS = {
    "clip": ("vision_model.encoder.layers", "text_model.encoder.layers"),
    "siglip": ("vision_model.encoder.layers", "text_model.encoder.layers"),
    "llava": ("vision_tower.encoder.layers", "language_model.layers"),
    "florence2": ("vision_tower.blocks", "language_model.encoder.layers", "language_model.decoder.layers"),
    "blip-2": ("vision_model.encoder.layers", "qformer.encoder.layer", "language_model.model.decoder.layers"),
}
#: model type -> the norms after its stacks
AFTER = {
    "clip": ("vision_model.post_layernorm", "text_model.final_layer_norm"),
    "siglip": ("vision_model.post_layernorm", "text_model.final_layer_norm"),
    "llava": ("vision_tower.post_layernorm", "language_model.norm"),
    "florence2": ("", "", ""),
    "blip-2": ("vision_model.post_layernorm", "", "language_model.model.decoder.final_layer_norm"),
}
#: model type -> stack, and the norm in which its last layer ends
ENDS = {
    "bert": ("encoder.layer", "encoder.layer.1.output.LayerNorm"),
    "distilbert": ("transformer.layer", "transformer.layer.1.output_layer_norm"),
    "bart": ("decoder.layers", "decoder.layers.1.final_layer_norm"),
    "detr": ("encoder.layers", "encoder.layers.1.final_layer_norm"),
    "florence2": ("language_model.encoder.layers", "language_model.encoder.layers.1.final_layer_norm"),
}
EXPERTS = ("mixtral", "qwen2_moe", "gpt_oss", "olmoe")


class Hooked:
    """First inputs and outputs of modules in their first run."""

    def __init__(self, model: nn.Module) -> None:
        self.inputs: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}
        for path, module in model.named_modules():
            module.register_forward_hook(self._keep(path), with_kwargs=True)

    def _keep(self, path: str) -> Any:
        def keep(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            first = args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values()), None))
            output = output[0] if isinstance(output, tuple) else output
            for kept, value in ((self.inputs, first), (self.outputs, output)):
                if isinstance(value, torch.Tensor):
                    kept.setdefault(path, value.clone())

        return keep


def run(model: nn.Module, inputs: dict[str, Any]) -> Any:
    with torch.no_grad():
        return model(**copy.deepcopy(inputs))


@pytest.mark.parametrize("name", TOWERS)
def test_states_and_norms_of_every_tower_are_those_of_hooks(name: str) -> None:
    model, inputs = build.tiny(name)
    hooked = Hooked(model)
    with Look(model).capture("embeddings", "hidden_states", "final_norm") as seen:
        run(model, inputs)
    for stack, norm in zip(TOWERS[name], AFTER[name], strict=True):
        states = seen.hidden_states()[stack]
        layers = [path for path in hooked.outputs if re.fullmatch(rf"{re.escape(stack)}\.\d+", path)]
        if name != "florence2" or "vision" not in stack:  # whose stages are lists of blocks
            assert torch.equal(states[0], hooked.inputs[layers[0]])
            assert all(torch.equal(state, hooked.outputs[path]) for state, path in zip(states[1:], layers, strict=True))
        assert torch.equal(seen["embeddings", stack], states[0])
        if norm:
            assert torch.equal(seen["final_norm", stack], hooked.outputs[norm])
        else:
            with pytest.raises(Refused, match="the last of `hidden_states`"):
                seen["final_norm", stack]


@pytest.mark.parametrize("name", ENDS)
def test_a_stack_whose_layers_end_in_a_norm_names_that_norm(name: str) -> None:
    model, inputs = build.tiny(name)
    stack, norm = ENDS[name]
    hooked = Hooked(model)
    with Look(model).capture("final_norm", "hidden_states") as seen:
        run(model, inputs)
    with pytest.raises(Refused, match=f"`{norm}`"):
        seen["final_norm", stack]
    assert norm in seen.missing("final_norm")[stack]
    assert torch.equal(seen.hidden_states()[stack][-1], hooked.outputs[norm])
    patch = Look(model).patch("final_norm", 0.0, layers=stack)
    with pytest.raises(Refused, match="patch the last of its `hidden_states`"), patch:
        run(model, inputs)


@pytest.mark.parametrize("name", EXPERTS)
def test_what_experts_read_and_write_is_seen_and_changed(name: str) -> None:
    model, inputs = build.tiny(name)
    path = next(path for path, module in model.named_modules() if path.endswith("experts") and module._parameters)
    hooked = Hooked(model)
    look = Look(model)
    with look.capture("mlp_input", "mlp_output", "hidden_states") as seen:
        run(model, inputs)
    assert torch.equal(seen["mlp_input", path], hooked.inputs[path])
    assert torch.equal(seen["mlp_output", path], hooked.outputs[path])
    with look.patch("mlp_output", 0.0, layers=path):
        patched = run(model, inputs)[0]
    model.get_submodule(path).register_forward_hook(lambda module, args, output: torch.zeros_like(output))
    assert torch.equal(run(model, inputs)[0], patched)
    assert not torch.equal(seen.hidden_states()["layers"][-1], patched)


@pytest.mark.parametrize("name", EXPERTS)
def test_neurons_of_experts_are_refused_by_name(name: str) -> None:
    model, inputs = build.tiny(name)
    path = next(path for path, module in model.named_modules() if path.endswith("experts") and module._parameters)
    if name != "qwen2_moe":
        with pytest.raises(Refused, match="no module reads them"), Look(model).capture("mlp_activation"):
            run(model, inputs)
        return
    with Look(model).capture("mlp_activation") as seen:  # of the shared expert, which is a network of its own
        run(model, inputs)
    assert len(seen("mlp_activation")) == 2
    assert path in seen.missing("mlp_activation")
    with pytest.raises(Refused, match="no module reads them"):
        seen["mlp_activation", path]
