"""`topwork data` and `validate --data` name the rows that training would refuse, for every task."""

from __future__ import annotations

import numpy
import pytest
from PIL import Image

import topwork
from topwork.data.profile import profile_rows
from topwork.data.roles import Roles

PLUGINS = topwork.load_plugins()
IMAGE = Image.new("RGB", (8, 8), "red")
MASK = numpy.zeros((8, 8), numpy.uint8)
DEPTH = numpy.ones((8, 8), numpy.float32)
CLIP = {"array": numpy.sin(numpy.arange(16000.0)).astype("float32"), "sampling_rate": 16000}
SILENCE = {"array": numpy.zeros(16000, numpy.float32), "sampling_rate": 16000}
BOXES = {"bbox": [[1.0, 1.0, 4.0, 4.0]], "category": ["cat"]}
ANSWER = {"question": "q", "context": "a b", "answers": {"text": ["b"], "answer_start": [2]}}
CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
WORDS = {"words": ["a", "b"], "tags": ["O", "B-X"]}
SPANS = {"words": None, "tags": None, "text": "Anna sings", "spans": [{"start": 0, "end": 4, "label": "PER"}]}

GOOD = {
    "text-classification": {"text": "a", "label": "x"},
    "token-classification": WORDS,
    "question-answering": ANSWER,
    "fill-mask": {"text": "a"},
    "text-generation": {"messages": CHAT},
    "summarization": {"document": "a", "summary": "b"},
    "translation": {"source": "a", "target": "b"},
    "image-classification": {"image": IMAGE, "label": "x"},
    "object-detection": {"image": IMAGE, "objects": BOXES},
    "image-segmentation": {"image": IMAGE, "mask": MASK},
    "depth-estimation": {"image": IMAGE, "depth": DEPTH},
    "audio-classification": {"audio": CLIP, "label": "x"},
    "automatic-speech-recognition": {"audio": CLIP, "text": "a"},
}
BAD = [
    ("text-classification", {"text": 3, "label": "x"}, "column `text` is int, not text"),
    ("text-classification", {"text": None, "label": "x"}, "column `text` is empty"),
    ("text-classification", {"text": "a", "text_pair": b"b", "label": "x"}, "column `text_pair` is bytes"),
    ("token-classification", {"words": ["a", "b"], "tags": ["O"]}, "column `tags` has 1 tags for 2 words"),
    ("token-classification", {"words": ["a"], "tags": [None]}, "column `tags` is empty, which is no label"),
    ("token-classification", {"words": ["a"], "tags": [-100]}, "column `tags` -100 is no label"),
    ("token-classification", {**SPANS, "text": "Ann"}, "does not lie in the text of 3 characters"),
    ("token-classification", {**SPANS, "spans": [{"start": 0, "end": 3, "label": "X"}]}, "where words do"),
    ("question-answering", {**ANSWER, "context": "c"}, "column `answers` 'b' does not stand at character 2"),
    ("question-answering", {**ANSWER, "context": " "}, "column `context` is empty"),
    ("fill-mask", {"text": ["a"]}, "column `text` is list"),
    ("text-generation", {"messages": [{"role": "user"}]}, "column `messages` is no chat"),
    ("text-generation", {"messages": None}, "has no `text`, `prompt` or `messages`"),
    ("summarization", {"document": "a", "summary": ["b"]}, "column `summary` is list"),
    ("translation", {"source": "a", "target": 1}, "column `target` is int"),
    ("image-classification", {"image": b"no image", "label": "x"}, "column `image` cannot be read"),
    ("object-detection", {"image": "nowhere.png", "objects": BOXES}, "column `image` cannot be read"),
    ("image-segmentation", {"image": IMAGE, "mask": MASK[:4]}, "column `mask` is 8 x 4 pixels"),
    ("depth-estimation", {"image": IMAGE, "depth": DEPTH[:4]}, "column `depth` is 8 x 4 pixels"),
    ("audio-classification", {"audio": b"no clip", "label": "x"}, "column `audio` cannot be read"),
    ("automatic-speech-recognition", {"audio": "nowhere.wav", "text": "a"}, "nowhere.wav does not exist"),
]


