"""Configurations of tiny detectors."""

from __future__ import annotations

RESNET = {
    "model_type": "rt_detr_resnet",
    "embedding_size": 16,
    "hidden_sizes": [16, 24, 32],
    "depths": [1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage2", "stage3"],
}


RT_DETR = {
    "model_type": "rt_detr",
    "backbone_config": RESNET,
    "encoder_hidden_dim": 32,
    "encoder_in_channels": [24, 32],
    "feat_strides": [8, 16],
    "encoder_layers": 1,
    "encode_proj_layers": [1],
    "encoder_ffn_dim": 32,
    "decoder_in_channels": [32, 32],
    "d_model": 32,
    "num_feature_levels": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 32,
    "decoder_layers": 2,
    "num_queries": 12,
    "num_denoising": 4,
    "hidden_expansion": 0.5,
}


D_FINE = {
    **RT_DETR,
    "model_type": "d_fine",
    "backbone_config": {**RESNET},
    "decoder_n_points": [4, 4],
    "depth_mult": 0.34,
}


CONV = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}


DETR = {
    "model_type": "detr",
    "backbone_config": {**CONV, "out_features": ["stage2"]},
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "num_queries": 6,
}


CONDITIONAL = {**DETR, "model_type": "conditional_detr"}


DEFORMABLE = {
    **DETR,
    "model_type": "deformable_detr",
    "d_model": 32,
    "backbone_config": {**CONV, "out_features": ["stage1", "stage2"]},
    "num_feature_levels": 2,
    "decoder_layers": 2,
}


YOLOS = {
    "model_type": "yolos",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": [32, 32],
    "patch_size": 8,
    "num_detection_tokens": 5,
}


FAMILIES = {config["model_type"]: config for config in (DETR, CONDITIONAL, DEFORMABLE, RT_DETR, D_FINE, YOLOS)}
