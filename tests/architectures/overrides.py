"""What the rules of `shrink.py` get wrong, by model type: data. Keys are paths of config entries; "drop" keeps the
architecture's own default."""

from __future__ import annotations

from typing import Any

GEMMA3N = {
    "num_hidden_layers": 4,
    "num_kv_shared_layers": 2,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    "intermediate_size": [64] * 4,
    "activation_sparsity_pattern": [0.0] * 4,
}
SAM2 = {"hidden_size": 8, "num_attention_heads": 2, "image_size": [64, 64], "blocks_per_stage": [1, 1, 1, 1], "embed_dim_per_stage": [8, 16, 32, 64], "num_attention_heads_per_stage": [2, 2, 4, 8], "window_size_per_stage": [4, 2, 2, 2], "global_attention_blocks": [2], "window_positional_embedding_background_size": [4, 4]}
INDEXER = {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 8, "indexer_compress_ratio": 2, "ngram_vocab_size_base": 50, "make_ngram_vocab_size_divisible_by": 2, "split_ngram_parts": 2, "num_hidden_layers": 2}

OVERRIDES: dict[str, dict[str, Any]] = {
    "bridgetower": {"hidden_size": 64, "num_attention_heads": 4, "text_config.hidden_size": 64, "vision_config.hidden_size": 64},
    "mamba2": {"head_dim": 16},
    "reformer": {
        "axial_pos_embds_dim": (16, 16),
        "axial_pos_shape": (8, 16),
        "max_position_embeddings": 128,
        "attn_layers": ("local", "lsh"),
        "num_hidden_layers": 2,
        "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4,
        "num_buckets": 2,
        "hash_seed": 0,
    },
    "seggpt": {"image_size": (64, 32), "patch_size": 8, "pretrain_image_size": 32, "num_hidden_layers": 4, "merge_index": 0, "intermediate_hidden_state_indices": (0, 1, 2, 3)},
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32, "emb_layer_norm_before": False},
    "lilt": {"hidden_size": 48, "max_2d_position_embeddings": 128},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4, "input_size": 32, "patch_size": 8, "max_2d_position_embeddings": 128},
    "swin2sr": {"depths": (2, 2), "num_heads": (2, 4), "image_size": 16, "window_size": 4},
    "levit": {"patch_size": "drop", "image_size": "drop", "hidden_sizes": (16, 32, 48), "num_attention_heads": (2, 4, 4), "depths": (1, 1, 1), "down_ops": [["Subsample", 16, 2, 4, 2, 2], ["Subsample", 16, 4, 4, 2, 2]]},
    "perceiver": {"num_latents": 8, "d_latents": 32, "num_self_attends_per_block": 2},
    "timm_backbone": {"backbone": "resnet18", "use_pretrained_backbone": False},
    "xmod": {"default_language": "en_XX"},
    "decision_transformer": {"n_positions": 128},
    "chameleon": {"vocabulary_map": {"<image>": 40}},
    "emu3": {"vocabulary_map": {"<|extra_200|>": 40}},
    "swin": {"image_size": 64},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4, "input_size": 32, "patch_size": 8, "max_2d_position_embeddings": 128, "visual_embed": False},
    "bailing_hybrid": {"num_expert_group": 1, "topk_group": 1, "num_experts_per_token": 2, "num_experts": 4},
    "kimi_linear": {"num_expert_group": 1, "topk_group": 1, "num_experts_per_token": 2},
    "cvt": {"depth": (1, 1, 2), "embed_dim": (16, 32, 32), "num_heads": (2, 4, 4)},
    "aria": {"projector_patch_to_query_dict": {16: 8}, "max_value_projector_patch_to_query_dict": 8, "vision_config.image_size": 32, "vision_config.patch_size": 8},
    "gemma3": {"mm_tokens_per_image": 4},
    "shieldgemma2": {"mm_tokens_per_image": 4},
    "gemma3n_text": GEMMA3N,
    "gemma3n": {f"text_config.{key}": value for key, value in GEMMA3N.items()},
    "gemma4_unified_assistant": {"text_config.num_kv_shared_layers": 0},
    "longcat_flash": {"head_dim": "drop", "num_layers": 1},
    "pvt": {"image_size": 64, "hidden_sizes": (16, 32, 64, 64), "num_attention_heads": (2, 4, 4, 4)},
    "sam2_hiera_det_model": SAM2,
    "sam2_vision_model": {f"backbone_config.{key}": value for key, value in SAM2.items()} | {"backbone_channel_list": [64, 32, 16, 8], "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]},
    "granite_speech": {"projector_config.encoder_hidden_size": 32, "encoder_config.input_dim": 160},
    "granite_speech_plus": {"projector_config.encoder_hidden_size": 32},
    "depth_pro": {"patch_size": 16, "image_model_config.image_size": 16, "patch_model_config.image_size": 16, "fov_model_config.image_size": 16, "image_model_config.patch_size": 4, "patch_model_config.patch_size": 4, "fov_model_config.patch_size": 4, "intermediate_hook_ids": (1, 0)},
    "grounding-dino": {"num_queries": 10, "backbone_config.image_size": 64},
    "mm-grounding-dino": {"num_queries": 10, "backbone_config.image_size": 64},
    "rf_detr": {"num_queries": 8, "group_detr": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
    "hunyuan_vl": {"text_config.head_dim": 8},
    "qwen4_exp_text": INDEXER,
    "qwen4_exp": {f"text_config.{key}": value for key, value in INDEXER.items()},
    "kosmos-2": {"latent_query_num": 4},
    "fuyu": {"patch_size": 8},
    "qwen3_asr": {"audio_config.n_window": 8, "audio_config.n_window_infer": 32},
    "qwen3_asr_encoder": {"n_window": 8, "n_window_infer": 32},
    "fun_asr_nano": {"adaptor_config.intermediate_size": 8},
    "csm": {"codec_config.num_filters": 8, "codec_config.hidden_size": 64},
    "d_fine": {"backbone_config.depths": "drop"},
    "hgnet_v2": {"depths": "drop"},
    "deimv2": {"backbone_config.depths": "drop"},
    "pp_doclayout_v4": {"backbone_config.depths": "drop"},
    "pp_doclayout_v2": {"backbone_config.depths": "drop"},
    "efficientnet": {"num_hidden_layers": "drop", "hidden_dim": "drop"},
    "tvp": {"backbone_config": "drop", "visual_prompter_image_size": 64, "max_img_size": 64, "visual_prompt_size": 8},
}

#: the level of `Shrinker` that works, where it is not the first
LEVELS: dict[str, int] = {}
