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


def seen_and_heard(feed: Feed) -> dict[str, Any]:
    """An image of one token (its patches are pooled) and a sound of sixteen, both before a text."""
    ones = [torch.full((ITEMS, 1), feed.config.image_token_id), torch.full((ITEMS, 16), feed.config.audio_token_id)]
    return {
        "input_ids": torch.cat([*ones, ids(feed)], 1),
        "attention_mask": token_mask(17 + TOKENS),
        "pixel_values": feed.randn(ITEMS, 16, 3 * feed.patch() ** 2),
        "image_position_ids": torch.cartesian_prod(torch.arange(4), torch.arange(4))[None].repeat(ITEMS, 1, 1),
        "input_features": feed.randn(ITEMS, 64, 128),
        "input_features_mask": torch.ones(ITEMS, 64).bool(),
        "mm_token_type_ids": None,
        "pixel_values_videos": None,
    }


def features(feed: Feed) -> dict[str, Any]:
    """A sound, and what its semantic encoder is given of it."""
    return {
        "input_values": feed.randn(ITEMS, 1, 320 * 6),
        "input_features": feed.randn(ITEMS, 6, feed.config.semantic_model_config.feature_projection_input_dim),
        "input_features_mask": None,
    }


def frames(feed: Feed) -> dict[str, Any]:
    """A short film of two by two patches."""
    return {"pixel_values_videos": feed.randn(ITEMS, 4, 3, 28, 28)}


def alone(feed: Feed) -> dict[str, Any]:
    """One film with its question: positions are viewed for a batch of one."""
    return {
        "input_ids": ids(feed)[:1],
        "attention_mask": torch.ones(1, TOKENS).long(),
        "pixel_values": feed.randn(1, feed.config.num_frames, 3, 64, 64),
    }


