"""`topwork new`: the starter of every installed task validates once it is filled in, and runs."""

from __future__ import annotations

from pathlib import Path

import pytest

import topwork
from topwork import load_plugins
from topwork.cli import main
from topwork.cli.preview import Preview
from topwork.cli.starter import match_columns, starter

PLUGINS = load_plugins()
FILLED = ("`BASE` is to be filled in", "`ROWS` is to be filled in")


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("task", sorted(PLUGINS.tasks))
def test_only_what_is_to_be_filled_in_is_missing(task, capsys) -> None:
    assert main(["new", task, "x.yaml"]) == 0
    capsys.readouterr()
    assert main(["validate", "x.yaml"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(any(text in line for text in FILLED) for line in lines), lines


@pytest.mark.parametrize("task", sorted(PLUGINS.tasks))
def test_the_starter_of_random_weights_names_their_architecture(task, capsys) -> None:
    assert main(["new", task, "x.yaml", "--base", "config:bert"]) == 0
    text = Path("x.yaml").read_text()
    assert "config: {model_type: bert}" in text and "model: config" not in text
    capsys.readouterr()
    assert main(["validate", "x.yaml"]) == 2
    assert "base" not in capsys.readouterr().err
    Path("x.yaml").write_text(text.replace("model_type: bert", "model_type: bret"))
    assert main(["validate", "x.yaml"]) == 2
    assert "unknown model type `bret`" in capsys.readouterr().err


@pytest.mark.parametrize("task", sorted(PLUGINS.tasks))
def test_every_default_can_be_switched_on_as_it_stands(task, capsys) -> None:
    """The comments are options with their defaults: without their marks the recipe is as good."""
    text = starter(PLUGINS.task(task), "some/model", PLUGINS, "x.yaml", Preview("sample:rated-words"))
    lines = [
        line.replace("  # ", "  ", 1) if line.startswith("  # ") and ": " in line else line for line in text.split("\n")
    ]
    options = lines[: next(index for index, line in enumerate(lines) if line.startswith("base:"))]
    Path("x.yaml").write_text("\n".join([*options, *text.split("\n")[len(options) :]]))
    main(["validate", "x.yaml"])
    faults = capsys.readouterr().err
    assert "not valid YAML" not in faults and "unknown key" not in faults, faults


class OnlyOptional(PLUGINS.task("text-classification")):
    """A task of a third party whose columns are all optional, with a text of two lines as a default."""

    name = "only-optional"
    columns = {
        name: topwork.Column(column.description, target=column.target, required=False, lazy=column.lazy)
        for name, column in PLUGINS.task("text-classification").columns.items()
    }


def test_a_task_of_a_third_party_whose_columns_are_all_optional(capsys) -> None:
    text = starter(OnlyOptional, "some/model", PLUGINS, "x.yaml")
    assert "\n  # columns:" in text and "\n  columns:" not in text
    filled = starter(
        OnlyOptional, "some/model", PLUGINS, "x.yaml", Preview("rows.csv", ("Review Text", "text", "Stars"))
    )
    assert "\n  columns:" in filled and "\n    text: text " in filled and "\n    label: Stars " in filled


@pytest.mark.parametrize(
    ("task", "present", "expected"),
    [
        ("text-classification", ["review", "stars"], {"text": "review", "label": "stars"}),
        ("text-classification", ["Sentence", "Label"], {"text": "Sentence", "label": "Label"}),
        ("text-classification", ["sentence1", "sentence2", "gold"], {"text": "sentence1", "text_pair": "sentence2"}),
        ("summarization", ["article", "highlights", "id"], {"document": "article", "summary": "highlights"}),
        ("token-classification", ["tokens", "ner_tags", "id"], {"words": "tokens", "tags": "ner_tags"}),
        ("question-answering", ["question", "context", "answers"], dict.fromkeys(["question", "context", "answers"])),
        ("text-generation", ["instruction", "response"], {"prompt": "instruction", "completion": "response"}),
        ("image-classification", ["img", "fine_label"], {"image": "img"}),
        ("text-classification", ["premise", "hypothesis"], {"text": "premise", "text_pair": "hypothesis"}),
        ("text-classification", ["title", "gold_label"], {"label": "gold_label"}),
        ("token-classification", ["sentence", "labels"], {"words": "sentence", "tags": "labels"}),
        ("token-classification", ["Sentence #", "Word", "Tag"], {"tags": "Tag"}),
        ("token-classification", ["text", "entities"], {"text": "text", "spans": "entities"}),
        ("translation", ["en", "zh-Hans"], {"source": "en", "target": "zh-Hans"}),
        ("translation", ["translation", "id"], {"translation": "translation"}),
        ("translation", ["id", "src", "tgt"], {"source": "src", "target": "tgt"}),
        ("text-generation", ["Question", "Answer"], {"prompt": "Question", "completion": "Answer"}),
        ("automatic-speech-recognition", ["wav", "transcription"], {"audio": "wav", "text": "transcription"}),
        ("depth-estimation", ["rgb_path", "depth_path"], {"image": "rgb_path", "depth": "depth_path"}),
    ],
)
def test_columns_are_looked_up_by_equal_and_usual_names(task, present, expected) -> None:
    assert match_columns(PLUGINS.task(task), present) == {key: value or key for key, value in expected.items()}


def test_a_column_that_is_not_found_is_left_to_be_filled_in(capsys) -> None:
    Path("rows.csv").write_text("x,stars\n" + "a,b\n" * 12)
    assert main(["new", "text-classification", "x.yaml", "--data", "rows.csv", "--base", "some/model"]) == 0
    text = Path("x.yaml").read_text()
    assert "# the rows have: x, stars" in text and "label: stars" in text and "text: COLUMN" in text
    capsys.readouterr()
    assert main(["validate", "x.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("x.yaml:") and "no column `COLUMN` for the task's `text`" in line and "x, stars" in line
    assert main(["new", "text-classification", "y.yaml", "--data", "row.csv"]) == 2
    assert "did you mean `rows.csv`" in capsys.readouterr().err
