"""Audio families, and the tasks that run on them."""

from __future__ import annotations

from named.harness import Exempt, Named, Settings, cases
from named.text import SINUSOIDS, config

PLAIN = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
WAVE = {
    **PLAIN,
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 8, 4],
    "conv_stride": [5, 4, 4],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "classifier_proj_size": 16,
    "layerdrop": 0.0,
}
BASES = {
    "Wav2Vec2": config("wav2vec2", WAVE),
    "HuBERT": config("hubert", WAVE),
    "WavLM": config("wavlm", WAVE),
    "Wav2Vec2-BERT": config(
        "wav2vec2-bert",
        PLAIN,
        feature_projection_input_dim=32,
        conv_depthwise_kernel_size=5,
        left_max_position_embeddings=8,
        right_max_position_embeddings=4,
        layerdrop=0.0,
        mask_time_length=2,
    ),
    "AST": config(
        "audio-spectrogram-transformer",
        PLAIN,
        num_mel_bins=32,
        max_length=64,
        patch_size=8,
        frequency_stride=6,
        time_stride=6,
    ),
    "Whisper": config(
        "whisper",
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_mel_bins=20,
        max_source_positions=50,
        max_target_positions=64,
        classifier_proj_size=16,
        vocab_size=300,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    ),
}
WAVES = ["Wav2Vec2", "HuBERT", "WavLM", "Wav2Vec2-BERT"]
NAMED: Named = {
    "audio-classification": {"native": list(BASES)},
    "automatic-speech-recognition": {"native": [*WAVES, "Whisper"], "generic": ["AST", "Whisper"]},
}
WRITES = {"form": "seq2seq", "generation": {"num_beams": 1, "max_new_tokens": 4}}
SETTINGS: Settings = [("automatic-speech-recognition/Whisper/native", {"options": WRITES})]
UNLEARNED = [
    Exempt("audio-classification/Whisper/*", "encoder.embed_positions.weight", SINUSOIDS),
    Exempt("automatic-speech-recognition/Whisper/native", "model.encoder.embed_positions.weight", SINUSOIDS),
    Exempt("*/Whisper/generic", "backbone.backbone.embed_positions.weight", SINUSOIDS),
]
CASES = cases(NAMED, BASES, SETTINGS, UNLEARNED)