#: like `special_inputs.SPECIAL`, of which these are part
TOWERS: dict[str, Any] = {
    "tvp": alone,
    "minicpm_ocr_vision": tiles,
    "minicpmv4_7_vision": tiles,
    "colqwen2": lambda feed: {"pixel_values": feed.randn(ITEMS, 16, 2 * 3 * feed.patch() ** 2)},
    "musicgen": lambda feed: {"decoder_input_ids": ids(feed).repeat(feed.config.decoder.num_codebooks, 1)},
    "musicgen_melody": lambda feed: {
        "decoder_input_ids": ids(feed).repeat(feed.config.decoder.num_codebooks, 1),
        "input_features": feed.randn(ITEMS, 8, feed.config.num_chroma),
    },
    "perception_lm": lambda feed: {"pixel_values": feed.randn(ITEMS, 1, 3, 28, 28), "pixel_values_videos": None},
    "pi0": lambda feed: {
        "action_embeds": feed.randn(ITEMS, 4, 32),
        "input_ids": torch.cat([torch.full((ITEMS, 16), feed.config.vlm_config.image_token_id), ids(feed)], 1),
        "attention_mask": token_mask(16 + TOKENS),
        "pixel_values": feed.randn(ITEMS, 1, *feed.image()),
        "pixel_attention_mask": torch.ones(ITEMS, 1).bool(),
    },
    "xcodec": lambda feed: {"input_values": feed.randn(ITEMS, 1, 4000)},
    "voxtral_realtime_text": lambda feed: {"t_cond": feed.randn(1, 1, feed.config.hidden_size)},
    "jev": lambda feed: {
        "input_ids": ids(feed)[:1],
        "marks": torch.tensor([[4, 6, 8]]),
        "num_options": torch.tensor([[2, 2, 2]]),
        "question_type_ids": torch.tensor([[0, 1, 2]]),
    },
    "gemma4": seen_and_heard,
    "embedding_gemma2": seen_and_heard,
    "neucodec": features,
    "xcodec2": features,
    "inkling2_vision": lambda feed: {
        "pixel_values": feed.randn(ITEMS * 16, 2 * feed.patch(), 2 * feed.patch(), 3),
        "image_grid_thw": torch.tensor([[1, 4, 4]] * ITEMS),
        "grid_thw": None,
    },
    "pe_video": frames,
    "pe_video_encoder": frames,
    "pe_audio_video": lambda feed: {**frames(feed), "input_values": feed.randn(ITEMS, 1, 1920 * 4)},
    "pe_audio_video_encoder": lambda feed: {**frames(feed), "input_values": feed.randn(ITEMS, 1, 1920 * 4)},
    "vitmatte": lambda feed: {"pixel_values": feed.randn(ITEMS, 4, 32, 32)},
    "muse_spark_audio": lambda feed: {"input_values": feed.randn(ITEMS, 160)},
    "fun_asr_nano": lambda feed: {
        "input_features": feed.randn(ITEMS, 16, 560),
        "input_features_mask": torch.ones(ITEMS, 16).long(),
    },
    "gemma3n": lambda feed: {
        "input_ids": torch.cat(
            [
                torch.full((ITEMS, 4), feed.config.image_token_id),
                torch.full((ITEMS, 4), feed.config.audio_token_id),
                ids(feed),
            ],
            1,
        ),
        "attention_mask": token_mask(8 + TOKENS),
        "pixel_values": feed.randn(ITEMS, 3, 64, 64),
        "input_features": feed.randn(ITEMS, 64, 128),
        "input_features_mask": torch.ones(ITEMS, 64).bool(),
    },
    "diffusion_gemma": lambda feed: {
        "input_ids": torch.cat([torch.full((ITEMS, 1), feed.config.image_token_id), ids(feed)], 1),
        "attention_mask": token_mask(1 + TOKENS),
        "pixel_values": feed.randn(ITEMS, 16, 3 * feed.patch() ** 2),
        "image_position_ids": torch.cartesian_prod(torch.arange(4), torch.arange(4))[None].repeat(ITEMS, 1, 1),
    },
    "glm_image": lambda feed: {
        # One image to look at and one to be made for each row.
        "input_ids": torch.cat(
            [
                torch.full((ITEMS, 1), feed.config.image_start_token_id),
                torch.full((ITEMS, 16), feed.config.image_token_id),
                torch.full((ITEMS, 1), feed.config.image_end_token_id),
                ids(feed),
            ],
            1,
        ),
        "attention_mask": token_mask(18 + TOKENS),
        "pixel_values": feed.randn(ITEMS * 16, 3 * feed.patch() ** 2),
        "image_grid_thw": torch.tensor([[1, 4, 4]] * 2 * ITEMS),
        "images_per_sample": torch.tensor([2] * ITEMS),
        "mm_token_type_ids": None,
    },
    "molmo2": lambda feed: {
        "input_ids": torch.cat([torch.full((ITEMS, 4), feed.config.image_token_id), ids(feed)], 1),
        "attention_mask": token_mask(4 + TOKENS),
        "pixel_values": feed.randn(ITEMS, feed.vision.num_position_embeddings, 3 * feed.patch() ** 2),
        "image_token_pooling": torch.arange(4 * ITEMS * 2).view(ITEMS * 4, 2),
        "image_grids": torch.tensor([[2, 2, 0, 0]] * ITEMS),
        "mm_token_type_ids": None,
        "pixel_values_videos": None,
    },
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
        "input_ids": torch.cat(
            [
                torch.full((ITEMS, 4), feed.config.audio_config.audio_token_id),
                # A whole image and one cut out of it, of 2 x 2 tokens each, with their ends of lines.
                torch.full((ITEMS, 13), feed.config.vision_config.image_token_id),
                ids(feed),
            ],
            1,
        ),
        "attention_mask": token_mask(17 + TOKENS),
        "audio_input_features": feed.randn(ITEMS, 32, feed.config.audio_config.input_size),
        "audio_embed_sizes": torch.tensor([4] * ITEMS),
        "image_pixel_values": feed.randn(ITEMS, 2, *feed.image()),
        "image_sizes": torch.tensor([[feed.config.vision_config.crop_size] * 2] * ITEMS),
        "image_attention_mask": torch.ones(ITEMS, 2, 4, 4).long(),
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
