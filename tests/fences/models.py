"""Tiny models of every task head, by name: a task, its base or bases, and its options.

The sizes are written out here although `tests/helpers` has configs of the same architectures: snapshots and stored
folders were made with these, and a change of a test's model must not change what they are compared with.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import topwork
from fences import rows

_TEXT: dict[str, Any] = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 12,
    "max_position_embeddings": 48,
    "initializer_range": 0.3,
}
_VIT: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 32,
    "patch_size": 8,
    "initializer_range": 0.3,
}
_WAVE: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": [8, 8, 8],
    "conv_kernel": [10, 8, 4],
    "conv_stride": [5, 8, 4],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "apply_spec_augment": False,
    "initializer_range": 0.3,
}
_PAIR: dict[str, Any] = {
    "d_model": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 12,
    "decoder_ffn_dim": 12,
    "init_std": 0.3,
}
_FOUR = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
_SWIN = {
    "model_type": "swin",
    "image_size": 32,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [1, 1],
    "num_heads": [1, 2],
    "window_size": 2,
    "out_features": ["stage1", "stage2"],
}
_SWIN4 = {**_SWIN, "image_size": 64, "depths": [1] * 4, "num_heads": [1, 2, 2, 2]}
_SWIN4["out_features"] = ["stage1", "stage2", "stage3", "stage4"]
_DETR: dict[str, Any] = {
    "backbone_config": {
        "model_type": "resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "layer_type": "basic",
        "out_features": ["stage2"],
    },
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "num_queries": 6,
}
_DEFORMABLE = {
    **_DETR,
    "d_model": 32,  # group norm of 32 groups
    "backbone_config": {**_DETR["backbone_config"], "out_features": ["stage1", "stage2"]},
    "num_feature_levels": 2,
    "decoder_layers": 2,
}
_RT_DETR = {
    "backbone_config": {
        "model_type": "rt_detr_resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 16, 16],
        "depths": [1, 1, 1],
        "layer_type": "basic",
        "out_features": ["stage2", "stage3"],
    },
    "encoder_hidden_dim": 16,
    "encoder_in_channels": [16, 16],
    "feat_strides": [8, 16],
    "encoder_layers": 1,
    "encode_proj_layers": [1],
    "encoder_ffn_dim": 16,
    "decoder_in_channels": [16, 16],
    "d_model": 16,
    "num_feature_levels": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 16,
    "decoder_layers": 1,
    "num_queries": 6,
    "num_denoising": 4,
    "hidden_expansion": 0.5,
}
_MASK2FORMER = {
    "backbone_config": _SWIN4,
    "feature_size": 32,
    "mask_feature_size": 32,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_attention_heads": 2,
    "dim_feedforward": 16,
    "num_queries": 6,
    "train_num_points": 64,
}
_MASKFORMER = {
    "backbone_config": _SWIN4,
    "fpn_feature_size": 32,
    "mask_feature_size": 32,
    "decoder_config": {"model_type": "detr", **{key: _DETR[key] for key in _DETR if key != "backbone_config"}},
}
_EOMT = {
    **{key: value for key, value in _VIT.items() if key != "intermediate_size"},
    "num_blocks": 1,
    "num_queries": 6,
    "num_register_tokens": 1,
    "num_upscale_blocks": 1,
    "train_num_points": 64,
}
_DPT = {
    **_VIT,
    "num_hidden_layers": 4,
    "backbone_out_indices": [0, 1, 2, 3],
    "neck_hidden_sizes": [8, 8, 16, 16],
    "fusion_hidden_size": 16,
    "is_hybrid": False,
}
_DEPTH_ANYTHING = {
    "backbone_config": {
        "model_type": "dinov2",
        **{key: _VIT[key] for key in ("hidden_size", "num_attention_heads", "image_size", "patch_size")},
        "num_hidden_layers": 4,
        "reshape_hidden_states": False,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
        "apply_layernorm": True,
    },
    "patch_size": 8,
    "reassemble_hidden_size": 16,
    "neck_hidden_sizes": [8, 8, 16, 16],
    "fusion_hidden_size": 16,
    "head_hidden_size": 8,
}
_WHISPER = {
    **_PAIR,
    "num_mel_bins": 16,
    "max_source_positions": 50,
    "max_target_positions": 32,
    "classifier_proj_size": 16,
    "vocab_size": 40,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
_SPEECH = {
    **_PAIR,
    "input_feat_per_channel": 16,
    "num_conv_layers": 2,
    "conv_channels": 16,
    "conv_kernel_sizes": [5, 5],
    "vocab_size": 30,
    "max_source_positions": 100,
    "max_target_positions": 32,
}
_AST = {
    **{key: _VIT[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")},
    "num_mel_bins": 16,
    "max_length": 64,
    "patch_size": 8,
    "frequency_stride": 8,
    "time_stride": 8,
}
_UPERNET = {
    "backbone_config": {
        "model_type": "resnet",
        "embedding_size": 8,
        **_FOUR,
        "layer_type": "basic",
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    },
    "hidden_size": 16,
    "auxiliary_in_channels": 16,
    "auxiliary_channels": 8,
    "pool_scales": [1, 2],
}
_BEIT = {
    **_VIT,
    "num_hidden_layers": 4,
    "out_indices": [1, 2, 3, 4],
    "out_features": None,
    "pool_scales": [1, 2],
    "auxiliary_channels": 8,
}
_CONVNEXT = {"model_type": "convnext", **_FOUR, "num_stages": 4}
_GPT2 = {"n_embd": 8, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}
_TIMM_VIT = {
    "model_type": "timm_wrapper",
    "architecture": "vit_tiny_patch16_224",
    "model_args": {"img_size": 32, "patch_size": 8, "depth": 4, "embed_dim": 8, "num_heads": 2},
}
_TIMM_RESNET = {
    "model_type": "timm_wrapper",
    "architecture": "test_resnet",
}
_DETR_HEAD = {
    "queries": 6,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "width": 16,
    "attention_heads": 2,
    "feed_forward": 16,
}
_MASK_HEAD = {**_DETR_HEAD, "width": 32, "points": 64}


@dataclass(frozen=True)
class Case:
    """A model to build.

    Args:
        task: name of a task.
        base: the config of its only base, or the configs of several bases by role.
        options: of the task.
    """

    task: str
    base: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)

    def build(self, seed: int = 0) -> topwork.TaskModel:
        """The task model, with fresh weights and what it learns from the rows of the fences."""
        if "model_type" in self.base:
            bases: dict[str, Any] = {"base": {"config": self.base}}
        else:
            bases = {"bases": {role: {"config": config} for role, config in self.base.items()}}
        return topwork.build(self.task, rows=rows.of(self.task), seed=seed, **bases, **self.options)


def _named(model_type: str, sizes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model_type": model_type, **sizes, **more}


_BERT = _named("bert", _TEXT)
_BART = _named("bart", _PAIR, max_position_embeddings=64)
_VIT4 = _named("vit", _VIT, num_hidden_layers=4)
_CLASSES = {"label_names": ["sky", "hill", "fox"]}
_SUMS: dict[str, Any] = {"max_target_length": 8, "generation": {"num_beams": 1}}
CASES: dict[str, Case] = {
    # ------------------------------------------------ audio
    "audio-classification wav2vec2": Case("audio-classification", _named("wav2vec2", _WAVE)),
    "audio-classification whisper": Case("audio-classification", _named("whisper", _WHISPER)),
    "audio-classification PooledHead": Case("audio-classification", _named("speech_to_text", _SPEECH)),
    "speech wav2vec2": Case("automatic-speech-recognition", _named("wav2vec2", _WAVE)),
    "speech CtcHead on ast": Case("automatic-speech-recognition", _named("audio-spectrogram-transformer", _AST)),
    "speech CtcHead on speech_to_text": Case(
        "automatic-speech-recognition", _named("speech_to_text", _SPEECH), {"upsample": 2}
    ),
    "speech CtcHead on whisper": Case("automatic-speech-recognition", _named("whisper", _WHISPER)),
    "speech whisper": Case(
        "automatic-speech-recognition",
        _named("whisper", _WHISPER),
        {"form": "seq2seq", "generation": {"num_beams": 1, "max_new_tokens": 6}},
    ),
    # ------------------------------------------------ depth
    "depth glpn": Case(
        "depth-estimation", _named("glpn", _FOUR, num_attention_heads=[1, 2, 2, 2], decoder_hidden_size=16)
    ),
    "depth dpt": Case("depth-estimation", _named("dpt", _DPT)),
    "depth depth_anything": Case("depth-estimation", _named("depth_anything", _DEPTH_ANYTHING)),
    "depth DepthHead pyramid on vit": Case("depth-estimation", _VIT4),
    "depth DepthHead linear on vit": Case("depth-estimation", _VIT4, {"decoder": "linear", "max_depth": 9.0}),
    "depth DepthHead dpt on vit": Case("depth-estimation", _VIT4, {"decoder": "dpt"}),
    "depth DepthHead dpt on convnext": Case("depth-estimation", _CONVNEXT, {"decoder": "dpt"}),
    "depth DepthHead pyramid on timm vit": Case("depth-estimation", _TIMM_VIT),
    # ------------------------------------------------ images
    "image-classification vit": Case("image-classification", _named("vit", _VIT)),
    "image-classification timm vit": Case("image-classification", _TIMM_VIT),
    "image-classification timm resnet": Case("image-classification", _TIMM_RESNET),
    "image-classification PooledHead": Case("image-classification", _named("vit_mae", _VIT), {"pooling": "mean"}),
    "segmentation segformer": Case(
        "image-segmentation",
        _named("segformer", _FOUR, num_attention_heads=[1, 2, 2, 2], decoder_hidden_size=16),
        _CLASSES,
    ),
    "segmentation upernet": Case("image-segmentation", _named("upernet", _UPERNET), _CLASSES),
    "segmentation beit": Case("image-segmentation", _named("beit", _BEIT), _CLASSES),
    "segmentation DenseHead pyramid on vit": Case("image-segmentation", _VIT4, _CLASSES),
    "segmentation DenseHead linear on vit": Case("image-segmentation", _VIT4, {**_CLASSES, "decoder": "linear"}),
    "segmentation DenseHead pyramid on swin": Case("image-segmentation", _SWIN, _CLASSES),
    "segmentation mask2former": Case(
        "image-segmentation", _named("mask2former", _MASK2FORMER), {**_CLASSES, "kind": "instance"}
    ),
    "segmentation maskformer": Case(
        "image-segmentation", _named("maskformer", _MASKFORMER), {**_CLASSES, "kind": "panoptic"}
    ),
    "segmentation eomt": Case("image-segmentation", _named("eomt", _EOMT), {**_CLASSES, "kind": "instance"}),
    "segmentation MaskHead on vit": Case(
        "image-segmentation", _VIT4, {**_CLASSES, "kind": "instance", "mask_head": _MASK_HEAD}
    ),
    "segmentation MaskHead on timm resnet": Case(
        "image-segmentation", _TIMM_RESNET, {**_CLASSES, "kind": "panoptic", "mask_head": _MASK_HEAD}
    ),
    "detection yolos": Case(
        "object-detection", _named("yolos", _VIT, image_size=[32, 32], num_detection_tokens=5, auxiliary_loss=False)
    ),
    "detection detr": Case("object-detection", _named("detr", _DETR)),
    "detection conditional_detr": Case("object-detection", _named("conditional_detr", _DETR)),
    "detection deformable_detr": Case("object-detection", _named("deformable_detr", _DEFORMABLE)),
    "detection rt_detr": Case("object-detection", _named("rt_detr", _RT_DETR)),
    "detection DetrHead on vit": Case(
        "object-detection", _named("vit", _VIT), {"detr_head": _DETR_HEAD, "threshold": 0.1}
    ),
    "detection DetrHead on convnext": Case(
        "object-detection", _CONVNEXT, {"detr_head": {**_DETR_HEAD, "auxiliary_loss": False}, "image_size": 32}
    ),
    "detection DetrHead on timm vit": Case("object-detection", _TIMM_VIT, {"detr_head": _DETR_HEAD}),
    # ------------------------------------------------ texts
    "fill-mask bert": Case("fill-mask", _BERT),
    "question-answering bert": Case("question-answering", _BERT),
    "question-answering SpanHead": Case("question-answering", _named("bert-generation", _TEXT, is_decoder=False)),
    "text-classification bert": Case("text-classification", _BERT),
    "text-classification gpt2": Case("text-classification", _named("gpt2", _GPT2)),
    "text-classification PooledHead": Case("text-classification", _named("bert-generation", _TEXT)),
    "text-generation gpt2": Case("text-generation", _named("gpt2", _GPT2)),
    "token-classification bert": Case("token-classification", _BERT),
    "token-classification TokenHead": Case("token-classification", _named("bert-generation", _TEXT)),
    "token-classification TokenHead on bart": Case("token-classification", _BART),
    # ------------------------------------------------ sequence to sequence
    "summarization bart": Case("summarization", _BART, _SUMS),
    "summarization shared pair": Case("summarization", {"encoder": _BERT, "decoder": _BERT}, {**_SUMS, "share": True}),
    "translation t5": Case(
        "translation", _named("t5", {"d_model": 8, "num_layers": 1, "num_heads": 2, "d_ff": 12, "d_kv": 4}), _SUMS
    ),
    "translation marian": Case("translation", _named("marian", _PAIR, max_position_embeddings=64), _SUMS),
    "translation gpt2": Case("translation", _named("gpt2", _GPT2), _SUMS),
    "translation pair": Case("translation", {"encoder": _BERT, "decoder": _BERT}, _SUMS),
    "translation pair of two widths": Case(
        "translation",
        {
            "encoder": _named("distilbert", {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 24}),
            "decoder": _named("gpt2", _GPT2, n_embd=16),
        },
        _SUMS,
    ),
    "translation shared pair of bert-generation": Case(
        "translation", {"encoder": _BERT, "decoder": _BERT}, {**_SUMS, "share": True, "bert_generation": True}
    ),
    "translation SourceEncoder": Case("translation", {"source": _BERT, "base": _BART}, _SUMS),
}
