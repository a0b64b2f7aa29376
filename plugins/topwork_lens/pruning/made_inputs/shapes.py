"""Alternatives of each kind of input of a model: the shapes in which architectures want images, sounds, series ...

Entry point: `shapes_of`. One name stands for one kind of input in every model of transformers, but not for one shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from topwork_lens.pruning.made_inputs.sizes import Sizes

ITEMS, TOKENS = 2, 12
_SAMPLES, _FRAMES, _GRID = 4000, 64, 4
#: names of sizes in configs
_MELS: tuple[str, ...] = (
    "num_mel_bins",
    "input_feat_per_channel",
    "feature_projection_input_dim",
    "input_feat_size",
    "feature_size",
    "n_mels",
    "num_mels",
    "model_in_channels",
    "input_dim",
    "lfr_dim",
)
_WIDTHS = ("hidden_size", "d_model", "hidden_dim", "n_embd")


@dataclass
class InputMaker:
    """State in which the inputs of a model are made.

    Args:
        names: parameters of forward, name -> whether it has to be given.
        sizes: of the model.
        generator: of random numbers.
    """

    names: dict[str, bool]
    sizes: Sizes
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    @property
    def is_packed(self) -> bool:
        """Whether images are rows of patches, with a grid beside them."""
        return any(name.endswith("grid_thw") or name == "grid_hws" for name in self.names)

    @property
    def frames(self) -> int:
        """Length of a spectrogram."""
        return 2 * self.sizes.first("max_source_positions", "n_window", default=_FRAMES // 2)

    def randn(self, *shape: int) -> torch.Tensor:
        """Return random numbers, normally distributed."""
        return torch.randn(*shape, generator=self.generator)

    def ids(self, *shape: int) -> torch.Tensor:
        """Return tokens that stand for texts: none of those that a config names as something else."""
        vocabulary = self.sizes.vocabulary
        named = {
            value
            for part in self.sizes.parts
            for name, value in vars(part).items()
            if isinstance(value, int) and name.endswith(("token_id", "token_index"))
        }
        plain = [token for token in range(min(vocabulary, 512)) if token not in named] or list(range(vocabulary))
        return torch.tensor(plain)[torch.randint(0, len(plain), shape, generator=self.generator)]


Shapes = Callable[[InputMaker], list[torch.Tensor]]


def shapes_of(name: str, takes: Mapping[str, bool]) -> Shapes | None:
    """Return what makes the alternatives of an input; None for a name of which nothing is known."""
    if name in _SHAPES:
        is_patches = name != "hidden_states" or any(other.endswith("grid_thw") for other in takes)
        return _SHAPES[name] if is_patches or takes[name] else None
    return next((shapes for end, shapes in _ENDS.items() if name.endswith(end)), None)


def _images(maker: InputMaker) -> list[torch.Tensor]:
    sizes, image = maker.sizes, maker.sizes.image
    channels, patch = image[0], maker.sizes.patch
    if maker.is_packed:
        times = sizes.first("temporal_patch_size", "patch_temporal", default=1)
        rows = ITEMS * _GRID**2
        lengths = dict.fromkeys((channels * times * patch**2, channels * patch**2))
        flat = [maker.randn(rows, length) for length in lengths]
        flat.append(flat[0].view(ITEMS, _GRID**2, -1))
        return [*flat, maker.randn(rows, channels, patch, patch), maker.randn(rows, patch, patch, channels)]
    if "pixel_position_ids" in maker.names or "spatial_shapes" in maker.names:
        return [maker.randn(ITEMS, _GRID**2, channels * patch**2)]
    if "target_sizes" in maker.names:
        return [maker.randn(1, channels, patch, ITEMS * _GRID**2 * patch)]
    frames = sizes.all("num_frames", "frames_per_clip")
    several = [maker.randn(ITEMS, min(number, 16), *image) for number in [*frames[:1], 1, 2]]
    tiles = sizes.all("max_num_tiles")
    several += [maker.randn(ITEMS, 1, number, *image) for number in tiles[:1]]
    larger = [maker.randn(ITEMS, channels, size, size) for size in (64, 128, 224) if size != image[-1]]
    return [maker.randn(ITEMS, *image), *several, *larger, maker.randn(ITEMS * 2, *image)]


def _videos(maker: InputMaker) -> list[torch.Tensor]:
    frames = maker.sizes.all("num_frames", "frames_per_clip")
    return [maker.randn(ITEMS, min(number, 16), *maker.sizes.image) for number in (frames[:1] or [4])]


def _features(maker: InputMaker) -> list[torch.Tensor]:
    sizes = maker.sizes
    widths = list(dict.fromkeys([*sizes.all(*_MELS), 80, 128, *sizes.all(*_WIDTHS)]))[:5]
    frames = maker.frames
    result = []
    for width in widths:
        features = maker.randn(ITEMS, frames, width)
        result += [features.transpose(1, 2).contiguous(), features, features[:, None]]
        result += [features[:, : TOKENS * 8].transpose(1, 2).contiguous()] if frames > TOKENS * 8 else []
    spectrum = sizes.all("spec_size")
    return [maker.randn(ITEMS, 1, size, size) for size in spectrum[:1]] + result


def _waves(maker: InputMaker) -> list[torch.Tensor]:
    sizes = maker.sizes
    wave = maker.randn(ITEMS, _SAMPLES)
    lengths, mels = sizes.all("max_length"), sizes.all(*_MELS)
    spectra = [maker.randn(ITEMS, lengths[0], mels[0])] if lengths and mels else []
    longer = maker.randn(ITEMS, 1, 2 * 3840)
    states = [maker.randn(ITEMS, TOKENS, width) for width in [*mels[:1], *sizes.all(*_WIDTHS)[:1]]]
    return [wave, *spectra, wave[:, None], longer, *states]


def _ids(maker: InputMaker) -> list[torch.Tensor]:
    books = maker.sizes.all("num_codebooks")
    coded = [maker.ids(ITEMS, TOKENS, number + more) for number in books[:1] for more in (0, 1)]
    return [maker.ids(ITEMS, TOKENS), *coded]


def _decoder_ids(maker: InputMaker) -> list[torch.Tensor]:
    books = maker.sizes.all("num_codebooks")
    return [*_ids(maker), *(maker.ids(ITEMS * number, TOKENS) for number in books[:1])]


def _states(maker: InputMaker) -> list[torch.Tensor]:
    widths = list(dict.fromkeys([*maker.sizes.all("encoder_hidden_size"), *maker.sizes.all(*_WIDTHS)]))
    return [maker.randn(ITEMS, TOKENS, width) for width in widths[:4]]


def _latents(maker: InputMaker) -> list[torch.Tensor]:
    widths = maker.sizes.all("latent_dim", "codebook_dim", *_WIDTHS)
    return [maker.randn(ITEMS, width, 8) for width in [*widths[:4], 32]]


def _patches(maker: InputMaker) -> list[torch.Tensor]:
    return _images(maker) if maker.is_packed else [*_states(maker), *_latents(maker), maker.randn(ITEMS, 1, _SAMPLES)]


def _grid(maker: InputMaker) -> list[torch.Tensor]:
    return [torch.tensor([[1, _GRID, _GRID]] * ITEMS)]


def _past(maker: InputMaker) -> list[torch.Tensor]:
    sizes = maker.sizes
    length = sizes.first("context_length", default=32)
    lags = max(getattr(sizes.config, "lags_sequence", None) or [0])
    channels = sizes.all("num_input_channels")
    return [maker.randn(ITEMS, length + lags, *channels[:1]), maker.randn(ITEMS, length + lags)]


def _times(name: str) -> Shapes:
    def shapes(maker: InputMaker) -> list[torch.Tensor]:
        past = _past(maker)[0].shape[1]
        length = past if name == "past" else maker.sizes.first("prediction_length", default=8)
        return [maker.randn(ITEMS, length, getattr(maker.sizes.config, "num_time_features", 0) or 0)]

    return shapes


def _zeros_of_past(maker: InputMaker) -> list[torch.Tensor]:
    return [torch.zeros(_past(maker)[0].shape, dtype=torch.long)]


def _spectrum(maker: InputMaker) -> list[torch.Tensor]:
    widths = maker.sizes.all(*_MELS)
    return [maker.randn(ITEMS, _FRAMES, width) for width in [*widths[:1], 128]]


def _frames_mask(maker: InputMaker) -> list[torch.Tensor]:
    mask = torch.ones(ITEMS, maker.frames, dtype=torch.long)
    return [mask, mask.bool()]


def _coordinates(maker: InputMaker) -> list[torch.Tensor]:
    steps = torch.arange(_GRID)
    return [torch.cartesian_prod(steps, steps)[None].repeat(ITEMS, 1, 1)]


def _prefix(maker: InputMaker) -> list[torch.Tensor]:
    length = maker.sizes.first("latent_query_num", default=TOKENS)
    return [(torch.arange(TOKENS) < length)[None].repeat(ITEMS, 1).long()]


def _visual(maker: InputMaker) -> list[torch.Tensor]:
    return [maker.randn(ITEMS, 5, width) for width in maker.sizes.all("visual_feat_dim", "visual_embedding_dim")[:2]]


def _flat_patches(maker: InputMaker) -> list[torch.Tensor]:
    width = maker.sizes.first("patch_embed_hidden_size", default=maker.sizes.patch**2 * maker.sizes.image[0])
    return [maker.randn(ITEMS, _GRID**2, 2 + width).abs()]


def _of(*names: str, steps: int = 5) -> Shapes:
    return lambda maker: [maker.randn(ITEMS, steps, maker.sizes.first(*names, default=1))]


def _fixed(make: Callable[[], torch.Tensor]) -> Shapes:
    return lambda maker: [make()]


def _boxes(maker: InputMaker) -> list[torch.Tensor]:
    return [torch.randint(0, 50, (ITEMS, TOKENS, 4), generator=maker.generator).sort(-1).values]


def _image_extent(maker: InputMaker) -> list[torch.Tensor]:
    return [torch.tensor([list(maker.sizes.image[1:])] * ITEMS)]


def _task_ids(maker: InputMaker) -> list[torch.Tensor]:
    return [maker.ids(ITEMS, maker.sizes.first("task_seq_len", default=TOKENS))]


#: name of a parameter of forward -> alternatives
_SHAPES: dict[str, Shapes] = {
    "input_ids": _ids,
    "decoder_input_ids": _decoder_ids,
    "task_inputs": _task_ids,
    "bbox": _boxes,
    "pixel_values": _images,
    "hidden_states": _patches,
    "pixel_values_videos": _videos,
    "spatial_shapes": _fixed(lambda: torch.tensor([[_GRID, _GRID]] * ITEMS)),
    "target_sizes": _fixed(lambda: torch.tensor([[_GRID, _GRID]] * ITEMS)),
    "pixel_attention_mask": lambda maker: (
        [torch.ones(ITEMS, _GRID**2, dtype=torch.long)] if "spatial_shapes" in maker.names else []
    ),
    "pixel_position_ids": _coordinates,
    "image_sizes": _image_extent,
    "aspect_ratio_ids": _fixed(lambda: torch.ones(ITEMS, 1, dtype=torch.long)),
    "aspect_ratio_mask": lambda maker: [
        torch.ones(ITEMS, 1, maker.sizes.first("max_num_tiles", default=1), dtype=torch.long)
    ],
    "flattened_patches": _flat_patches,
    "image_attention_mask": _fixed(lambda: torch.ones(ITEMS, TOKENS, 1, dtype=torch.long)),
    "image_embeds_position_mask": _prefix,
    "visual_feats": _visual,
    "visual_pos": lambda maker: [torch.rand(ITEMS, 5, 4, generator=maker.generator)],
    "input_features": _features,
    "audio_mel": _spectrum,
    "audio_mel_mask": _fixed(lambda: torch.zeros(ITEMS, _FRAMES, dtype=torch.bool)),
    "input_features_mask": _frames_mask,
    "feature_attention_mask": _frames_mask,
    "input_values": _waves,
    "decoder_input_values": _waves,
    "latents": _latents,
    "inputs": _states,
    "states": _of("state_dim"),
    "actions": _of("act_dim"),
    "rewards": _of(),
    "returns_to_go": _of(),
    "timesteps": _fixed(lambda: torch.arange(5).repeat(ITEMS, 1)),
    "attention_mask": lambda maker: (
        [torch.ones(ITEMS, TOKENS, dtype=torch.long)] if "input_ids" in maker.names else _frames_mask(maker)[::-1]
    ),
    "past_values": _past,
    "past_time_features": _times("past"),
    "past_observed_mask": lambda maker: [torch.ones(_past(maker)[0].shape)],
    "past_values_padding": _zeros_of_past,
    "future_values": lambda maker: [maker.randn(ITEMS, maker.sizes.first("prediction_length", default=8))],
    "future_time_features": _times("future"),
    "freq": _fixed(lambda: torch.zeros(ITEMS, 1, dtype=torch.long)),
    "classes_structure": _fixed(lambda: torch.ones(ITEMS, dtype=torch.long)),
}
#: end of a name -> alternatives, for names that are not in the table
_ENDS: dict[str, Shapes] = {
    "grid_thw": _grid,
    "pixel_values": _images,
    "prompt_masks": _images,
    "input_ids": lambda maker: [maker.ids(ITEMS, TOKENS)],
    "attention_mask": _fixed(lambda: torch.ones(ITEMS, TOKENS, dtype=torch.long)),
    "merge_sizes": _fixed(lambda: torch.ones(ITEMS, dtype=torch.long)),
    "_embeds": _states,
    "hidden_states": _states,
}
