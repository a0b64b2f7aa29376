"""A base that reads something else than the task gives it (images for texts) is refused by name, when it is built."""

from __future__ import annotations

import pytest

import topwork

PLUGINS = topwork.load_plugins()
SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
BASES = {
    "texts": {"model_type": "bert", **SMALL},
    "images": {"model_type": "vit", "image_size": 8, "patch_size": 4, **SMALL},
    "sounds": {
        "model_type": "wav2vec2",
        **SMALL,
        "conv_dim": [8],
        "conv_stride": [5],
        "conv_kernel": [10],
        "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2,
    },
    "sounds, written down": {
        "model_type": "whisper",
        "d_model": 8,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 8,
        "decoder_ffn_dim": 8,
        "num_mel_bins": 8,
        "max_source_positions": 50,
    },
}
#: column of a task -> what its rows hold
READS = {"image": "images", "audio": "sounds"}


def read_by(task: str) -> str:
    columns = PLUGINS.tasks[task].columns
    return next((kind for column, kind in READS.items() if column in columns), "texts")


CASES = [
    (task, kind)
    for task in sorted(PLUGINS.tasks)
    for kind in BASES
    if not kind.startswith(read_by(task))
    and (task, kind) != ("text-generation", "sounds, written down")  # whisper's decoder writes texts alone as well
]


@pytest.mark.parametrize(("task", "kind"), CASES)
def test_a_base_that_reads_something_else_is_refused(task, kind) -> None:
    with pytest.raises(topwork.TopworkError) as raised:
        topwork.build(task, {"config": dict(BASES[kind])}, rows=PLUGINS.tasks[task].example_rows(), plugins=PLUGINS)
    assert BASES[kind]["model_type"] in str(raised.value)
