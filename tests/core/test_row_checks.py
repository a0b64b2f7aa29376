"""The look at all rows before the first stage: what headers and sizes tell is refused before anything is trained, with
the errors of the stages; nothing is refused that a stage would take."""

from __future__ import annotations

import io
import json
from functools import cache

import numpy
import pytest
from audio_models import clip, encoded
from PIL import Image
from tiny_bases import BASES

import topwork
from topwork import DataError
from topwork.data.checks import bad_rows
from topwork.process import Process

TASKS = topwork.load_plugins().tasks


def picture(width=48, height=40, form="JPEG", **how):
    pixels = numpy.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=numpy.uint8)
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, form, **how)
    return target.getvalue()


def numbers(width=48, height=40):
    target = io.BytesIO()
    Image.fromarray(numpy.arange(height * width, dtype=numpy.uint8).reshape(height, width) % 2).save(target, "PNG")
    return {"bytes": target.getvalue()}


def cut(data, share=0.6):
    return {"bytes": data[: round(len(data) * share)]}


def turned(**how):
    """A picture of 48 x 40 pixels that is to be shown as 40 x 48."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return {"bytes": picture(exif=exif, **how)}


@cache
def built(name):
    return topwork.build(name, BASES[name], rows=TASKS[name].example_rows()).task


BOX = {"bbox": [[30.0, 10.0, 10.0, 10.0]], "category": [0]}
OUTSIDE = {"bbox": [[60.0, 10.0, 10.0, 10.0]], "category": [0]}
WAV, FLAC, MP3 = (encoded(clip(2.0), 16000, form) for form in ("WAV", "FLAC", "MP3"))

BAD = [
    ("image-classification", "image", {"image": cut(picture())}),
    ("image-classification", "image", {"image": cut(picture(form="PNG"), 0.98)}),
    ("image-classification", "image", {"image": cut(picture(form="GIF"), 0.1)}),
    ("image-classification", "image", {"image": {"path": "/nowhere/1.jpg"}}),
    ("image-classification", "image", {"image": None}),
    ("image-classification", "label", {"label": "no such label"}),
    ("object-detection", "image", {"image": cut(picture())}),
    ("object-detection", "objects", {"image": {"bytes": picture()}, "objects": OUTSIDE}),
    ("image-segmentation", "mask", {"image": {"bytes": picture()}, "mask": numbers(40, 40)}),
    ("image-segmentation", "mask", {"image": turned(), "mask": numbers(44, 40)}),
    ("depth-estimation", "depth", {"image": {"bytes": picture()}, "depth": numpy.ones((40, 40), numpy.float32)}),
    ("audio-classification", "audio", {"audio": cut(WAV)}),
    ("audio-classification", "audio", {"audio": cut(FLAC, 0.98)}),
    ("audio-classification", "audio", {"audio": cut(MP3, 0.9)}),
    ("audio-classification", "label", {"label": "no such label"}),
    ("automatic-speech-recognition", "audio", {"audio": cut(MP3, 0.3)}),
    ("text-classification", "text", {"text": None}),
    ("text-classification", "text_pair", {"text_pair": 3}),
    ("text-classification", "label", {"label": "no such label"}),
    ("token-classification", "words", {"words": "no list"}),
    ("token-classification", "tags", {"tags": ["O"]}),
    ("token-classification", "tags", {"words": ["one"], "tags": ["no such tag"]}),
    ("question-answering", "question", {"question": ["a"]}),
    ("question-answering", "context", {"context": "  "}),
    ("fill-mask", "text", {"text": 3.5}),
    ("fill-mask", "answer", {"text": "a [MASK] b", "answer": ["one", "two"]}),
    ("text-generation", "text", {"text": 3, "prompt": None, "messages": None}),
    ("text-generation", "prompt", {"prompt": 3, "text": None, "messages": None}),
    ("summarization", "document", {"document": None}),
    ("summarization", "summary", {"summary": 1}),
    ("translation", "translation", {"translation": {"en": "a"}}),
]
GOOD = [
    ("image-classification", {"image": turned()}),
    ("image-segmentation", {"image": turned(), "mask": numbers(40, 48)}),
    ("image-segmentation", {"image": turned(form="PNG"), "mask": numbers(40, 48)}),
    ("depth-estimation", {"image": turned(), "depth": numpy.ones((48, 40, 1), numpy.float32)}),
    ("audio-classification", {"audio": {"bytes": MP3}}),
    ("audio-classification", {"audio": {"bytes": FLAC}}),
]


@pytest.mark.parametrize(("name", "column", "change"), BAD)
def test_a_quick_look_finds_it_and_says_what_a_stage_would_say(name, column, change):
    task, rows = built(name), TASKS[name].example_rows()
    rows[3] = {**rows[3], **change}
    with pytest.raises(DataError) as told:
        task.encode([rows[3]], "loss", 0)
    (error,) = bad_rows(task, rows, "evaluate", "quick", Process())
    assert (error.row, error.column, error.cause, error.hint) == (3, column, told.value.cause, told.value.hint)


@pytest.mark.parametrize(("name", "change"), GOOD)
def test_nothing_is_refused_that_a_stage_takes(name, change):
    task, rows = built(name), TASKS[name].example_rows()
    rows[3] = {**rows[3], **change}
    assert bad_rows(task, rows, "train", "full", Process()) == []
    assert bad_rows(task, rows, "train", "quick", Process()) == []
    assert not task.precheck(rows[3], "loss")  # nor decoded to be sure


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("text-generation", {"prompt": "and then", "text": None, "completion": None}),
        ("fill-mask", {"text": "a [MASK] b", "answer": None}),
    ],
)
def test_what_cannot_be_learned_may_still_be_predicted(name, change):
    rows = TASKS[name].example_rows()
    rows[3] = {**rows[3], **change}
    with pytest.raises(DataError):
        built(name).encode([rows[3]], "loss", 0)
    assert bad_rows(built(name), rows, "evaluate", "quick", Process()) == []


@pytest.mark.parametrize("name", sorted(BASES))
def test_no_example_is_in_doubt(name):
    assert not [row for row in TASKS[name].example_rows() if built(name).precheck(row, "loss")]


def test_damage_inside_a_file_is_found_by_reading_all_of_it():
    task, rows = built("image-classification"), TASKS["image-classification"].example_rows()
    data = bytearray(picture(form="PNG"))
    data[len(data) // 2] ^= 255
    rows[5] = {**rows[5], "image": {"bytes": bytes(data)}}
    assert bad_rows(task, rows, "train", "quick", Process()) == []
    assert [error.row for error in bad_rows(task, rows, "train", "full", Process())] == [5]


@pytest.fixture
def recipe(tmp_path):
    """Pictures in files; of the rows to evaluate one is cut short and one has a label that nobody knows."""
    for number in range(12):
        (tmp_path / f"{number}.jpg").write_bytes(picture(40, 40))
    whole = (tmp_path / "9.jpg").read_bytes()
    (tmp_path / "9.jpg").write_bytes(whole[: len(whole) // 2])

    def lines(part, strange=()):
        rows = [{"image": f"{tmp_path}/{n}.jpg", "label": "?" if n in strange else "ab"[n % 2]} for n in part]
        file = tmp_path / f"{part.start}.jsonl"
        file.write_text("\n".join(map(json.dumps, rows)))
        return str(file)

    return {
        "task": "image-classification",
        "base": BASES["image-classification"],
        "data": {"train": lines(range(8)), "evaluate": lines(range(8, 12), strange=(11,))},
        "stages": [{"train": {"steps": 1, "batch_size": 4}}, "evaluate"],
    }


def test_a_bad_row_to_evaluate_is_told_before_training(recipe, tmp_path):
    with pytest.raises(DataError) as told:
        topwork.run(recipe, folder=tmp_path / "run", quiet=True)
    assert (told.value.row, told.value.column) == (1, "image")
    assert told.value.place == f"data.evaluate, {tmp_path / '8.jsonl'}:2"
    assert "1 more row: 3 (label: unknown label '?'" in told.value.hint
    assert not (tmp_path / "run" / "stages").exists()


def test_what_will_be_skipped_is_told_before_training(recipe, tmp_path):
    recipe["data"]["on_error"] = "skip"
    run = topwork.run(recipe, folder=tmp_path / "run", quiet=True)
    assert run.results[1]["result"]["skipped"] == 2
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "evaluate: 2 of 4 rows cannot be used and will be left out: 1 (image" in log


def test_without_the_look_training_comes_first(recipe, tmp_path):
    recipe["data"]["check"] = "none"
    with pytest.raises(DataError) as told:
        topwork.run(recipe, folder=tmp_path / "run", quiet=True)
    assert told.value.row == 1
    assert (tmp_path / "run" / "stages" / "01-train" / "result.json").is_file()


@pytest.mark.parametrize("role", ["evaluate", "calibrate"])
def test_the_advice_to_leave_rows_out_can_be_followed_as_it_stands(role, tmp_path):
    rows = [{"text": text, "label": label} for text, label in (("good film", "a"), ("bad film", "b")) for _ in range(5)]
    files = {}
    for name in ("train", "evaluate", "calibrate"):
        broken = [{**row, "text": None} if name == role and index in (3, 6) else row for index, row in enumerate(rows)]
        files[name] = str(tmp_path / f"{name}.jsonl")
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in broken))
    stages = [{"train": {"steps": 1, "evaluate_every": 1}}, "evaluate"]
    recipe = {"task": "text-classification", "base": BASES["text-classification"], "data": files, "stages": stages}
    with pytest.raises(DataError, match=r"or leave them out: `data: \{on_error: skip\}`"):
        topwork.run(recipe, folder=tmp_path / "one", quiet=True)
    recipe["data"] = {**files, "on_error": "skip"}
    assert len(topwork.run(recipe, folder=tmp_path / "two", quiet=True).results) == 2
    recipe["data"] = {**files, role: {"path": files[role], "on_error": "skip"}}
    with pytest.raises(topwork.UsageError, match="on_error"):
        topwork.run(recipe, folder=tmp_path / "three", quiet=True)
