"""Small bases, from configs, for every installed task: what the conformance tests walk through."""

from __future__ import annotations

from typing import Any

TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
BERT: dict[str, Any] = {"config": {"model_type": "bert", **TEXT, "max_position_embeddings": 128}}
GPT2: dict[str, Any] = {"config": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}}
#: sizes of BART and its relatives; without `model_type`
PAIR: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
}
BART: dict[str, Any] = {"config": {"model_type": "bart", **PAIR, "max_position_embeddings": 256}}
#: sizes of a sequence-to-sequence model that learns a few rows by heart; without `model_type`
SEQ2SEQ: dict[str, Any] = {**PAIR, "d_model": 64, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "dropout": 0.0}
VIT: dict[str, Any] = {"config": {"model_type": "vit", **TEXT, "image_size": 32, "patch_size": 8}}
YOLOS: dict[str, Any] = {
    "config": {
        "model_type": "yolos",
        **TEXT,
        "image_size": [64, 64],
        "patch_size": 16,
        "num_detection_tokens": 8,
        "auxiliary_loss": False,
    }
}
SEGFORMER: dict[str, Any] = {
    "config": {
        "model_type": "segformer",
        "hidden_sizes": [16, 16, 32, 32],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 4, 4],
        "decoder_hidden_size": 32,
    }
}
GLPN: dict[str, Any] = {"config": {**SEGFORMER["config"], "model_type": "glpn", "decoder_hidden_size": 16}}
WAV2VEC2: dict[str, Any] = {
    "config": {
        "model_type": "wav2vec2",
        **TEXT,
        "conv_dim": [16, 16, 16],
        "conv_stride": [5, 4, 4],
        "conv_kernel": [10, 8, 4],
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "mask_time_prob": 0.0,
        "apply_spec_augment": False,
    }
}

BASES: dict[str, dict[str, Any]] = {
    "audio-classification": WAV2VEC2,
    "automatic-speech-recognition": WAV2VEC2,
    "depth-estimation": GLPN,
    "fill-mask": BERT,
    "image-classification": VIT,
    "image-segmentation": SEGFORMER,
    "object-detection": YOLOS,
    "question-answering": BERT,
    "summarization": BART,
    "text-classification": BERT,
    "text-generation": GPT2,
    "token-classification": BERT,
    "translation": BART,
}
