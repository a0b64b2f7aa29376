"""What the rules of `shrink.py` get wrong, by model type: data. Keys are paths of config entries; "drop" keeps the
architecture's own default."""

from __future__ import annotations

from typing import Any

from architectures.overrides_composite import COMPOSITE

EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
#: the names of image tokens: letters for digits
IMAGE_WORDS = {f"IMGIMG{''.join(chr(65 + int(d)) for d in str(i))}Z": 200 + i for i in range(128)}
ROPE = {kind: {"rope_type": "default", "rope_theta": 10000.0} for kind in ("full_attention", "sliding_attention")}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
DETR = {"encoder_in_channels": (32, 64, 128), "decoder_in_channels": (32, 32, 32), "num_queries": 10}
PINS = {"image_grid_pinpoints": [[32, 32]]}
LW = {"image_size": 64, "pretrain_image_size": 64, "patch_size": 8, "num_windows": 4, "num_windows_side": 2}
GEMMA3N = {
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 2,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    "intermediate_size": [64] * 4,
    "activation_sparsity_pattern": [0.0] * 4,
}
#: all 33 attention layers of the default, narrower than its 294 million parameters
GEMMA3N_VISION = {
    "architecture": "mobilenetv5_300m_enc",
    "model_args": {"channel_multiplier": 0.05, "msfa_output_resolution": 2},
    "hidden_size": 2048,
}
SAM2 = {
    "hidden_size": 8,
    "num_attention_heads": 2,
    "image_size": [64, 64],
    "blocks_per_stage": [1, 1, 2, 1],
    "embed_dim_per_stage": [8, 16, 32, 64],
    "num_attention_heads_per_stage": [2, 2, 4, 8],
    "window_size_per_stage": [4, 2, 2, 2],
    "global_attention_blocks": [3],
    "window_positional_embedding_background_size": [4, 4],
}
SAM2_NECK = {
    "vision_config.backbone_channel_list": [64, 32, 16, 8],
    "vision_config.backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
}
INDEXER = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
    "ngram_vocab_size_base": 50,
    "make_ngram_vocab_size_divisible_by": 2,
    "split_ngram_parts": 2,
    "num_hidden_layers": 2,
}

