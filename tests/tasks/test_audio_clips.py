"""Clips from whatever a column holds, the resampler's quality, padding and masks, windows, and the spoken samples."""

from __future__ import annotations

import numpy
import pytest
import torch
from audio_models import CONFIGS, clip, encoded
from tolerance import about

from topwork import BaseOptions, DataError, RowsOptions, UsageError
from topwork_bases.samples.plugin import SPOKEN
from topwork_bases.transformers.base import load_base
from topwork_tasks._audio.clips import audio_length, open_audio, spectrogram_image
from topwork_tasks._audio.frontend import Frontend, clip_windows, find_extractor
from topwork_tasks.automatic_speech_recognition.ctc import chunk_places, kept_frames


def base(name, **changes):
    return load_base(f"config:{name}", BaseOptions(config={**CONFIGS[name], **changes}))


def test_every_form_of_a_clip_is_the_same_clip(tmp_path) -> None:
    samples = (clip(0.2) * 32767).astype(numpy.int16)
    wanted = samples / 32768
    wav, flac = encoded(samples, 16000), encoded(samples, 16000, "FLAC")
    (tmp_path / "a.wav").write_bytes(wav)
    forms = [
        wav,
        {"bytes": flac, "path": None},
        {"bytes": None, "path": str(tmp_path / "a.wav")},
        str(tmp_path / "a.wav"),
        tmp_path / "a.wav",
        {"array": samples, "sampling_rate": 16000},
        {"array": samples.astype(numpy.int32) << 16, "sampling_rate": 16000},
        {"array": (samples.astype(numpy.int32) + 32768).astype(numpy.uint16), "sampling_rate": 16000},
        {"array": wanted.tolist(), "sampling_rate": 16000},
        {"array": numpy.stack([wanted + 0.1, wanted - 0.1]), "sampling_rate": 16000},
        encoded(numpy.stack([samples, samples], 1), 16000),
    ]
    for form in forms:
        found = open_audio(form, 0, "audio", 16000)
        assert found.dtype == numpy.float32
        assert found == about(wanted)
        assert audio_length(form, 16000) == len(wanted)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_resampling_keeps_a_tone_and_removes_what_would_alias(rate) -> None:
    time = numpy.arange(rate) / rate
    heard = open_audio({"array": numpy.sin(2 * numpy.pi * 1000 * time), "sampling_rate": rate}, 0, "audio", 16000)
    assert len(heard) == 16000
    truth = numpy.sin(2 * numpy.pi * 1000 * numpy.arange(16000) / 16000)
    assert heard[2000:-2000] == pytest.approx(truth[2000:-2000], abs=1e-3)
    if rate > 20000:  # above half the model's rate: nothing may be left of it
        high = open_audio({"array": numpy.sin(2 * numpy.pi * 9500 * time), "sampling_rate": rate}, 0, "audio", 16000)
        assert numpy.abs(high[2000:-2000]).max() < 1e-4
    assert audio_length({"bytes": encoded(clip(0.137, rate), rate)}, 16000) == len(
        open_audio({"bytes": encoded(clip(0.137, rate), rate)}, 0, "audio", 16000)
    )


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (None, "None"),
        (b"RIFF no audio at all", "cannot be read"),
        (encoded(clip(0.1), 16000)[:30], "cannot be read"),
        ({"bytes": None, "path": "missing.wav"}, "does not exist"),
        ({"bytes": None, "path": None}, "no audio"),
        ({"array": clip(0.1), "sampling_rate": 0}, "sampling rate of 0"),
        ({"array": clip(0.1)}, "sampling rate of None"),
        ({"array": [], "sampling_rate": 16000}, "empty"),
        ({"array": [0.0, float("nan")] * 500, "sampling_rate": 16000}, "not finite"),
        ({"array": numpy.zeros((20, 20)), "sampling_rate": 16000}, "shape"),
        ({"array": ["a"], "sampling_rate": 16000}, "no array"),
        ({"array": [16000, -16000] * 500, "sampling_rate": 16000}, "64 bits do not say"),
        (encoded(numpy.zeros(0), 16000), "empty"),
        (17, "no audio"),
    ],
)
def test_what_is_no_clip_is_refused_with_row_and_column(value, cause) -> None:
    with pytest.raises(DataError, match=cause) as found:
        open_audio(value, 3, "audio", 16000)
    assert str(found.value).startswith("row 3, column 'audio'")
    assert found.value.hint


def test_a_header_that_says_zero_samples_a_second_is_refused() -> None:
    broken = bytearray(encoded(clip(0.1), 16000))
    broken[24:28] = bytes(4)
    with pytest.raises(DataError):
        open_audio(bytes(broken), 0, "audio", 16000)


def test_the_least_samples_are_those_of_the_convolutions() -> None:
    found = base("wav2vec2")
    frontend = Frontend(find_extractor(found, None), found.config)
    model = found.backbone(weights=False)
    assert model(input_values=torch.zeros(1, frontend.shortest)).tokens.shape[1] == 1
    with pytest.raises(RuntimeError):
        model.backbone.feature_extractor(torch.zeros(1, frontend.shortest - 1))
    with pytest.raises(DataError, match=f"needs {frontend.shortest}"):
        frontend.clip({"array": clip(1)[: frontend.shortest - 1], "sampling_rate": 16000}, 0)


