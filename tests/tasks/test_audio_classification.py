"""audio-classification: equal to plain transformers and its pipeline, the same alone and together, bad rows."""

from __future__ import annotations

import math

import audio_models
import numpy
import pytest
import torch
from audio_models import CONFIGS, clip, encoded, predict
from tolerance import STEPS, about, close, steps_apart

import topwork
from topwork import DataError, UsageError
from topwork.testing import check_task
from topwork_tasks.audio_classification import AudioClassification

ROWS = AudioClassification.example_rows()
NATIVE = ["wav2vec2", "wav2vec2-group", "hubert", "wavlm", "ast", "whisper"]


def make(name, rows=ROWS, **options):
    return audio_models.make(AudioClassification, name, rows, **options)


def array_rows(count=5):
    return audio_models.array_rows("label", ("falling", "level", "rising"), count)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_every_architecture_keeps_the_contract(name, tmp_path, plugins) -> None:
    work = check_task(AudioClassification, {"config": CONFIGS[name]}, tmp_path, plugins=plugins)
    assert work.form == ("generic" if name == "speech_to_text" else "native")


@pytest.mark.parametrize("name", NATIVE)
def test_a_folder_of_plain_transformers_gives_plain_transformers_numbers(name, tmp_path) -> None:
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline

    task, model = make(name)
    model.save_pretrained(tmp_path)
    task.frontend.extractor.save_pretrained(tmp_path)
    rows = array_rows()
    task, model = make(tmp_path, rows=None)
    plain = AutoModelForAudioClassification.from_pretrained(tmp_path).eval()
    extractor = AutoFeatureExtractor.from_pretrained(tmp_path)
    asked = pipeline("audio-classification", model=plain, feature_extractor=extractor, device="cpu")
    for ours, row in zip(predict(task, model, rows), rows, strict=True):
        theirs = asked(row["audio"]["array"].copy(), top_k=3)
        assert [entry["label"] for entry in ours] == [entry["label"] for entry in theirs]
        assert [entry["score"] for entry in ours] == about([entry["score"] for entry in theirs])
    losses = []
    for row in rows:
        inputs = extractor(row["audio"]["array"], sampling_rate=16000, return_tensors="pt")
        label = torch.tensor([plain.config.label2id[row["label"]]])
        with torch.no_grad():
            losses.append(plain(**inputs, labels=label).loss)
    batch = task.collate(task.encode(rows, "loss", 0), "loss")
    with torch.no_grad():
        close(task.row_losses(model, batch), torch.stack(losses))
        close(task.loss(model, batch), torch.stack(losses).mean())


@pytest.mark.parametrize("name", list(CONFIGS))
def test_a_clip_is_judged_the_same_alone_and_in_company(name) -> None:
    task, model = make(name)
    rows = array_rows(6)
    rows[3] = {**rows[3], "audio": rows[0]["audio"]}  # two of one length: they go together
    for ours, alone in zip(predict(task, model, rows), predict(task, model, rows, together=False), strict=True):
        assert [entry["score"] for entry in ours] == about([entry["score"] for entry in alone])
    # only where padding changes nothing may clips of different lengths share a forward
    shared = len(list(task.frontend.groups(task.collate(task.encode(rows, "predict", 0), "predict"), model)))
    assert shared == (1 if name in ("wav2vec2", "hubert", "wavlm", "ast", "whisper") else 5)
    assert (task.cost_budget("cpu") == 1) == (shared == 5)


def test_padding_would_change_a_group_norm_and_not_a_layer_norm() -> None:
    """The reason for the list of exact architectures, measured."""
    for name, exact in (("wav2vec2", True), ("hubert", True), ("wavlm", True), ("wav2vec2-group", False)):
        task, model = make(name)
        item = task.encode(array_rows(1), "predict", 0)[0].inputs["input_values"]
        padded = torch.nn.functional.pad(torch.from_numpy(item), (0, 900))[None]
        mask = (torch.arange(padded.shape[1]) < len(item)).long()[None]
        with torch.no_grad():
            alone = model(torch.from_numpy(item)[None]).logits
            found = model(padded, attention_mask=mask).logits
        assert steps_apart(found, alone) <= STEPS if exact else steps_apart(found, alone) > 4 * STEPS, name
        assert task.frontend.exact == exact


