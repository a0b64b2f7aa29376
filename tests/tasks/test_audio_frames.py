"""SpecAugment fitted to the length of clips, and texts that need more frames than their clips have."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from audio_models import CONFIGS

import topwork
from topwork import DataError, TopworkError

#: its config has no `apply_spec_augment`, and the model masks nevertheless
DATA2VEC = {
    **{
        name: value
        for name, value in CONFIGS["wav2vec2-group"].items()
        if not name.startswith(("feat_", "num_conv_pos"))
    },
    "model_type": "data2vec-audio",
    "conv_pos_kernel_size": 3,
    "num_conv_pos_embeddings": 1,
}
MASKED = {**{name: CONFIGS[name] for name in ("wav2vec2", "wav2vec2-group", "hubert", "wavlm")}, "data2vec": DATA2VEC}
TASKS = ("audio-classification", "automatic-speech-recognition")
#: samples of a clip of 25 frames of these models, whose convolutions have kernels 10, 8 and strides 5, 4
SHORT = ((25 - 1) * 4 + 8 - 1) * 5 + 10


def rows_of(task: str, samples: int) -> list[dict[str, Any]]:
    noise = numpy.random.default_rng(0).normal(size=(8, samples)).astype(numpy.float32) / 10
    target = "label" if task == "audio-classification" else "text"
    return [
        {"audio": {"array": clip, "sampling_rate": 16000}, target: "ab"[index % 2]} for index, clip in enumerate(noise)
    ]


def masked_share(work: topwork.TaskModel, rows: list[dict[str, Any]]) -> float:
    """Share of the frames that are masked in training, seen at the model's own masking."""
    shares = []
    core = next(module for module in work.model.modules() if hasattr(module, "_mask_hidden_states"))
    plain = core._mask_hidden_states

    def watching(hidden: torch.Tensor, *args: Any, **more: Any) -> Any:
        before = hidden.clone()
        after = plain(hidden, *args, **more)
        shares.append(float((before != after).any(-1).float().mean()))
        return after

    core._mask_hidden_states = watching
    work.model.train()
    for _ in range(10):
        batch = work.task.collate(work.task.encode(rows, "train", 0), "train")
        work.task.loss(work.model, batch)
    return max(shares)


@pytest.mark.parametrize("kind", MASKED)
@pytest.mark.parametrize("task", TASKS)
def test_masks_leave_most_frames_of_short_clips(task, kind) -> None:
    rows = rows_of(task, SHORT)
    work = topwork.build(task, {"config": MASKED[kind]}, rows=rows)
    assert 0 < masked_share(work, rows) <= 0.15
    assert any("SpecAugment hides 80% of clips of 25 frames" in note for note in work.task.state.notes)
    stated = topwork.build(task, {"config": MASKED[kind]}, rows=rows, spec_augment="config")
    assert masked_share(stated, rows) > 0.4
    assert any("`spec_augment: auto`" in note for note in stated.task.state.notes)
    none = topwork.build(task, {"config": MASKED[kind]}, rows=rows, spec_augment="off")
    assert masked_share(none, rows) == 0
    assert not none.task.state.notes


@pytest.mark.parametrize("task", TASKS)
def test_masks_of_long_clips_are_those_of_the_config(task) -> None:
    rows = rows_of(task, 16000)
    work = topwork.build(task, {"config": CONFIGS["wav2vec2"]}, rows=rows)
    assert work.model.config.mask_time_length == 10
    assert not work.task.state.notes


def test_fitted_masks_come_back_with_the_model(tmp_path) -> None:
    rows = rows_of("audio-classification", SHORT)
    work = topwork.build("audio-classification", {"config": CONFIGS["wav2vec2"]}, rows=rows)
    work.save(tmp_path / "model")
    assert topwork.load(tmp_path / "model").model.config.mask_time_length == work.model.config.mask_time_length == 1


# ---------------------------------------------------------------- texts and frames

CTC = ("wav2vec2", "hubert", "wavlm", "whisper", "ast")


def spoken(samples: int, text: str) -> dict[str, Any]:
    clip = numpy.random.default_rng(0).normal(size=samples).astype(numpy.float32) / 10
    return {"audio": {"array": clip, "sampling_rate": 16000}, "text": text}


