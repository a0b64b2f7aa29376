"""What stages keep of rows for readers: cells to slice by, boxes of queries, attention of the worst, relevance."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_bases import BASES, BERT

import topwork
from topwork_report.page import write_page

PATCHES = {"config": {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                      "intermediate_size": 16, "image_size": 64, "patch_size": 32}}  # fmt: skip
DOMAINS = ("mail", "news", "chat")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on rows with columns that the task does not read."""
    folder = tmp_path_factory.mktemp("sliced")
    words = ("warm", "dull", "kind", "cold")
    rows = [
        {"review": f"a {words[at % 4]} film {at}", "label": ("yes", "no")[at % 2], "domain": DOMAINS[at % 3],
         "notes": "x" * 80, "tags": ["a"]}
        for at in range(24)
    ]  # fmt: skip
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    source = {"path": str(folder / "rows.jsonl")}
    recipe = {
        "task": "text-classification",
        "base": copy.deepcopy(BERT),
        "data": {"train": source, "evaluate": source, "columns": {"text": "review"}},
        "stages": [
            {"evaluate": {"loss": True}},
            {"attention": {"rows": 3, "overlays": 2}},
            {"relevance": {"rows": 2, "steps": 2, "orders": 2, "draws": 20, "randomise": False}},
        ],
    }
    topwork.run(recipe, folder=folder / "run", quiet=True)
    return folder / "run"


def test_predictions_keep_short_cells_of_other_columns(ran: Path) -> None:
    table = json.loads((ran / "stages/01-evaluate/predictions.json").read_text(encoding="utf-8"))
    assert len(table["predictions"]) == 24
    for line in table["predictions"]:
        assert line["facts"]["domain"] == DOMAINS[line["index"] % 3]
        assert not {"notes", "tags", "review"} & line["facts"].keys()


@pytest.mark.parametrize(
    ("task", "wanted"),
    [
        ("text-classification", lambda row: row["text"]),
        ("question-answering", lambda row: f"{row['question']} {row['context']}"),
        ("automatic-speech-recognition", lambda row: ""),  # what was said and what was understood are facts
    ],
)
def test_a_line_has_the_text_of_its_row_and_no_verdict(task: str, wanted: Callable, tmp_path: Path) -> None:
    rows = topwork.load_plugins().tasks[task].example_rows()
    work = topwork.build(task, copy.deepcopy(BASES[task]), rows=rows)
    work.apply("evaluate", {"evaluate": rows}, run_folder=tmp_path)
    (file,) = tmp_path.glob("stages/*/predictions.json")
    for line in json.loads(file.read_text(encoding="utf-8"))["predictions"]:
        text = wanted(rows[line["index"]])
        assert text.startswith(line["text"].removesuffix("…")) and bool(line["text"]) == bool(text)


def test_attention_of_the_worst_predictions_is_kept_beside_that_of_the_first_rows(ran: Path) -> None:
    table = json.loads((ran / "stages/01-evaluate/predictions.json").read_text(encoding="utf-8"))
    worst = [line["index"] for line in table["predictions"] if line["index"] > 1][:2]
    kept = json.loads((ran / "stages/02-attention/attention.json").read_text(encoding="utf-8"))["rows"]
    assert sorted(row["row"] for row in kept) == sorted([0, 1, *worst])
    result = json.loads((ran / "stages/02-attention/result.json").read_text(encoding="utf-8"))["result"]
    assert result["rows"] == 3


def test_relevance_is_described_position_by_position_for_the_page(ran: Path) -> None:
    result = json.loads((ran / "stages/03-relevance/result.json").read_text(encoding="utf-8"))["result"]
    for row in result["relevance"]:
        assert row["axis"]["names"] == row["names"] and row["axis"]["shown"] == len(row["names"])
        for method, values in row["methods"].items():
            assert values == pytest.approx(row[method], rel=1e-3)
    write_page(ran)
    html = (ran / "report.html").read_text(encoding="utf-8")
    assert 'id="relevance-stage-3"' in html and '"rollout":[' in html


@pytest.mark.parametrize("base", [BASES["object-detection"], PATCHES])
def test_the_boxes_of_queries_are_those_of_the_predictions(base: dict, tmp_path: Path) -> None:
    """YOLOS, whose queries stand behind the patches, and DETR's transformer, whose decoder reads them."""
    rows = topwork.load_plugins().tasks["object-detection"].example_rows()[:2]
    size = {"queries": 6, "encoder_layers": 1, "decoder_layers": 1, "width": 16, "attention_heads": 2,
            "feed_forward": 16}  # fmt: skip
    options = {} if base is BASES["object-detection"] else {"detr_head": size}
    work = topwork.build("object-detection", copy.deepcopy(base), rows=rows, threshold=0.0, **options)
    result = work.apply("attention", {"evaluate": rows}, rows=1, overlays=1)
    assert result["rows"] == 1
    batch = work.task.collate(work.task.encode(rows[:1], "predict", 0), "predict")
    (boxes,) = work.task.query_boxes(work.model, batch)
    assert isinstance(work.task, topwork.HasQueryBoxes)
    width, height = rows[0]["image"].size
    pixels = [
        [round(side * size, 2) for side, size in zip(each.box, (width, height) * 2, strict=True)] for each in boxes
    ]
    predicted = work.predict(rows[:1])[0]
    assert predicted
    for entry in predicted:
        corners = list(entry["box"].values())
        # pixels of predictions are whole
        assert any(corners == pytest.approx(other, abs=1.01) for other in pixels), (corners, pixels)
        assert any(entry["score"] == pytest.approx(each.score, abs=1e-3) for each in boxes)