def test_long_clips_are_the_mean_over_their_windows() -> None:
    task, model = make("wav2vec2", max_seconds=0.2)
    plain, _ = make("wav2vec2")
    samples = clip(0.5)
    whole = predict(task, model, [{"audio": {"array": samples, "sampling_rate": 16000}}])[0]
    places = [(0, 3200), (2400, 5600), (4800, 8000)]
    pieces = [{"audio": {"array": samples[start:end], "sampling_rate": 16000}} for start, end in places]
    parts = numpy.array([entry.scores for entry in predict(plain, model, pieces)])
    assert whole.scores == about(parts.mean(0))
    row = {"audio": {"array": samples, "sampling_rate": 16000}, "label": "level"}
    items = [task.encode([row], "train", seed) for seed in range(6)]
    assert all(len(entry) == 1 and entry[0].cost == 3200 for entry in items)
    assert len({entry[0].inputs["input_values"].tobytes() for entry in items}) > 1
    assert not task.repeatable and plain.repeatable
    batch = task.collate(task.encode([row, row], "loss", 0), "loss")
    assert len(batch) == 6
    with torch.no_grad():
        assert task.row_losses(model, batch).tolist() == about([task.loss(model, batch).item()] * 2)
    with pytest.raises(UsageError, match="max_seconds"):
        make("wav2vec2", max_seconds=0.001)


@pytest.mark.parametrize(("name", "size"), [("ast", 63 * 160 + 400), ("whisper", 16000)])
def test_a_model_of_one_size_hears_a_long_clip_in_windows(name, size) -> None:
    task, model = make(name)
    row = {"audio": {"array": clip(2.5 * size / 16000), "sampling_rate": 16000}, "label": "level"}
    items = task.encode([row], "predict", 0)
    assert [item.cost for item in items] == [size] * 3
    assert task.costs([row]) == [[size] * 3]
    assert sum(predict(task, model, [row])[0].scores) == pytest.approx(1)


def test_several_labels_a_row_equal_the_pipeline_and_are_scored(tmp_path) -> None:
    from sklearn.metrics import average_precision_score, f1_score
    from transformers import pipeline

    rows = array_rows(8)
    for number, row in enumerate(rows):
        row["label"] = [row["label"], "loud"] if number % 2 else [row["label"]] * (number > 0)
    task, model = make("wav2vec2", rows, multi_label=True, top_k=None)
    assert model.config.problem_type == "multi_label_classification"
    asked = pipeline("audio-classification", model=model, feature_extractor=task.frontend.extractor, device="cpu")
    told = predict(task, model, rows)
    for ours, row in zip(told, rows, strict=True):
        theirs = asked(row["audio"]["array"].copy(), top_k=4)
        assert [entry["label"] for entry in ours] == [entry["label"] for entry in theirs]
        assert [entry["score"] for entry in ours] == about([entry["score"] for entry in theirs])
    batch = task.collate(task.encode(rows, "loss", 0), "loss")
    truth = numpy.array([[name in row["label"] for name in task.names] for row in rows])
    scores = numpy.array([entry.scores for entry in told])
    with torch.no_grad():
        expected = -(truth * numpy.log(scores) + (1 - truth) * numpy.log(1 - scores)).mean()
        assert task.loss(model, batch).item() == about(expected)
    metric = task.metric()
    for row, prediction in zip(rows, told):
        metric.update(row, prediction)
    found = metric.result()
    assert found["mean_average_precision"] == pytest.approx(average_precision_score(truth, scores, average="macro"))
    assert found["macro_f1"] == pytest.approx(f1_score(truth, scores >= 0.5, average="macro", zero_division=0))


