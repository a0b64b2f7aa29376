"""Like `overrides.py`, of which these are part: models made of several models, whose sizes must fit each other."""

from __future__ import annotations

from typing import Any

#: a perception encoder of timm, as tiny as the others
PERCEPTION = {
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 4,
    "img_size": [28, 28],
    "ref_feat_shape": [2, 2],
}
SEGMENT = {"prompt_encoder_config.image_size": 64, "prompt_encoder_config.patch_size": 16}

DOCUMENT = {"decoder_in_channels": (32, 32, 32), "num_queries": 10, "backbone_config.hidden_sizes": "drop"}
HEARING = {"patch_sizes": [4, 4], "hidden_sizes": [16, 32], "depths": [1, 1], "num_hidden_layers": 2}

#: the towers that the default config leaves out
GEMMA4 = {
    "vision_config": {
        "model_type": "gemma4_vision",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 8,
        "max_position_embeddings": 128,
        "patch_size": 8,
    },
    "audio_config": {
        "model_type": "gemma4_audio",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "output_proj_dims": 32,
    },
    # All but these are others in the tiny one.
    "image_token_id": 40,
    "audio_token_id": 41,
    "video_token_id": 42,
}

COMPOSITE: dict[str, dict[str, Any]] = {
    "align": {"projection_dim": 640},
    "colqwen2": {
        "vlm_config.text_config.rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2, 1, 1],
        }
    },
    "chmv2": {"backbone_config.return_class_token": True},
    "edgetam": SEGMENT
    | {
        "vision_config.backbone_channel_list": [1024, 512, 256, 64],
        "vision_config.backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        "prompt_encoder_config.patch_size": 8,
    },
    "efficientloftr": {
        "hidden_size": 32,
        "out_features": [16, 16, 16, 32],
        "stage_num_blocks": [1, 1, 1, 1],
        "num_attention_layers": 2,
        "fine_fusion_dims": [32, 16, 16],
    },
    "gemma4": GEMMA4,
    "embedding_gemma2": GEMMA4,
    "granite4_vision": {
        "downsample_rate": "2/4",
        "image_grid_pinpoints": [[32, 32]],
        "deepstack_layer_map": [[-1, 0]],
        "spatial_target_layers": [0, 0, 1, 1],
        # One attention head of its own projectors is 64 wide.
        "vision_config.hidden_size": 128,
        "text_config.hidden_size": 128,
    },
    "lw_detr": {
        f"backbone_config.{key}": value
        for key, value in {
            "image_size": 64,
            "pretrain_image_size": 64,
            "patch_size": 8,
            "num_windows": 4,
            "num_windows_side": 2,
            "out_indices": [1, 2],
            "out_features": ["stage1", "stage2"],
        }.items()
    }
    | {"projector_scale_factors": [1.0], "projector_in_channels": [32, 32], "num_queries": 8, "group_detr": 2},
    "muse_spark_audio": HEARING,
    "muse_spark": {f"audio_config.{key}": value for key, value in HEARING.items()} | {"out_hidden_size": 128},
    "minicpm_ocr_vision": {"insert_layer_id": 0},
    "minicpmv4_7_vision": {"insert_layer_id": 0},
    "omdet-turbo": {"vision_features_channels": [32, 32, 32], "class_embed_dim": 48, "text_config.hidden_size": 48}
    | {"text_projection_in_dim": 48, "text_projection_out_dim": 48},
    "pe_video": {"video_config.vision_config.model_args": PERCEPTION},
    "pe_video_encoder": {"vision_config.model_args": PERCEPTION},
    "pe_audio_video": {"audio_video_config.video_config.vision_config.model_args": PERCEPTION},
    "pe_audio_video_encoder": {"video_config.vision_config.model_args": PERCEPTION},
    "perception_lm": {
        "vision_config.architecture": "vit_pe_core_large_patch14_336",
        "vision_config.model_args": {**PERCEPTION, "global_pool": ""},
    },
    "sam3_tracker": {
        "prompt_encoder_config.image_size": 32,
        "prompt_encoder_config.patch_size": 8,
        "vision_config.backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    },
    "vitmatte": {
        "backbone_config.num_channels": 4,
        "backbone_config.patch_size": 16,
        "backbone_config.image_size": 32,
        "backbone_config.pretrain_image_size": 32,
        "convstream_hidden_sizes": [8, 16, 32],
        "fusion_hidden_sizes": [32, 16, 8, 8],
    },
    "xcodec": {"codebook_dim": 64},
    "xcodec2": {"quantization_dim": 64},
    "neucodec": {"quantization_dim": 64},
    "pp_doclayout_v3": {**DOCUMENT, "x4_feat_dim": 128},
}

#: the class to build, where AutoModel's own one is a part that does not take the config of the whole
CLASSES: dict[str, str] = {
    "musicgen": "MusicgenForConditionalGeneration",
    "musicgen_melody": "MusicgenMelodyForConditionalGeneration",
}
