"""Batches that pruning makes of a model's own signature and config, where nobody gives one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import topwork
from architectures import build, checks
from topwork_lens.model_state import quiet
from topwork_lens.pruning.made_inputs.placeholders import with_placeholders
from topwork_lens.pruning.probes import call_on

#: model type -> what its forward has to be given beside, or in another form than, texts, images or waves
KINDS = {
    "audio-spectrogram-transformer": "a spectrogram named input_values",
    "canary": "features whose width a config inside names, and a decoder",
    "decision_transformer": "states, actions and rewards",
    "idefics3": "several images a row, and tokens that stand for them",
    "informer": "a time series",
    "lxmert": "features of regions with their boxes",
    "mllama": "tiles with their aspect ratios",
    "patchtst": "a series of channels",
    "qwen3_asr_encoder": "sounds with a mask, of a length that a config names",
    "qwen2_vl": "images as rows of patches with a grid, and tokens that stand for them",
    "qwen3_vl_vision": "hidden states with a grid",
    "siglip2": "patches with a mask and shapes",
}
#: further types, one of each kind of forward
FURTHER = [
    *("bros", "blip-2", "cosmos3_edge_vision", "gemma4_vision", "instructblip", "lasr_encoder", "llava_next"),
    *("mimi_encoder", "musicgen", "parakeet_ctc", "pe_audio", "perceiver", "qwen3_asr", "sam", "speecht5", "timesfm"),
    *("udop", "video_llama_3", "vilt", "voxtral", "xclip"),
]


def tiny(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """Return a fresh model on which nothing ran, and inputs that the test makes on its own."""
    model, inputs = build.tiny(name)
    return copy.deepcopy(model), {key: value for key, value in inputs.items() if "/" not in key}


def layers_that_run(model: nn.Module, call: Any) -> set[str]:
    """Return the paths of the attention layers that run."""
    ran: set[str] = set()
    handles = [
        model.get_submodule(layer.path).register_forward_pre_hook(lambda *_, path=layer.path: ran.add(path))
        for layer in topwork.look(model).layers
    ]
    with quiet(model):
        call()
    for handle in handles:
        handle.remove()
    return ran


def check(name: str) -> None:
    """Prune a group of attention heads in the first and in the last layer, and compare on inputs of the test's own."""
    model, inputs = tiny(name)
    expected = layers_that_run(model, lambda: model(**inputs))
    assert expected <= layers_that_run(model, call_on(model, None))
    layers = [layer for layer in topwork.look(model).layers if layer.path in expected and layer.prunable]
    chosen = {layer.path: layer.kept[: layer.heads // layer.groups] for layer in (layers[0], layers[-1])}
    whole = copy.deepcopy(model)
    topwork.prune_heads(model, chosen)
    assert checks.unlike(whole, chosen, model, inputs, 1e-4) <= 1e-4


@pytest.mark.parametrize("name", KINDS)
def test_a_fresh_model_is_pruned_without_a_batch(name: str) -> None:
    check(name)


@pytest.mark.architectures
@pytest.mark.parametrize("name", FURTHER)
def test_a_further_fresh_model_is_pruned_without_a_batch(name: str) -> None:
    check(name)


def test_a_text_has_as_many_placeholders_as_its_images_have_features() -> None:
    model, inputs = tiny("idefics3")
    ids = torch.full((2, 5), 7)
    made = with_placeholders(model, {"input_ids": ids, "pixel_values": inputs["pixel_values"]})
    assert made is not None
    token = model.config.image_token_id
    assert ids.eq(token).sum() == 0
    with quiet(model):
        features = model.get_image_features(inputs["pixel_values"]).pooler_output
    assert int(made["input_ids"].eq(token).sum()) == sum(len(image) for image in features)
    assert made["input_ids"][:, [0, 1]].eq(7).all()


def test_texts_alone_get_no_placeholders() -> None:
    model, _ = tiny("idefics3")
    assert with_placeholders(model, {"input_ids": torch.full((2, 5), 7)}) is None
