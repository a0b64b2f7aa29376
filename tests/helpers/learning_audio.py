"""Cases of audio tasks that must learn their rows."""

from __future__ import annotations

from audio_models import CONFIGS
from learning import Case

_DROPS = ("hidden_dropout", "attention_dropout", "feat_proj_dropout", "final_dropout", "layerdrop", "mask_time_prob")


_WHISPER = {"config": {**CONFIGS["whisper"], "d_model": 64, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128}}


_AST = {"config": {**CONFIGS["ast"], "hidden_size": 32}}


_WAVEFORM = {
    "config": {
        **CONFIGS["wav2vec2"],
        **dict.fromkeys(_DROPS, 0.0),
        "hidden_size": 64,
        "conv_dim": [32, 64],
        "conv_kernel": [40, 16],
        "conv_stride": [20, 16],
    }
}


def heard(base: dict, steps: int, rate: float = 2e-3, **options: object) -> Case:
    training = {"steps": steps, "learning_rate": rate, "warmup": 0.1}
    return Case("automatic-speech-recognition", base, "wer", 0.05, training, options)


CASES = {
    "audio-classification": Case(
        "audio-classification", _AST, "accuracy", 1, {"steps": 150, "learning_rate": 1e-3, "warmup": 0.1}
    ),
    "ctc": heard(_WHISPER, 350, form="ctc", dropout=0.0),
    "ctc on waveforms": heard(_WAVEFORM, 400),
    "seq2seq": heard(_WHISPER, 300, 1e-3, form="seq2seq", generation={"num_beams": 1, "max_new_tokens": 20}),
}