def test_statistics_of_spectrograms_are_those_of_the_real_frames() -> None:
    from transformers import ASTFeatureExtractor

    clips = [{"array": clip(seconds, seed=number), "sampling_rate": 16000} for number, seconds in enumerate((0.2, 0.5))]
    found = base("ast")
    learned = find_extractor(found, clips)
    plain = ASTFeatureExtractor(do_normalize=False, num_mel_bins=32, max_length=64)
    frames = []
    for entry in clips:
        count = 1 + (len(entry["array"]) - 400) // 160
        frames.append(plain(entry["array"], sampling_rate=16000)["input_values"][0][:count])
    frames = numpy.concatenate(frames)
    assert learned.mean == about(frames.mean())
    assert learned.std == about(frames.std())
    with pytest.raises(UsageError, match="training rows"):
        find_extractor(base("ast"), None)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_feature_extractors_fit_their_models(name) -> None:
    found = base(name)
    extractor = find_extractor(found, [{"array": clip(0.3), "sampling_rate": 16000}])
    frontend = Frontend(extractor, found.config)
    features = frontend.features(clip(0.3), 0)
    with torch.no_grad():
        tokens = found.backbone(weights=False)(
            **{frontend.main: torch.from_numpy(features[frontend.main])[None]}
        ).tokens
    assert tokens.isfinite().all()
    units = frontend.units()
    if units.grid:
        assert tokens.shape[1] == len(units.special) + units.grid[0] * units.grid[1]
    else:
        heard = 0.3 if frontend.window is None else frontend.window / frontend.rate
        assert abs(tokens.shape[1] * units.seconds - heard) < 0.05


def test_windows_cover_a_clip_evenly() -> None:
    assert clip_windows(5, None) == [(0, 5)]
    assert clip_windows(5, 5) == [(0, 5)]
    for length, size in ((11, 5), (1000, 300), (6, 5)):
        found = clip_windows(length, size)
        assert {end - start for start, end in found} == {size}
        assert found[0][0] == 0 and found[-1][1] == length
        assert set(range(length)) == {place for start, end in found for place in range(start, end)}


@pytest.mark.parametrize(
    ("length", "chunk", "stride"), [(2000, 600, 100), (2017, 600, 100), (1300, 500, 0), (400, 500, 80)]
)
def test_the_kept_frames_of_chunks_tile_a_clip(length, chunk, stride) -> None:
    align, told = 20, []
    for start, end, left, right in chunk_places(length, chunk, stride, align):
        frames = list(range(start // align, (end - 1) // align + 1))
        told += frames[kept_frames(end - start, left, right, align)]
    assert told == list(range((length - 1) // align + 1))


def test_a_chunk_must_be_longer_than_its_strides() -> None:
    with pytest.raises(UsageError, match="stride"):
        chunk_places(1000, 100, 50, 10)


def test_a_picture_shows_the_tone() -> None:
    time = numpy.arange(16000) / 16000
    picture = numpy.asarray(spectrogram_image(numpy.sin(2 * numpy.pi * 2000 * time).astype(numpy.float32), 16000))
    darkest = picture.mean(1).argmin() / picture.shape[0]
    assert darkest == pytest.approx(1 - 2000 / 8000, abs=0.03)
    assert spectrogram_image(numpy.zeros(10, numpy.float32), 16000).size == (320, 96)


# ---------------------------------------------------------------- spoken samples


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    import datasets

    saved, datasets.config.HF_DATASETS_CACHE = datasets.config.HF_DATASETS_CACHE, tmp_path_factory.mktemp("cache")
    yield {
        (name, split): SPOKEN.load_rows(f"sample:{name}", RowsOptions(path=f"sample:{name}", split=split))
        for name in ("spoken-digits", "spoken-numbers")
        for split in ("train", "test")
    }
    datasets.config.HF_DATASETS_CACHE = saved


@pytest.mark.parametrize("name", ["spoken-digits", "spoken-numbers"])
def test_no_speaker_is_in_both_splits(spoken, name) -> None:
    speakers = [
        {row["audio"]["path"].removesuffix(".flac").split("-en-", 1)[1] for row in spoken[name, split]}
        for split in ("train", "test")
    ]
    people = [
        {part for entry in found for part in entry.split("-")} - {"us", "gb", "x", "rp", "scotland", "029", "0", "1"}
        for found in speakers
    ]
    assert len(people[0]) == 15 and len(people[1]) == 6
    assert not people[0] & people[1]


def test_spoken_digits_are_balanced_and_numbers_are_new(spoken) -> None:
    train, test = spoken["spoken-digits", "train"], spoken["spoken-digits", "test"]
    assert numpy.bincount(train["label"]).tolist() == [120] * 10
    assert numpy.bincount(test["label"]).tolist() == [24] * 10
    assert train.features["label"].names[7] == "seven"
    said = [{row["text"] for row in spoken["spoken-numbers", split]} for split in ("train", "test")]
    assert len(said[1]) > 100 and not said[0] & said[1]
    for row in test.select(range(0, 240, 24)):
        assert row["audio"]["bytes"][:4] == b"fLaC"
        heard = open_audio(row["audio"], 0, "audio", 16000)
        assert 0.2 < len(heard) / 16000 < 1.2 and numpy.abs(heard).max() > 0.05


def test_the_same_clip_twice_comes_from_the_cache(spoken) -> None:
    again = SPOKEN.load_rows("sample:spoken-digits", RowsOptions(path="sample:spoken-digits", split="test"))
    assert again[7]["audio"]["bytes"] == spoken["spoken-digits", "test"][7]["audio"]["bytes"]


def test_a_missing_package_names_the_mend(monkeypatch) -> None:
    import sys

    from topwork_bases.samples.spoken_digits import digit_clips

    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UsageError, match=r"pip install topwork\[samples\]"):
        next(digit_clips("test"))
    with pytest.raises(UsageError, match="no options"):
        SPOKEN.load_rows(
            "sample:spoken-digits", RowsOptions(path="sample:spoken-digits", split="test", options={"a": 1})
        )


def test_audio_without_its_packages_names_the_mend(monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(UsageError, match=r"pip install topwork\[audio\]"):
        open_audio(b"RIFF", 0, "audio", 16000)
