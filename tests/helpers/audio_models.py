"""Configs of audio models that cost next to nothing, clips made on the spot, and a task on a base without the
runner, for the tests of the audio room."""

from __future__ import annotations

import io
from typing import Any

import numpy
import torch

from topwork import BaseOptions
from topwork_bases.transformers.base import load_base

_WAVE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [16, 16],
    "conv_kernel": [10, 8],
    "conv_stride": [5, 4],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16,
}
_LAYER_NORM = {**_WAVE, "feat_extract_norm": "layer", "do_stable_layer_norm": True}
_PAIR = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_target_positions": 64,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "wav2vec2": {**_LAYER_NORM, "model_type": "wav2vec2"},
    "wav2vec2-group": {**_WAVE, "model_type": "wav2vec2"},
    "hubert": {**_LAYER_NORM, "model_type": "hubert"},
    "wavlm": {**_LAYER_NORM, "model_type": "wavlm"},
    "ast": {
        "model_type": "audio-spectrogram-transformer",
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "num_mel_bins": 32,
        "max_length": 64,
        "patch_size": 8,
        "frequency_stride": 6,
        "time_stride": 6,
    },
    "whisper": {
        **_PAIR,
        "model_type": "whisper",
        "num_mel_bins": 20,
        "max_source_positions": 50,
        "classifier_proj_size": 16,
        "vocab_size": 300,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
    },
    "wav2vec2-bert": {
        "model_type": "wav2vec2-bert",
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "feature_projection_input_dim": 32,
        "conv_depthwise_kernel_size": 5,
        "left_max_position_embeddings": 8,
        "right_max_position_embeddings": 4,
    },
    "speech_to_text": {
        **_PAIR,
        "model_type": "speech_to_text",
        "input_feat_per_channel": 20,
        "conv_channels": 32,
        "vocab_size": 30,
        "max_source_positions": 400,
    },
}


def clip(seconds: float, rate: int = 16000, seed: int = 0) -> numpy.ndarray:
    """Noise under a tone, float32 [samples]."""
    chance = numpy.random.default_rng(seed)
    time = numpy.arange(round(seconds * rate)) / rate
    tone = 0.3 * numpy.sin(2 * numpy.pi * (300 + 200 * seed) * time)
    return (tone + 0.05 * chance.standard_normal(len(time))).astype(numpy.float32)


def encoded(samples: numpy.ndarray, rate: int, form: str = "WAV") -> bytes:
    """The samples ([samples] or [samples, channels]) as an audio file."""
    import soundfile

    target = io.BytesIO()
    soundfile.write(target, samples, rate, format=form)
    return target.getvalue()


def make(kind: Any, name: Any, rows: Any, base: Any = None, **options: Any) -> tuple[Any, Any]:
    """The task (a class) on a tiny config or a folder, and its model, in evaluation mode."""
    torch.manual_seed(0)
    named = {"config": CONFIGS[name]} if name in CONFIGS else {"model": str(name)}
    found = load_base(str(name), BaseOptions(**{**named, **(base or {})}))
    chosen = kind.Options(**options)
    task = kind({"base": found}, chosen, kind.learn(rows, {"base": found}, chosen))
    return task, task.build().eval()


def predict(task: Any, model: Any, rows: Any, together: bool = True) -> list[Any]:
    """Predictions of rows in one batch, or each alone."""
    told = []
    for group in [rows] if together else [[row] for row in rows]:
        items = task.encode(group, "predict", 0)
        with torch.inference_mode():
            parts = task.predict(model, task.collate(items, "predict"))
        for number, row in enumerate(group):
            told.append(task.merge(row, [part for item, part in zip(items, parts) if item.row == number]))
    return told


def array_rows(target: str, values: tuple[str, ...], count: int = 5, seconds: float = 0.2) -> list[dict[str, Any]]:
    """Rows of growing length, with the values of the target in turn."""
    return [
        {
            "audio": {"array": clip(seconds + 0.06 * number, seed=number), "sampling_rate": 16000},
            target: values[number % len(values)],
        }
        for number in range(count)
    ]


def lively(model: Any) -> Any:
    """The random CTC model with a head whose best letter changes from frame to frame."""
    torch.manual_seed(3)
    head = getattr(model, "lm_head", None) or model.head
    torch.nn.init.normal_(head.weight, std=3.0)
    return model
