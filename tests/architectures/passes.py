"""Towers that no single forward of a model reaches, fed through the model's own public methods in the same run: data.

A speech model's codec or an image generator's decoder runs during `generate` only. Here every call of the model is
followed by a call of each method that the table names, so that all attention layers run, are captured, gated, pruned
and compared together. Inputs of a method stand among the model's own as "<path of the method>/<name>".
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch
from torch import nn

from architectures.feeding import ITEMS, TOKENS, Feed, ids, token_mask


class Passes:
    """Stands in for the forward of one model; an object, so that it survives `copy.deepcopy` of the model."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, *args: Any, **inputs: Any) -> tuple[Any, ...]:
        """The answer of the model's own forward, then those of the methods, in their order."""
        own = {name: value for name, value in inputs.items() if "/" not in name}
        methods: dict[str, dict[str, Any]] = {}
        for name, value in inputs.items():
            method, found, argument = name.partition("/")
            if found:
                methods.setdefault(method, {})[argument] = value
        # A container of models has no forward of its own.
        contained = type(self.model).forward is nn.Module.forward
        answers = [] if contained else [type(self.model).forward(self.model, *args, **own)]
        return (*answers, *(attrgetter(method)(self.model)(**given) for method, given in methods.items()))


def with_passes(feed: Feed, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs of a model and those of its further methods, which run with it from now on."""
    table = PASSES.get(feed.type, {})
    if table:
        feed.model.forward = Passes(feed.model)
    further = {f"{method}/{name}": value for method, make in table.items() for name, value in make(feed).items()}
    return {**inputs, **further}


def _text(feed: Feed) -> dict[str, Any]:
    return {"input_ids": ids(feed), "attention_mask": token_mask()}


def _image(feed: Feed) -> dict[str, Any]:
    return {"pixel_values": feed.randn(ITEMS, *feed.image())}


def _codes(feed: Feed, *shape: int) -> torch.Tensor:
    return torch.randint(3, 30, (ITEMS, *shape), generator=feed.generator)


#: model type -> path of a method -> its inputs
PASSES: dict[str, dict[str, Any]] = {
    "bark": {
        "semantic": _text,
        "coarse_acoustics": _text,
        "fine_acoustics": lambda feed: {"codebook_idx": 2, "input_ids": _codes(feed, TOKENS, 8)},
    },
    # BlipModel compares texts with images; only the task classes let a text look at an image.
    "blip": {
        "text_model": lambda feed: (
            _text(feed) | {"encoder_hidden_states": feed.randn(ITEMS, 5, feed.config.text_config.encoder_hidden_size)}
        )
    },
    # The depth decoder runs for a loss or in `generate`, the codec on what it made.
    "csm": {
        "depth_decoder": lambda feed: {
            "input_ids": _codes(feed, feed.config.num_codebooks),
            "backbone_last_hidden_state": feed.randn(ITEMS, feed.config.hidden_size),
        },
        "codec_model": lambda feed: {"input_values": feed.randn(ITEMS, 1, 4000)},
    },
    # Images become tokens, which pass no gradient; tokens become images after `generate`.
    "emu3": {
        "vqmodel.decode": lambda feed: {"hidden_states": _codes(feed, 4, 4)},
    },
    "glm_image": {
        "get_image_features": lambda feed: {
            "pixel_values": feed.randn(ITEMS * 16, 3 * feed.patch() ** 2),
            "image_grid_thw": torch.tensor([[1, 4, 4]] * ITEMS),
        },
    },
    "janus": {
        "vqmodel.encode": _image,
        "vqmodel.decode": lambda feed: {"image_tokens": _codes(feed, feed.config.vq_config.num_patches**2)},
    },
    # Times of words are found on what the speech encoder heard, after the text was written.
    "nemo_speechlm": {
        "get_word_timestamp_hidden_states": lambda feed: {
            "asr_last_hidden_state": feed.randn(ITEMS, 8, feed.config.audio_config.hidden_size),
            "input_features_mask": torch.ones(ITEMS, 8 * feed.config.audio_config.subsampling_factor).long(),
        },
    },
    # What the language model said is kept from the first call on.
    "omdet-turbo": {"language_backbone": lambda feed: {"hidden_states": _codes(feed, 6), "encode_type": "class"}},
    # The two models that the whole is compared with.
    "pe_audio_video": {
        "audio_model": lambda feed: {**_text(feed), "input_values": feed.randn(ITEMS, 1, 1920 * 4)},
        "video_model": lambda feed: {**_text(feed), "pixel_values_videos": feed.randn(ITEMS, 4, 3, 28, 28)},
    },
    # Sounds become codes, which pass no gradient.
    "xcodec": {"semantic_model": lambda feed: {"input_values": feed.randn(ITEMS, 4000)}},
    # Either speech or text goes in, and text becomes speech in `generate`.
    "seamless_m4t": {
        "text_encoder": _text,
        "t2u_model.model": lambda feed: {
            "inputs_embeds": feed.randn(ITEMS, TOKENS, feed.config.hidden_size),
            "attention_mask": token_mask(),
            "decoder_input_ids": _codes(feed, TOKENS),
            "use_cache": False,
        },
    },
    "seamless_m4t_v2": {
        "text_encoder": _text,
        "t2u_model.model": lambda feed: {
            "inputs_embeds": feed.randn(ITEMS, TOKENS, feed.config.hidden_size),
            "attention_mask": token_mask(),
            "char_input_ids": _codes(feed, TOKENS),
            "char_count_per_id": torch.ones(ITEMS, TOKENS).long(),
        },
    },
}
