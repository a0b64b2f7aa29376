"""The audio tasks learn rows by heart, measured after saving and loading in a new process; with targets exchanged among
the rows the same models are at chance."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import topwork
from audio_models import CONFIGS
from topwork_tasks.audio_classification import AudioClassification
from topwork_tasks.automatic_speech_recognition import SpeechRecognition

pytestmark = pytest.mark.learn

_DROPS = ("hidden_dropout", "attention_dropout", "feat_proj_dropout", "final_dropout", "layerdrop", "mask_time_prob")
_WIDE = {"d_model": 64, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128}
#: task, config, options, settings of the training
CASES = {
    "classification": (AudioClassification, {**CONFIGS["ast"], "hidden_size": 32}, {}, {"steps": 150}),
    "ctc": (
        SpeechRecognition,
        {**CONFIGS["whisper"], **_WIDE},
        {"form": "ctc", "dropout": 0.0},
        {"steps": 350, "learning_rate": 2e-3},
    ),
    "ctc-waveform": (
        SpeechRecognition,
        {
            **CONFIGS["wav2vec2"],
            **dict.fromkeys(_DROPS, 0.0),
            "hidden_size": 64,
            "conv_dim": [32, 64],
            "conv_kernel": [40, 16],
            "conv_stride": [20, 16],
        },
        {},
        {"steps": 400, "learning_rate": 2e-3},
    ),
    "seq2seq": (
        SpeechRecognition,
        {**CONFIGS["whisper"], **_WIDE},
        {"form": "seq2seq", "generation": {"num_beams": 1, "max_new_tokens": 20}},
        {"steps": 300},
    ),
}
_MEASURE = """
import json, sys, topwork
from topwork_tasks.audio_classification import AudioClassification
from topwork_tasks.automatic_speech_recognition import SpeechRecognition
rows = {task.name: task.example_rows() for task in (AudioClassification, SpeechRecognition)}
found = {}
for folder in sys.argv[1:]:
    work = topwork.load(folder)
    mine = rows[work.task.name]
    target = "label" if "label" in mine[0] else "text"
    moved = [{**row, target: mine[(number * 3 + 1) % len(mine)][target]} for number, row in enumerate(mine)]
    found[folder] = [work.evaluate(mine), work.evaluate(moved)]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory, plugins):
    """Of each case the metrics over its rows, and over the same rows with targets exchanged."""
    root = tmp_path_factory.mktemp("learned")
    for name, (task, config, options, training) in CASES.items():
        rows = task.example_rows()
        work = topwork.build(task.name, {"config": config}, rows=rows, plugins=plugins, **options)
        work.train(rows, batch_size=len(rows), **{"learning_rate": 1e-3, "warmup": 0.1, **training})
        work.save(root / name)
    told = subprocess.run(
        [sys.executable, "-c", _MEASURE, *(str(root / name) for name in CASES)],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(told.stdout.splitlines()[-1])
    return {name: found[str(root / name)] for name in CASES}


def test_labels_are_learned(measured) -> None:
    known, moved = measured["classification"]
    assert known["accuracy"] == 1
    assert moved["accuracy"] <= 0.5


@pytest.mark.parametrize("name", ["ctc", "ctc-waveform", "seq2seq"])
def test_texts_are_learned(measured, name) -> None:
    known, moved = measured[name]
    assert known["wer"] <= 0.05
    assert moved["wer"] > 0.5
