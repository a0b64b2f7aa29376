"""Hidden states of all layers from the embeddings on, against those of the library, with and without attention."""

from __future__ import annotations

import copy
from typing import Any

import lens_models
import pytest
import torch
from tolerance import close

from architectures import build
from topwork import UsageError
from topwork_lens.look import Look

#: model -> the stacks whose states the library has, by the name of its output
STACKS = {
    "bert": {"hidden_states": "bert.encoder.layer"},
    "gpt2": {"hidden_states": "transformer.h"},
    "llama": {"hidden_states": "model.layers"},
    "vit": {"hidden_states": "vit.layers"},
    "wav2vec2": {"hidden_states": "wav2vec2.encoder.layers"},
    "bart": {
        "encoder_hidden_states": "model.encoder.layers",
        "decoder_hidden_states": "model.decoder.layers",
    },
    "t5": {"encoder_hidden_states": "encoder.block", "decoder_hidden_states": "decoder.block"},
}
WITHOUT_ATTENTION = ("mamba", "convnext", "resnet", "poolformer", "rwkv", "falcon_mamba", "timm/convnext_atto")
MIXED = ("jamba", "zamba2", "recurrent_gemma", "swin", "levit")


@pytest.mark.parametrize("name", STACKS)
def test_states_are_those_of_the_library(name: str) -> None:
    model, batch = lens_models.make(name)
    inputs = lens_models.without_labels(batch, model)
    with torch.no_grad(), Look(model).capture("hidden_states") as seen:
        output = model(**inputs, output_hidden_states=True)
    states = seen.hidden_states()
    for key, stack in STACKS[name].items():
        expected = output[key]
        assert len(states[stack]) == len(expected)
        for own, theirs in zip(states[stack][:-1], expected[:-1]):
            close(own, theirs)
        assert states[stack][-1].shape == expected[-1].shape  # the library's may be behind the final norm


@pytest.mark.parametrize("name", [*WITHOUT_ATTENTION, *MIXED])
def test_models_without_attention_and_mixers_have_states_of_every_layer(name: str) -> None:
    model, inputs = build.tiny(name)
    look = Look(model)
    with torch.no_grad(), look.capture("hidden_states") as seen:
        model(**copy.deepcopy(dict(inputs)))
    states = seen.hidden_states()
    stack = max(states, key=lambda path: len(states[path]))
    assert len(states[stack]) > len(list(model.get_submodule(stack).children()))
    assert all(state.isfinite().all() for state in states[stack])


def test_each_forward_pass_has_its_own_and_memory_is_bounded() -> None:
    model, batch = lens_models.make("bert")
    inputs = lens_models.without_labels(batch, model)
    look = Look(model)
    with torch.no_grad(), look.capture("hidden_states") as seen:
        model(**inputs)
        model(**{key: value[:2] for key, value in inputs.items()})
    runs = [seen.hidden_states(run)["bert.encoder.layer"] for run in (0, 1)]
    assert [len(run[0]) for run in runs] == [4, 2]
    close(runs[0][-1][:2], runs[1][-1])
    with pytest.raises(UsageError, match="2 forward passes"):
        seen.hidden_states(2)
    with torch.no_grad(), pytest.raises(UsageError, match="exceeds"), look.capture("hidden_states", memory=1000):
        model(**inputs)


@pytest.mark.parametrize("folder", [True, False])
def test_states_may_be_written_to_disk(tmp_path: Any, folder: bool) -> None:
    model, batch = lens_models.make("bert")
    with torch.no_grad(), Look(model).capture("hidden_states", folder=tmp_path if folder else None) as seen:
        model(**lens_models.without_labels(batch, model))
    assert len(seen.hidden_states()["bert.encoder.layer"]) == 4
    assert len(list(tmp_path.glob("*.safetensors"))) == (4 if folder else 0)
