"""Configs of models for the dense tasks that cost next to nothing."""

from __future__ import annotations

VIT = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 16, 16],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}
SWIN = {
    "model_type": "swin",
    "image_size": 64,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 2, 2, 2],
    "window_size": 2,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
SEGFORMER = {
    "model_type": "segformer",
    "hidden_sizes": [8, 16, 16, 16],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 2, 2],
    "decoder_hidden_size": 16,
    "drop_path_rate": 0.0,
}
UPERNET = {
    "model_type": "upernet",
    "backbone_config": {**RESNET, "out_features": ["stage1", "stage2", "stage3", "stage4"]},
    "hidden_size": 16,
    "auxiliary_in_channels": 16,
    "auxiliary_channels": 8,
    "pool_scales": [1, 2],
}
BEIT = {
    **VIT,
    "model_type": "beit",
    "num_hidden_layers": 4,
    "out_indices": [1, 2, 3, 4],
    "out_features": None,
    "pool_scales": [1, 2],
    "auxiliary_channels": 8,
}
DPT = {
    **VIT,
    "model_type": "dpt",
    "num_hidden_layers": 4,
    "patch_size": 16,
    "backbone_out_indices": [0, 1, 2, 3],
    "neck_hidden_sizes": [8, 8, 16, 16],
    "fusion_hidden_size": 16,
    "is_hybrid": False,
}
MASK2FORMER = {
    "model_type": "mask2former",
    "backbone_config": SWIN,
    "feature_size": 32,
    "mask_feature_size": 32,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_attention_heads": 2,
    "dim_feedforward": 16,
    "num_queries": 8,
    "train_num_points": 64,
}
MASKFORMER = {
    "model_type": "maskformer",
    "backbone_config": SWIN,
    "fpn_feature_size": 32,
    "mask_feature_size": 32,
    "decoder_config": {
        "model_type": "detr",
        "d_model": 16,
        "decoder_layers": 2,
        "encoder_layers": 1,
        "decoder_attention_heads": 2,
        "encoder_attention_heads": 2,
        "decoder_ffn_dim": 16,
        "encoder_ffn_dim": 16,
        "num_queries": 8,
    },
}
GLPN = {
    "model_type": "glpn",
    "hidden_sizes": [8, 16, 16, 16],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 2, 2],
    "decoder_hidden_size": 16,
    "num_encoder_blocks": 4,
    "max_depth": 10,
}
DEPTH_ANYTHING = {
    "model_type": "depth_anything",
    "backbone_config": {
        "model_type": "dinov2",
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
        "reshape_hidden_states": False,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
        "apply_layernorm": True,
    },
    "patch_size": 14,
    "reassemble_hidden_size": 16,
    "neck_hidden_sizes": [8, 8, 16, 16],
    "fusion_hidden_size": 16,
    "head_hidden_size": 8,
}
TIMM = {
    "test_vit": {"model": "timm/test_vit", "weights": False, "changes": {"model_args": {"img_size": 64}}},
    "test_convnext": {"model": "timm/test_convnext", "weights": False},
}

#: the sizes of a decoder for masks that costs next to nothing
MASK_HEAD = {
    "queries": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "width": 32,
    "attention_heads": 2,
    "feed_forward": 32,
    "points": 64,
}