def doubts(task, *rows, role="train"):
    work = PLUGINS.tasks[task]
    roles = Roles(work, PLUGINS, given={role: list(rows)})
    return profile_rows(work, work.Options(), roles, [role]).doubts


@pytest.mark.parametrize(("task", "row", "cause"), BAD)
def test_a_row_that_training_refuses_is_a_doubt(task, row, cause):
    said = [doubt for doubt in doubts(task, GOOD[task], {**GOOD[task], **row}) if "cannot be used" in doubt]
    assert len(said) == 1 and "1 of 2 rows" in said[0] and "such as row 1: " in said[0] and cause in said[0]


@pytest.mark.parametrize("task", GOOD)
@pytest.mark.parametrize("role", ["train", "predict"])
def test_rows_that_training_takes_are_none(task, role):
    targets = [name for name, column in PLUGINS.tasks[task].columns.items() if column.target]
    bare = {name: value for name, value in GOOD[task].items() if name not in targets or role == "train"}
    assert not [doubt for doubt in doubts(task, bare, role=role) if "cannot be used" in doubt or "no row" in doubt]


@pytest.mark.parametrize(
    ("task", "row", "named"),
    [
        ("token-classification", {"text": "a"}, "`tags` or `spans`"),
        ("image-segmentation", {"image": IMAGE}, "`mask` or `instances` or `objects` or `segments_info`"),
    ],
)
def test_rows_without_any_target_are_a_doubt(task, row, named):
    assert f"train: no row has a value in {named}" in doubts(task, row)


@pytest.mark.parametrize(
    ("task", "row", "cause"),
    [
        ("depth-estimation", {"image": IMAGE, "depth": 0 * DEPTH}, "1 of 1 depth maps have no pixel with a depth"),
        ("audio-classification", {"audio": SILENCE, "label": "x"}, "silent from beginning to end"),
        (
            "audio-classification",
            {"audio": {**CLIP, "array": 300 * CLIP["array"]}, "label": "x"},
            "samples far outside of -1 to 1",
        ),
    ],
)
def test_rows_that_teach_nothing_are_a_doubt(task, row, cause):
    assert any(cause in doubt for doubt in doubts(task, row))


def with_names(task, names):
    if task == "object-detection":
        return [{"image": IMAGE, "objects": {"bbox": [[1.0, 1.0, 2.0, 2.0]], "category": [name]}} for name in names]
    if task == "token-classification":
        return [{"words": ["a"], "tags": [name]} for name in names]
    return [{**GOOD[task], "label": name} for name in names]


@pytest.mark.parametrize(
    "task", [*(task for task in GOOD if "label" in GOOD[task]), "object-detection", "token-classification"]
)
@pytest.mark.parametrize(
    ("names", "cause"),
    [
        (["cat", "cat "], "differ by white space alone"),
        (["caf\u00e9", "cafe\u0301"], "differ by Unicode form alone"),
        (["cat", "Cat"], "differ by case alone"),
        ([" cat", " dog"], "begins or ends with white space"),
        (['"cat"', '"dog"'], "stands in quotation marks"),
    ],
)
def test_names_that_look_alike_or_wrong_are_a_doubt(task, names, cause):
    assert any(cause in doubt for doubt in doubts(task, *with_names(task, names)))


@pytest.mark.parametrize(
    ("task", "row", "piece"),
    [
        ("question-answering", ANSWER, ("b", "answer")),
        ("text-generation", {"messages": CHAT}, ("q", "user")),
        ("token-classification", WORDS, ("b ", "B-X")),
        ("token-classification", SPANS, ("Anna", "PER")),
    ],
)
def test_first_rows_show_what_is_marked_in_their_texts(task, row, piece):
    work = PLUGINS.tasks[task]
    assert piece in work.rows_view.preview(row, work.Options()).text