OVERRIDES: dict[str, dict[str, Any]] = {
    "bridgetower": {
        "hidden_size": 64,
        "num_attention_heads": 4,
        "text_config.hidden_size": 64,
        "vision_config.hidden_size": 64,
    },
    "mamba2": {"head_dim": 16},
    "reformer": {
        "axial_pos_embds_dim": (16, 16),
        "axial_pos_shape": (3, 4),
        "max_position_embeddings": 12,
        "attn_layers": ("local", "lsh"),
        "num_hidden_layers": 2,
        "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4,
        "num_buckets": 2,
        "hash_seed": 0,
        # It can be differentiated in training mode only.
        "hidden_dropout_prob": 0.0,
        "local_attention_probs_dropout_prob": 0.0,
        "lsh_attention_probs_dropout_prob": 0.0,
    },
    "seggpt": {
        "image_size": (64, 32),
        "patch_size": 8,
        "pretrain_image_size": 32,
        "num_hidden_layers": 4,
        "merge_index": 0,
        "intermediate_hidden_state_indices": (0, 1, 2, 3),
    },
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32, "emb_layer_norm_before": False},
    "lilt": {"hidden_size": 48, "max_2d_position_embeddings": 128},
    "swin2sr": {"depths": (2, 2), "num_heads": (2, 4), "image_size": 16, "window_size": 4},
    "levit": {
        "patch_size": "drop",
        "image_size": "drop",
        "hidden_sizes": (16, 32, 48),
        "num_attention_heads": (2, 4, 4),
        "depths": (1, 1, 1),
        "down_ops": [["Subsample", 16, 2, 4, 2, 2], ["Subsample", 16, 4, 4, 2, 2]],
    },
    "perceiver": {"num_latents": 8, "d_latents": 32, "num_self_attends_per_block": 2},
    "timm_backbone": {"backbone": "resnet18", "use_pretrained_backbone": False},
    "xmod": {"default_language": "en_XX"},
    "decision_transformer": {"n_positions": 128, "n_head": 4},
    "chameleon": {"vocabulary_map": {"<image>": 40, **IMAGE_WORDS}, "vocab_size": 400, "image_token_id": 40},
    "emu3": {
        "vocabulary_map": {"<|extra_200|>": 40, "<image>": 41}
        | {f"<|visual token {code:06d}|>": 50 + code % 60 for code in range(128)},
        "vq_config.hidden_size": 128,
    },
    "swin": {"image_size": 64},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "bailing_hybrid": {"num_expert_group": 1, "topk_group": 1, "num_experts_per_token": 2, "num_experts": 4},
    "kimi_linear": {"num_expert_group": 1, "topk_group": 1, "num_experts_per_token": 2},
    "cvt": {"depth": (1, 2, 3), "embed_dim": (16, 32, 32), "num_heads": (2, 4, 4)},
    "aria": {
        "projector_patch_to_query_dict": {16: 8},
        "max_value_projector_patch_to_query_dict": 8,
        "vision_config.image_size": 32,
        "vision_config.patch_size": 8,
    },
    "gemma3": {"mm_tokens_per_image": 4},
    "shieldgemma2": {"mm_tokens_per_image": 4},
    "gemma3n_text": GEMMA3N,
    "gemma3n": {f"text_config.{key}": value for key, value in GEMMA3N.items()}
    | {f"vision_config.{key}": value for key, value in GEMMA3N_VISION.items()}
    | {"vision_config.architecture": "mobilenetv5_base"}
    # The tokens of sounds are the last of the vocabulary, those of images stand before them.
    | {"text_config.vocab_size_per_layer_input": 100, "vision_config.vocab_offset": 100, "vision_config.vocab_size": 14}
    | {"audio_config.vocab_offset": 114, "audio_config.vocab_size": 14}
    | {"vision_soft_tokens_per_image": 4, "audio_soft_tokens_per_image": 4},
    "gemma4_unified_assistant": {"text_config.num_kv_shared_layers": 0},
    "longcat_flash": {"qk_head_dim": 16, "num_layers": 1},
    "pvt": {"image_size": 64, "hidden_sizes": (16, 32, 64, 64), "num_attention_heads": (2, 4, 4, 4)},
    "sam2_hiera_det_model": SAM2,
    "sam2_vision_model": {f"backbone_config.{key}": value for key, value in SAM2.items()}
    | {"backbone_channel_list": [64, 32, 16, 8], "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]},
    "granite_speech": {"projector_config.encoder_hidden_size": 32, "encoder_config.input_dim": 160},
    "granite_speech_plus": {"projector_config.encoder_hidden_size": 32},
    "depth_pro": {
        "patch_size": 16,
        "image_model_config.image_size": 16,
        "patch_model_config.image_size": 16,
        "fov_model_config.image_size": 16,
        "image_model_config.patch_size": 4,
        "patch_model_config.patch_size": 4,
        "fov_model_config.patch_size": 4,
        "intermediate_hook_ids": (1, 0),
    },
    "grounding-dino": {"num_queries": 5},
    "mm-grounding-dino": {"num_queries": 5},
    "rf_detr": {"num_queries": 8, "group_detr": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
    "hunyuan_vl": {"text_config.head_dim": 8},
    "qwen4_exp_text": INDEXER,
    "qwen4_exp": {f"text_config.{key}": value for key, value in INDEXER.items()},
    "kosmos-2": {"latent_query_num": 4},
    "fuyu": {"patch_size": 8},
    # Codes of the vocabulary that is left.
    "clvp": {"decoder_config.decoder_fixing_codes": [20, 21, 21, 22]},
    "fun_asr_nano": {"adaptor_config.intermediate_size": 8},
    "csm": {"codec_config.num_filters": 8, "codec_config.hidden_size": 64},
    "audio-spectrogram-transformer": {"max_length": 40, "num_mel_bins": 16, "time_stride": 4, "frequency_stride": 4},
    "layoutlmv3": {
        "coordinate_size": 6,
        "shape_size": 4,
        "input_size": 32,
        "patch_size": 8,
        "max_2d_position_embeddings": 128,
    },
    "cohere_compass_text": {"rope_parameters": ROPE},
    "cohere_compass": {"text_config.rope_parameters": ROPE},
    "glm46v": {"text_config.rope_parameters": MROPE},
    "glmga": {"text_config.rope_parameters": MROPE},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16},
    "zamba": {
        "num_hidden_layers": 4,
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
    },
    "neomme": {"head_dim": 16},
    "minicpm_ocr": {"insert_layer_id": 0, "downsample_mode": "16x"},
    "minicpmv4_6": {"insert_layer_id": 0, "downsample_mode": "16x"},
    "minicpmv4_7": {"insert_layer_id": 0, "downsample_mode": "16x"},
    "vits": {"upsample_initial_channel": 32, "upsample_rates": [2, 2], "upsample_kernel_sizes": [4, 4]},
    "kimi_k25": {"vision_config.pos_emb_width": 64},
    "lightglue": {"depth_confidence": 2.0},
    "kosmos-2.5": {"latent_query_num": 4},
    "fast_vlm": {"vision_config.architecture": "fastvit_mci0", "vision_config.hidden_size": 1024},
    "muse_glimmer": {"out_hidden_size": 128},
    "slanext": {"max_text_length": 4},
    "slanet": {"max_text_length": 4},
    "gemma3n_vision": GEMMA3N_VISION,
    "vipllava": {"vision_feature_layers": [-1, -2]},
    "t5gemma2_encoder": {"text_config.dropout_rate": 0.0, "mm_tokens_per_image": 4},
    "ernie4_5_vl_moe": {"text_config.rope_parameters": {**MROPE, "mrope_section": [1, 1, 2]}},
    "diffusion_gemma": {
        f"text_config.{key}": value
        for key, value in {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16}.items()
    },
    "sam2": {f"vision_config.backbone_config.{key}": value for key, value in SAM2.items()}
    | SAM2_NECK
    | {"prompt_encoder_config.image_size": 64, "prompt_encoder_config.patch_size": 16},
    "dbrx": {"attn_config.rope_theta": 10000.0, "attn_config.clip_qkv": 8.0},
    "edgetam_vision_model": {"backbone_channel_list": [1024, 512, 256, 64]},
    "qwen2_5_omni_thinker": {"vision_start_token_id": 41},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 41},
    "llava_next": PINS,
    "llava_next_video": PINS,
    "llava_onevision": PINS,
    "mobilevitv2": {"image_size": 128},
    "mistral4": {"qk_head_dim": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4},
    "mllama": {"vision_config.vision_output_dim": 96},
    "instructblipvideo": {"video_token_index": 46},
    "deepseek_ocr2": {"vision_config.sam_config.downsample_channels": [32, 32]}
    | {f"text_config.{key}": value for key, value in EXPERTS.items()}
    | {"text_config.mlp_layer_types": ["dense", "sparse"]},
    "dots1": {**EXPERTS, "moe_intermediate_size": 16, "n_shared_experts": 1},
    "molmo2": {"adapter_config.vision_feature_layer": [-1, -2]},
    "moonshine_streaming": {"num_key_value_heads": 4},
    "autoformer": {"label_length": 4},
    "t5gemma2": {"encoder.mm_tokens_per_image": 4},
    "efficientnet": {"num_hidden_layers": "drop", "hidden_dim": "drop"},
    "unlimited_ocr": {"vision_config.sam_config.downsample_channels": (32, 32)},
    "llama4": {
        "vision_config.projector_input_dim": 32,
        "vision_config.vision_output_dim": 32,
        "vision_config.intermediate_size": 128,
    },
    "lw_detr_vit": LW,
    "step3p7": {"text_config.sliding_window": 8},
    "zamba2": {
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "mamba_headdim": 8,
        "n_mamba_heads": 8,
        "kv_channels": 16,
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "hybrid_layer_ids": [1, 3],
    },
    "rt_detr": DETR,
    "rt_detr_v2": DETR,
    "d_fine": {"decoder_in_channels": (32, 32, 32), "num_queries": 10},
    "deimv2": {"decoder_in_channels": (32, 32, 32), "num_queries": 10},
    "pp_doclayout_v4": {"decoder_in_channels": (32, 32, 32), "num_queries": 10},
    "mask2former": {"num_queries": 5},
    "bamba": {"attn_layer_indices": [1]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "sam3_lite_text_text_model": {"num_hidden_layers": 4},
    "tvp": {
        "backbone_config": "drop",
        "visual_prompter_image_size": 64,
        "max_img_size": 64,
        "visual_prompt_size": 8,
        "num_frames": 4,
    },
    **COMPOSITE,
}

#: the level of `Shrinker` that works, where it is not the first
LEVELS: dict[str, int] = {}

#: the spread of random matrices, where the usual one makes rounding grow from layer to layer: what is computed then
#: differs by more than float32 can tell, in whatever form
CALM: dict[str, float] = {
    "bros": 0.03,
    "clap": 0.03,
    "fast_vlm": 0.05,
    "lightglue": 0.02,
    "omdet-turbo": 0.05,
    "sam": 0.05,
    "sam_hq": 0.05,
    "slanext": 0.05,
    "superglue": 0.02,
}
