"""Inputs of a model, made by the names that its forward takes.

Entry point: `named_inputs`, which yields batches, the most likely first; whoever asks runs them (`probes`). A name
stands for one kind of input in every model of transformers (`pixel_values` for images, `input_features` for
spectrograms, `grid_thw` for images as rows of patches ...), but not for one shape: each kind has alternatives.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from itertools import combinations, islice, product

import torch
from torch import nn

from topwork_lens.pruning.made_inputs.shapes import InputMaker, shapes_of
from topwork_lens.pruning.made_inputs.sizes import Sizes

_MOST = 64


def named_inputs(model: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """Yield inputs of a model of transformers, the most likely first; at most 64 of them.

    What forward has to be given is always there, if its name is known. Images, sounds and texts are there too where
    forward takes them, so that as much of the model runs as can.
    """
    config = getattr(model, "config", None)
    parameters = inspect.signature(model.forward).parameters.values()
    takes = {p.name: p.default is p.empty for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    if config is None or not takes:
        return
    made: list[tuple[str, ...]] = []
    for offered in (_without("pixel_values_videos"), _without("attention_mask"), _OFFERED, _OFFERED_ALONE, ()):
        maker = InputMaker(takes, Sizes(config))
        wanted = [name for name, is_required in takes.items() if is_required or name in offered]
        if "input_ids" not in wanted and not takes.get("attention_mask"):
            wanted = [name for name in wanted if name != "attention_mask"]
        shaped = {name: shapes(maker) for name in wanted if (shapes := shapes_of(name, takes))}
        names = tuple(name for name, each in shaped.items() if each)
        options = [shaped[name] for name in names]
        if not names or names in made:
            continue
        made.append(names)
        for chosen in islice(_choices([len(each) for each in options]), _MOST // 2):
            yield {name: each[index] for name, each, index in zip(names, options, chosen, strict=True)}


def _choices(counts: list[int]) -> Iterator[tuple[int, ...]]:
    """Yield indices of alternatives: the first of each, then all that differ from these in one input, in two."""
    for changed in range(3):
        for which in combinations(range(len(counts)), changed):
            for indices in product(*(range(1, counts[index]) for index in which)):
                chosen = dict(zip(which, indices, strict=True))
                yield tuple(chosen.get(index, 0) for index in range(len(counts)))


#: inputs that are given wherever forward takes them
_OFFERED = (
    "input_ids",
    "attention_mask",
    "bbox",
    "pixel_values",
    "pixel_values_videos",
    "image_grid_thw",
    "grid_thw",
    "spatial_shapes",
    "pixel_attention_mask",
    "target_sizes",
    "image_sizes",
    "aspect_ratio_ids",
    "aspect_ratio_mask",
    "image_merge_sizes",
    "input_features",
    "input_features_mask",
    "feature_attention_mask",
    "input_values",
    "visual_feats",
    "visual_pos",
    "decoder_input_ids",
    "decoder_input_values",
    "image_attention_mask",
    "image_embeds_position_mask",
    "flattened_patches",
    "states",
    "actions",
    "returns_to_go",
    "rewards",
    "timesteps",
    "encoder_hidden_states",
    "future_values",
    "future_time_features",
)
#: without texts beside sounds, and without what stands beside what has to be given
_OFFERED_ALONE = (
    "pixel_values",
    "pixel_values_videos",
    "image_grid_thw",
    "spatial_shapes",
    "input_features",
    "input_values",
    "decoder_input_ids",
    "decoder_input_values",
)


def _without(name: str) -> tuple[str, ...]:
    return tuple(other for other in _OFFERED if other != name)
