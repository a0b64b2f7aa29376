"""What single model types want as inputs besides, or instead of, what `feeding.py` makes from their signature: data."""

from __future__ import annotations

from typing import Any

import torch

from architectures.feeding import ITEMS, TOKENS, Feed, ids, token_mask
from architectures.special_towers import TOWERS


def without_images(feed: Feed) -> dict[str, Any]:
    """Text alone, where images need what only the processor knows."""
    return dict.fromkeys(("pixel_values", "image_grid_thw", "mm_token_type_ids", "pixel_attention_mask"))


def series(feed: Feed) -> dict[str, Any]:
    """A time series with two features of time."""
    config = feed.config
    length = config.context_length + max(config.lags_sequence)
    times = config.num_time_features
    return {
        "past_values": feed.randn(ITEMS, length),
        "past_time_features": feed.randn(ITEMS, length, times),
        "past_observed_mask": torch.ones(ITEMS, length),
        "future_values": feed.randn(ITEMS, config.prediction_length),
        "future_time_features": feed.randn(ITEMS, config.prediction_length, times),
    }


def short(feed: Feed) -> dict[str, Any]:
    """A short sound, and a short film where one is wanted."""
    found: dict[str, Any] = {"input_values": feed.randn(ITEMS, 1, 1920 * 4)}
    if "pixel_values_videos" in feed.names:
        found |= clip(feed)
    return found


def clip(feed: Feed) -> dict[str, Any]:
    """A short film."""
    frames = getattr(feed.vision, "num_frames", None) or getattr(feed.config, "frames_per_clip", None) or 4
    return {"pixel_values_videos": feed.randn(ITEMS, min(frames, 16), *feed.image())}


def packed(feed: Feed) -> dict[str, Any]:
    """Images as rows of patches."""
    length = feed.vision.num_channels * feed.patch() ** 2
    return {"pixel_values": feed.randn(ITEMS, 16, length), "pixel_attention_mask": torch.ones(ITEMS, 16).long()}


def pair(feed: Feed) -> dict[str, Any]:
    """Two images to be matched."""
    return {"pixel_values": feed.randn(ITEMS, 2, 3, 64, 64)}


def sizes(feed: Feed) -> dict[str, Any]:
    """The images' sizes before they were scaled, and tiles of each."""
    channels, height, width = feed.image()
    return {
        "image_sizes": torch.tensor([[height, width]] * ITEMS),
        "pixel_values": feed.randn(ITEMS, 2, channels, height, width),
    }