@pytest.mark.parametrize("kind", CTC)
def test_texts_that_need_more_frames_than_their_clips_are_counted(kind) -> None:
    rows = [spoken(6000, "ab"), spoken(6000, "ba"), spoken(1000, "ab" * 40), spoken(6000, "a")]
    work = topwork.build("automatic-speech-recognition", {"config": CONFIGS[kind]}, rows=rows, form="ctc")
    notes = [note for note in work.task.state.notes if "more frames" in note]
    assert notes and "1 of 4 texts need more frames than their clips have (row 2: 80 for" in notes[0]


@pytest.mark.parametrize("kind", CTC)
def test_texts_none_of_which_fits_are_refused(kind) -> None:
    rows = [spoken(1000, "ab" * 40) for _ in range(3)]
    with pytest.raises(DataError, match="every text needs more frames than its clip has"):
        topwork.build("automatic-speech-recognition", {"config": CONFIGS[kind]}, rows=rows, form="ctc")


def test_equal_letters_need_a_blank_between_them() -> None:
    """25 frames hold 25 different letters, but only 13 equal ones."""
    config = {"config": CONFIGS["wav2vec2"]}
    for text, fits in (("ab" * 12, True), ("a" * 13, True), ("a" * 14, False)):
        rows = [spoken(SHORT, text), spoken(16000, "ab")]
        notes = topwork.build("automatic-speech-recognition", config, rows=rows).task.state.notes
        assert any("more frames" in note for note in notes) != fits


# ---------------------------------------------------------------- waveforms


def encoded(task: str, augment: Any, mode: Any, seed: int, kind: str = "wav2vec2") -> list[numpy.ndarray]:
    rows = rows_of(task, 8000)
    work = topwork.build(task, {"config": CONFIGS[kind]}, rows=rows, augment=augment, spec_augment="off")
    items = work.task.encode(rows, mode, seed)
    return [numpy.asarray(item.inputs[work.task.frontend.main]) for item in items]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("augment", ["light", "standard", ["speed"], ["gain"], ["noise"]])
def test_clips_are_changed_in_training_only_and_by_the_seed(task, augment) -> None:
    plain = encoded(task, "none", "train", 0)
    first, again, other = (encoded(task, augment, "train", seed) for seed in (1, 1, 2))
    assert all(map(numpy.array_equal, first, again))
    if augment == ["gain"]:  # the extractor scales every clip alike
        return
    assert not any(map(numpy.array_equal, first, plain)) and not any(map(numpy.array_equal, first, other))
    assert all(map(numpy.array_equal, encoded(task, augment, "loss", 1), plain))
    lengths = {len(clip) for clip in first}
    assert (len(lengths) > 1) is (augment in ("standard", ["speed"]))
    assert all(0.9 * 7990 <= length <= 8010 / 0.9 for length in lengths)


def test_changes_of_a_clip_are_what_they_say() -> None:
    from topwork_tasks._audio.augmentation import augmented

    tone = numpy.sin(2 * numpy.pi * 440 * numpy.arange(16000) / 16000).astype(numpy.float32)
    for seed in range(5):
        louder = augmented(tone, 16000, ("gain",), seed, (1, None))
        ratio = 20 * numpy.log10(numpy.abs(louder).max() / numpy.abs(tone).max())
        assert -6.01 <= ratio <= 6.01 and numpy.allclose(louder / louder.max(), tone / tone.max(), atol=1e-5)
        noise = augmented(tone, 16000, ("noise",), seed, (1, None)) - tone
        assert 9 <= 10 * numpy.log10(numpy.mean(tone**2) / numpy.mean(noise**2)) <= 41
        faster = augmented(tone, 16000, ("speed",), seed, (1, None))
        pitch = numpy.abs(numpy.fft.rfft(faster)).argmax() * 16000 / len(faster)
        assert abs(pitch - 440 * 16000 / len(faster)) < 2  # the same waves in fewer samples
        assert len(augmented(tone, 16000, ("speed",), seed, (16000, 16000))) == 16000


@pytest.mark.parametrize("task", TASKS)
def test_training_with_changed_clips_runs_and_is_repeated_by_its_seed(task) -> None:
    rows = rows_of(task, 4000)
    losses = []
    for _ in range(2):
        work = topwork.build(task, {"config": CONFIGS["wav2vec2"]}, rows=rows, augment="standard")
        losses.append(work.train(rows, epochs=2, batch_size=4, learning_rate=1e-3)["history"][-1])
    assert losses[0]["loss"] == losses[1]["loss"]
    with pytest.raises(TopworkError, match="augment"):
        topwork.build(task, {"config": CONFIGS["wav2vec2"]}, rows=rows, augment=["echo"])
