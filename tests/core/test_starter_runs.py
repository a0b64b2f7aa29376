"""The recipe that `topwork new TASK --data FILE` writes runs as it stands, for every installed task."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import datasets
import pytest
from tiny_bases import BASES

import topwork
from topwork import load_plugins
from topwork.cli import main
from topwork.recipe.yaml import dump

PLUGINS = load_plugins()


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    datasets.disable_progress_bars()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("task", sorted(PLUGINS.tasks))
def test_the_starter_for_a_file_validates_and_runs(task, tmp_path, capsys) -> None:
    """Rows of the obvious shape: the task's own examples, a few times over, in one parquet file."""
    kind = PLUGINS.task(task)
    rows = datasets.Dataset.from_list(kind.example_rows() * 3)
    rows.to_parquet("rows.parquet")
    assert main(["new", task, "x.yaml", "--data", "rows.parquet", "--base", "some/model"]) == 0
    assert main(["validate", "x.yaml"]) == 0, capsys.readouterr().err
    text = Path("x.yaml").read_text()
    run = run_with_tiny_base(task, text)
    assert [record["stage"] for record in run.results] == ["train", "evaluate", "save", "report"]


def run_with_tiny_base(task: str, text: str) -> topwork.Run:
    kind, base = PLUGINS.task(task), copy.deepcopy(BASES[task])
    for role in kind.roles if len(kind.roles) > 1 else ("base",):
        text = text.replace("{model: some/model}", dump(base[role] if len(kind.roles) > 1 else base, flow=True), 1)
    Path("x.yaml").write_text(text)
    return topwork.run("x.yaml", overrides=["stages.train.steps=1", "stages.train.batch_size=4"], quiet=True)


def pairs() -> list[tuple[str, str]]:
    return [(row["source"], row["target"]) for row in PLUGINS.task("translation").example_rows()] * 3


def sentences() -> list[dict]:
    return [row for row in PLUGINS.task("token-classification").example_rows() if row.get("words")] * 3


def write_languages() -> str:
    datasets.Dataset.from_list([{"en": one, "de": two} for one, two in pairs()]).to_csv("rows.tsv", sep="\t")
    return "rows.tsv"


def write_translations() -> str:
    rows = [{"translation": {"en": one, "de": two}} for one, two in pairs()]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "rows.jsonl"


def write_parallel_texts() -> str:
    Path("rows").mkdir()
    for index, language in enumerate(("en", "de")):
        Path(f"rows/train.{language}").write_text("".join(pair[index] + "\n" for pair in pairs()))
    return "rows"


def write_alpaca() -> str:
    rows = [{"instruction": one, "input": "", "output": two} for one, two in pairs()]
    Path("rows.json").write_text(json.dumps(rows))
    return "rows.json"


def write_tagged_table() -> str:
    rows = [{"sentence": " ".join(row["words"]), "labels": " ".join(row["tags"])} for row in sentences()]
    datasets.Dataset.from_list(rows).to_csv("rows.csv")
    return "rows.csv"


def write_image_splits() -> str:
    for split in ("train", "val"):
        for index, row in enumerate(PLUGINS.task("image-classification").example_rows()):
            folder = Path("rows") / split / row["label"]
            folder.mkdir(parents=True, exist_ok=True)
            row["image"].save(folder / f"{index}.png")
    return "rows"


@pytest.mark.parametrize(
    ("task", "write"),
    [
        ("translation", write_languages),
        ("translation", write_translations),
        ("translation", write_parallel_texts),
        ("text-generation", write_alpaca),
        ("token-classification", write_tagged_table),
        ("image-classification", write_image_splits),
    ],
)
def test_the_starter_knows_rows_as_they_are_read_and_what_they_need(task, write, capfd) -> None:
    assert main(["new", task, "x.yaml", "--data", write(), "--base", "some/model"]) == 0
    shown = capfd.readouterr()
    assert shown.out + shown.err == "wrote x.yaml\n"
    text = Path("x.yaml").read_text()
    if write is write_alpaca:  # a chat, and a base from a config has no template for it
        template = "{% for message in messages %}{{ message.content }}{% endfor %}"
        assert "messages: messages" in text
        text = text.replace("  # chat_template: null", f"  chat_template: {json.dumps(template)}")
    if write is write_image_splits:
        assert "train: {path: rows, split: train}" in text and "evaluate: {path: rows, split: validation}" in text
    run = run_with_tiny_base(task, text)
    assert run.results[1]["result"]["rows"] > 0


def write_boxes() -> tuple[str, dict]:
    rows = PLUGINS.task("object-detection").example_rows() * 2
    lines = ["filename,xmin,ymin,xmax,ymax,class"]
    for index, row in enumerate(rows):
        row["image"].save(f"{index}.png")
        for (left, top, width, height), name in zip(row["objects"]["bbox"], row["objects"]["category"]):
            lines.append(f"{index}.png,{left},{top},{left + width},{top + height},{name}")
    Path("boxes.csv").write_text("\n".join(lines) + "\n")
    return "boxes.csv", {}


def write_manifest() -> tuple[str, dict]:
    rows = PLUGINS.task("automatic-speech-recognition").example_rows() * 2
    for index, row in enumerate(rows):
        Path(f"{index}.wav").write_bytes(row["audio"]["bytes"])
    entries = [
        {"audio_filepath": f"{index}.wav", "duration": 0.1, "text": row["text"]} for index, row in enumerate(rows)
    ]
    Path("manifest.json").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return "manifest.json", {}


CHAT = {"chat_template": "{% for message in messages %}{{ message.content }}{% endfor %}"}


def write_alpaca_file() -> tuple[str, dict]:
    return write_alpaca(), CHAT


def write_sharegpt() -> tuple[str, dict]:
    entry = {"conversations": [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "good morning"}]}
    Path("chats.jsonl").write_text((json.dumps(entry) + "\n") * 12)
    return "chats.jsonl", CHAT


def write_label_studio() -> tuple[str, dict]:
    value = {"start": 0, "end": 3, "labels": ["PER"]}
    result = [{"type": "labels", "value": value, "from_name": "label", "to_name": "text"}]
    entry = {"data": {"text": "Ada lives in London"}, "annotations": [{"result": result}]}
    Path("export.json").write_text(json.dumps([{"id": index, **entry} for index in range(12)]))
    return "export.json", {}


@pytest.mark.parametrize(
    ("task", "write"),
    [
        ("object-detection", write_boxes),
        ("automatic-speech-recognition", write_manifest),
        ("text-generation", write_alpaca_file),
        ("text-generation", write_sharegpt),
        ("token-classification", write_label_studio),
    ],
)
def test_files_of_a_recognised_layout_are_not_judged_by_their_own_columns(task, write, capsys) -> None:
    path, options = write()
    recipe = {
        "task": {"name": task, **options},
        "base": BASES[task],
        "data": {"train": path, "evaluate": {"cut": 0.3}},
        "stages": [{"train": {"steps": 1, "batch_size": 2}}],
    }
    Path("x.yaml").write_text(json.dumps(recipe))
    assert main(["validate", "x.yaml"]) == 0, capsys.readouterr().err
    assert topwork.run("x.yaml", quiet=True).results[0]["result"]["steps"] == 1