def test_rates_and_channels_do_not_matter() -> None:
    task, model = make("wav2vec2")
    time = numpy.arange(48000 // 4) / 48000
    high = (0.4 * numpy.sin(2 * numpy.pi * 700 * time)).astype(numpy.float32)
    low = (0.4 * numpy.sin(2 * numpy.pi * 700 * numpy.arange(4000) / 16000)).astype(numpy.float32)
    rows = [
        {"audio": {"bytes": encoded(numpy.stack([high, high], 1), 48000, "FLAC"), "path": None}},
        {"audio": {"array": low, "sampling_rate": 16000}},
    ]
    ours, plain = predict(task, model, rows)
    assert ours.scores == pytest.approx(plain.scores, abs=5e-3)


def test_datasets_audio_is_never_decoded_by_torchcodec(plugins) -> None:
    import datasets

    rows = datasets.Dataset.from_list([{"audio": row["audio"], "label": row["label"]} for row in ROWS])
    rows = rows.cast_column("audio", datasets.Audio(decode=False))
    rows = rows.cast_column("label", datasets.ClassLabel(names=["falling", "level", "rising"]))
    work = topwork.build("audio-classification", {"config": CONFIGS["wav2vec2"]}, rows=rows, plugins=plugins)
    assert work.task.names == ["falling", "level", "rising"]
    assert work.predict(rows) == work.predict(ROWS)
    assert math.isfinite(work.evaluate(rows)["accuracy"])


@pytest.mark.parametrize(
    ("row", "column", "cause"),
    [
        ({"label": "level"}, "audio", "missing"),
        ({"audio": None, "label": "level"}, "audio", "None"),
        ({"audio": {"bytes": b"no audio", "path": None}, "label": "level"}, "audio", "cannot be read"),
        ({"audio": {"array": clip(0.2), "sampling_rate": 0}, "label": "level"}, "audio", "sampling rate of 0"),
        ({"audio": {"array": [], "sampling_rate": 16000}, "label": "level"}, "audio", "empty"),
        ({"audio": {"array": clip(0.2)[:30], "sampling_rate": 16000}, "label": "level"}, "audio", "the model needs 45"),
        ({"audio": ROWS[0]["audio"]}, "label", "missing"),
        ({"audio": ROWS[0]["audio"], "label": "levle"}, "label", "did you mean `level`"),
        ({"audio": ROWS[0]["audio"], "label": None}, "label", "no label"),
        ({"audio": ROWS[0]["audio"], "label": 0.5}, "label", "no label"),
    ],
)
def test_bad_rows_are_refused_by_row_and_column(row, column, cause) -> None:
    task, _ = make("wav2vec2")
    with pytest.raises(DataError, match=cause) as found:
        task.encode([ROWS[0], row], "loss", 0)
    assert (found.value.row, found.value.column) == (1, column)
    assert found.value.hint
    assert task.costs([row]) is None or column == "label" or "samples" in str(found.value)


def test_skipped_rows_are_counted(plugins) -> None:
    work = topwork.build("audio-classification", {"config": CONFIGS["wav2vec2"]}, rows=ROWS, plugins=plugins)
    bad = [*ROWS[:2], {"audio": {"bytes": b"x", "path": None}, "label": "level"}, ROWS[2]]
    found = work.predict(bad, on_error="skip")
    assert [found[0], found[1], None, found[3]] == found == [*work.predict(ROWS[:2]), None, *work.predict([ROWS[2]])]
    assert [(note["row"], note["column"]) for note in found.skipped] == [(2, "audio")]
    measured = work.evaluate(bad, on_error="skip")
    assert (measured["skipped"], measured["skipped_rows"]) == (1, found.skipped)
    assert set(measured) - set(work.evaluate(bad[:2])) == {"skipped", "skipped_rows"}
    assert work.train(bad, on_error="skip", steps=1)["skipped"] == 1


def test_silence_that_an_extractor_cannot_measure_is_refused() -> None:
    task, _ = make("speech_to_text")
    silent = {"audio": {"array": numpy.zeros(8000, numpy.float32), "sampling_rate": 16000}, "label": "level"}
    with pytest.raises(DataError, match="no finite numbers") as found:
        task.encode([ROWS[0], silent], "loss", 0)
    assert found.value.row == 1


def test_training_masks_of_specaugment_fit_short_clips() -> None:
    task, model = make("wav2vec2")
    rows = [{"audio": {"array": clip(0.01), "sampling_rate": 16000}, "label": "level"}]
    assert task.base.config.mask_time_length * 20 > 160
    loss = task.loss(model.train(), task.collate(task.encode(rows, "train", 0), "train"))
    assert loss.isfinite()


def test_a_picture_tells_prediction_and_truth() -> None:
    task, model = make("wav2vec2")
    picture = task.draw(ROWS[0], predict(task, model, ROWS[:1])[0])
    assert "truth rising" in picture.caption and picture.image.size == (320, 96)
    assert 0 <= picture.badness <= 1