#: what single model types want besides, or otherwise; None leaves an input out
SPECIAL: dict[str, Any] = {
    "decision_transformer": lambda feed: {
        "states": feed.randn(ITEMS, 5, feed.config.state_dim),
        "actions": feed.randn(ITEMS, 5, feed.config.act_dim),
        "rewards": feed.randn(ITEMS, 5, 1),
        "returns_to_go": feed.randn(ITEMS, 5, 1),
        "timesteps": torch.arange(5).repeat(ITEMS, 1),
        "attention_mask": torch.ones(ITEMS, 5, dtype=torch.long),
    },
    "perceiver": lambda feed: {"inputs": feed.randn(ITEMS, TOKENS, feed.config.d_model)},
    "siglip2": packed,
    "siglip2_vision_model": packed,
    "lfm2_vl": packed,
    "instructblip": lambda feed: {
        "qformer_input_ids": ids(feed),
        "qformer_attention_mask": token_mask(),
    },
    "pix2struct": lambda feed: {
        "flattened_patches": feed.randn(ITEMS, 16, 2 + feed.config.vision_config.patch_embed_hidden_size).abs()
    },
    "lightglue": pair,
    "superglue": pair,
    "efficientloftr": pair,
    "xclip": lambda feed: {"pixel_values": feed.randn(ITEMS, 8, 3, 32, 32)},
    "lxmert": lambda feed: {
        "visual_feats": feed.randn(ITEMS, 5, feed.config.visual_feat_dim),
        "visual_pos": torch.rand(ITEMS, 5, 4, generator=feed.generator),
    },
    "mllama": lambda feed: {
        "pixel_values": feed.randn(ITEMS, 1, feed.config.vision_config.max_num_tiles, *feed.image()),
        "aspect_ratio_ids": torch.ones(ITEMS, 1, dtype=torch.long),
        "aspect_ratio_mask": torch.ones(ITEMS, 1, feed.config.vision_config.max_num_tiles, dtype=torch.long),
    },
    "kosmos-2": lambda feed: {
        "image_embeds_position_mask": (torch.arange(TOKENS) < feed.config.latent_query_num)[None]
        .repeat(ITEMS, 1)
        .long()
    },
    "pop2piano": lambda feed: {"input_ids": ids(feed), "input_features": None},
    "speech-encoder-decoder": lambda feed: {"input_features": None},
    "llava_next": sizes,
    "llava_next_video": sizes,
    "llava_onevision": sizes,
    "video_llama_3_vision": lambda feed: {"merge_sizes": torch.ones(ITEMS, dtype=torch.long)},
    "gemma3n_audio": lambda feed: {
        "audio_mel": feed.randn(ITEMS, 64, 128),
        "audio_mel_mask": torch.zeros(ITEMS, 64).bool(),
    },
    "autoformer": series,
    "informer": series,
    "time_series_transformer": series,
    "csm": lambda feed: {
        "input_ids": torch.randint(3, 30, (ITEMS, TOKENS, feed.config.num_codebooks), generator=feed.generator),
        "input_values": None,
    },
    "kyutai_speech_to_text": lambda feed: {
        "input_ids": torch.randint(3, 30, (ITEMS, TOKENS, feed.config.num_codebooks + 1), generator=feed.generator)
    },
    "dia": lambda feed: {"decoder_input_ids": torch.randint(3, 30, (ITEMS, TOKENS, 9), generator=feed.generator)},
    "speech_to_text": lambda feed: {"attention_mask": None, "input_features": feed.randn(ITEMS, 64, 80)},
    "idefics": lambda feed: {
        "pixel_values": feed.randn(ITEMS, 1, *feed.image()),
        "image_attention_mask": torch.ones(ITEMS, TOKENS, 1).long(),
    },
    "lighton_ocr": lambda feed: {"image_sizes": torch.tensor([[32, 32]] * ITEMS)},
    "mistral3": lambda feed: {"image_sizes": torch.tensor([[32, 32]] * ITEMS)},
    "mistral_large4": lambda feed: {"image_sizes": torch.tensor([[32, 32]] * ITEMS)},
    "pixtral": lambda feed: {"image_sizes": torch.tensor([[32, 32]] * ITEMS)},
    "seamless_m4t": lambda feed: {
        "input_ids": None,
        "input_features": feed.randn(ITEMS, 32, feed.config.feature_projection_input_dim),
        "attention_mask": None,
    },
    "seamless_m4t_v2": lambda feed: {
        "input_ids": None,
        "input_features": feed.randn(ITEMS, 32, feed.config.feature_projection_input_dim),
        "attention_mask": None,
    },
    "wav2vec2-bert": lambda feed: {"input_features": feed.randn(ITEMS, 32, feed.config.feature_projection_input_dim)},
    "speecht5": lambda feed: {
        "input_values": feed.randn(ITEMS, TOKENS, 32),
        "decoder_input_values": feed.randn(ITEMS, TOKENS, 32),
        "attention_mask": None,
    },
    "univnet": lambda feed: {"input_features": feed.randn(ITEMS, 20, 100)},
    "blip_2_qformer": lambda feed: {
        "attention_mask": None,
        "encoder_hidden_states": feed.randn(ITEMS, 6, feed.config.encoder_hidden_size),
    },
    "oneformer": lambda feed: {
        "task_inputs": torch.randint(3, 30, (ITEMS, feed.config.task_seq_len), generator=feed.generator)
    },
    "omdet-turbo": lambda feed: {
        "classes_input_ids": torch.randint(3, 30, (4, 6), generator=feed.generator),
        "classes_attention_mask": torch.ones(4, 6).long(),
        "tasks_input_ids": torch.randint(3, 30, (ITEMS, 6), generator=feed.generator),
        "tasks_attention_mask": torch.ones(ITEMS, 6).long(),
        "classes_structure": torch.tensor([2, 2]),
    },
    "gemma4_vision": lambda feed: {
        "pixel_values": feed.randn(ITEMS, 16, 3 * feed.patch() ** 2),
        "pixel_position_ids": torch.cartesian_prod(torch.arange(4), torch.arange(4))[None].repeat(ITEMS, 1, 1),
    },
    "gemma4_unified": lambda feed: {"pixel_values": None, "input_features": None},
    "pe_audio": short,
    "pe_audio_encoder": short,
    "videoprism": clip,
    "videoprism_vision_model": clip,
    "vjepa2": clip,
    "videomt": clip,
    "vibevoice_acoustic_tokenizer_decoder": lambda feed: {
        "hidden_states": feed.randn(ITEMS, feed.config.hidden_size, 8)
    },
    "vibevoice_acoustic_tokenizer_encoder": lambda feed: {"hidden_states": feed.randn(ITEMS, 1, 4000)},
    "pocket_tts_audio_tokenizer_decoder": lambda feed: {"latents": feed.randn(ITEMS, 32, 8)},
    "voxtral_realtime": lambda feed: {"input_features": feed.randn(ITEMS, feed.get("num_mel_bins"), 8 * TOKENS)},
    "paddleocr_vl": lambda feed: {"pixel_values": feed.randn(ITEMS * 16, 3, feed.patch(), feed.patch())},
    "kimi_k25_vision": lambda feed: {"pixel_values": feed.randn(ITEMS * 16, 3, feed.patch(), feed.patch())},
    "audio-spectrogram-transformer": lambda feed: {
        "input_values": feed.randn(ITEMS, feed.config.max_length, feed.config.num_mel_bins)
    },
    "depth_pro": lambda feed: {"pixel_values": feed.randn(ITEMS, 3, 64, 64)},
    "fun_asr_nano_encoder": lambda feed: {
        "input_features": feed.randn(ITEMS, 16, 560),
        "input_features_mask": torch.ones(ITEMS, 16).long(),
    },
    "fuyu": lambda feed: {"pixel_values": None},
    "gemma4_audio": lambda feed: {
        "input_features": feed.randn(ITEMS, 64, 128),
        "attention_mask": torch.ones(ITEMS, 64).bool(),
    },
    "granite_speech5_ctc": lambda feed: {"input_features": feed.randn(ITEMS, 64, 320)},
    "granite_speech5_encoder": lambda feed: {"input_features": feed.randn(ITEMS, 64, 320)},
    "seggpt": lambda feed: {
        "pixel_values": feed.randn(ITEMS, 3, 32, 32),
        "prompt_pixel_values": feed.randn(ITEMS, 3, 32, 32),
        "prompt_masks": feed.randn(ITEMS, 3, 32, 32),
    },
    "muse_glimmer_assistant": lambda feed: {
        "noise_embeds": feed.randn(ITEMS, TOKENS, 32),
        "context_hidden_states": feed.randn(ITEMS, TOKENS, 160),
        "attention_mask": None,
    },
    "mimi_decoder": lambda feed: {"latents": feed.randn(ITEMS, feed.config.hidden_size, 8)},
    "inkling_mm_model": lambda feed: {"pixel_values": None},
    "qwen3_asr_encoder": lambda feed: {
        "input_features": feed.randn(ITEMS, feed.config.num_mel_bins, 100),
        "input_features_mask": torch.ones(ITEMS, 100).long(),
    },
    "nemotron3_5_transcribe_word_timestamp": lambda feed: {"inputs_embeds": feed.randn(ITEMS, TOKENS, 32)},
    "video_llama_3": lambda feed: {"image_merge_sizes": torch.ones(ITEMS, dtype=torch.long)},
    "granite4_vision": sizes,
    "neomme": without_images,
    "dots3_note": without_images,
    "instructblipvideo": lambda feed: {
        "pixel_values": feed.randn(ITEMS, 2, *feed.image()),
        "qformer_input_ids": ids(feed),
        "qformer_attention_mask": token_mask(),
    },
    "vibevoice": lambda feed: {"input_values": None},
    "uvdoc": lambda feed: {"pixel_values": feed.randn(ITEMS, 3, 128, 128)},
    **TOWERS,
}
