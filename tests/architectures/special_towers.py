"""Images, films and sounds for models with several towers, where the signature does not tell their shapes: data."""

from __future__ import annotations

from typing import Any

import torch

from architectures.feeding import ITEMS, TOKENS, Feed, ids, token_mask


def heard(feed: Feed) -> dict[str, Any]:
    """Sound of the width that the encoder wants, with a token for each of its queries."""
    config = feed.config
    tokens = 60 // config.window_size * (config.window_size // config.downsample_rate)
    rows = torch.cat([torch.full((ITEMS, tokens), config.audio_token_id), ids(feed)], 1)
    return {
        "input_ids": rows,
        "attention_mask": token_mask(rows.shape[1]),
        "input_features": feed.randn(ITEMS, 60, config.encoder_config.input_dim),
        "input_features_mask": torch.ones(ITEMS, tokens).bool(),
    }


def tiles(feed: Feed) -> dict[str, Any]:
    """Images of four patches a side, cut into strips one patch high."""
    patch = feed.patch()
    return {
        "pixel_values": feed.randn(1, 3, patch, ITEMS * 16 * patch),
        "target_sizes": torch.tensor([[4, 4]] * ITEMS),
        "pixel_values_videos": None,
    }


def boxes(feed: Feed) -> dict[str, Any]:
    """Boxes that stand for what is sought."""
    return {
        "input_boxes": torch.rand(ITEMS, 1, 4, generator=feed.generator),
        "input_boxes_labels": torch.ones(ITEMS, 1).long(),
    }


#: like `special_inputs.SPECIAL`, of which these are part
TOWERS: dict[str, Any] = {
    "fun_asr_nano": lambda feed: {
        "input_features": feed.randn(ITEMS, 16, 560),
        "input_features_mask": torch.ones(ITEMS, 16).long(),
    },
    "gemma3n": lambda feed: {"pixel_values": None, "input_features": None, "input_features_mask": None},
    "emu3": lambda feed: {
        "image_sizes": torch.tensor([feed.image()[1:]] * ITEMS),
        "input_ids": torch.cat([torch.full((ITEMS, 72), feed.model.vocabulary_mapping.image_token_id), ids(feed)], 1),
        "attention_mask": token_mask(72 + TOKENS),
    },
    "qwen3_asr": lambda feed: {
        "input_features": feed.randn(ITEMS, feed.get("num_mel_bins"), 100),
        "input_features_mask": torch.ones(ITEMS, 100).long(),
    },
    "inkling2": lambda feed: {"pixel_values": feed.randn(ITEMS * 16, 2 * feed.patch(), 2 * feed.patch(), 3)},
    "granite_speech": heard,
    "granite_speech_plus": heard,
    "granite_docling": lambda feed: {
        "pixel_values": feed.randn(ITEMS, 1, *feed.image()),
        "pixel_attention_mask": torch.ones(ITEMS, 1).bool(),
        "tile_fine_mask": None,
    },
    "nemotron_h_omni": lambda feed: {
        "pixel_values": feed.randn(ITEMS * 16, 3 * feed.patch() ** 2),
        "image_grid_hw": torch.tensor([[4, 4]] * ITEMS),
    },
    "kosmos-2.5": lambda feed: {
        # Row and column of a patch stand before its pixels.
        "flattened_patches": feed.randn(ITEMS, 16, 2 + feed.config.vision_config.patch_embed_hidden_size).abs(),
        "image_embeds_position_mask": (torch.arange(TOKENS) < feed.config.latent_query_num)[None]
        .repeat(ITEMS, 1)
        .long(),
    },
    "minicpmv4_6": tiles,
    "minicpmv4_7": tiles,
    "minicpm_ocr": tiles,
    "kimi_k25": lambda feed: {"pixel_values": feed.randn(ITEMS * 16, 3, feed.patch(), feed.patch())},
    "phi4_multimodal": lambda feed: {
        "input_ids": torch.cat([torch.full((ITEMS, 4), feed.config.audio_config.audio_token_id), ids(feed)], 1),
        "attention_mask": token_mask(4 + TOKENS),
        "audio_input_features": feed.randn(ITEMS, 32, feed.config.audio_config.input_size),
        "audio_embed_sizes": torch.tensor([4] * ITEMS),
    },
    "evolla": lambda feed: {
        "protein_input_ids": torch.randint(4, 20, (ITEMS, 10), generator=feed.generator),
        "protein_attention_mask": torch.ones(ITEMS, 10).long(),
    },
    "sam3": boxes,
    "sam3_lite_text": boxes,
    "trocr": lambda feed: {
        "encoder_hidden_states": feed.randn(
            ITEMS, 6, feed.get("cross_attention_hidden_size") or feed.config.hidden_size
        )
    },
    "video_llava": lambda feed: {"pixel_values_videos": feed.randn(ITEMS, 8, *feed.image())},
    "qwen2_audio": lambda feed: {
        "input_ids": torch.cat([torch.full((ITEMS, 1), feed.config.audio_token_id), ids(feed)[:, 1:]], 1),
        "feature_attention_mask": torch.ones(ITEMS, 2 * feed.get("max_source_positions")).long(),
        "attention_mask": torch.ones(ITEMS, TOKENS).long(),
    },
    "moss_transcribe_diarize": lambda feed: {
        "input_features": feed.randn(ITEMS, feed.get("num_mel_bins"), 2 * feed.get("max_source_positions")),
        "input_features_mask": torch.ones(ITEMS, 96).long(),
    },
}
