"""Attention in a notebook: `look.show`, `seen.show` and `run.show` give a page in a frame."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_bases import BASES
from transformers import BertConfig, BertModel

import topwork
from topwork import Shown, UsageError


@pytest.fixture(scope="module")
def model() -> BertModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 16}
    return BertModel(BertConfig(**sizes, vocab_size=30, initializer_range=0.5)).eval()


def data_of(shown: Shown) -> dict[str, Any]:
    """The data that a page carries for its script."""
    (text,) = re.findall(r'<script type="application/json" id="topwork-data">(.*?)</script>', shown.page, re.S)
    return json.loads(text)


def test_what_is_shown_is_what_the_model_computed(model: BertModel) -> None:
    look = topwork.look(model)
    ids = torch.arange(10).reshape(2, 5)
    with torch.no_grad(), look.capture("weights") as seen:
        model(ids)
    names = [list("abcde"), list("fghij")]
    (explorer,) = data_of(seen.show(names, layer=1, head=3))["attention"]
    assert explorer["first"] == {"layer": ["encoder", 1], "head": 3}
    assert [row["axes"][0]["names"] for row in explorer["rows"]] == names
    from lens.test_head_weights import unpacked

    for index, row in enumerate(explorer["rows"]):
        for entry in row["heads"]:
            wanted = seen["weights", entry["number"]][index].double()
            assert torch.allclose(unpacked(entry), wanted, atol=4e-3)


def test_a_batch_is_run_and_shown(model: BertModel, tmp_path: Path) -> None:
    shown = topwork.look(model).show({"input_ids": torch.arange(4)[None]}, tokens=["</script>", "b", "c", "d"])
    (explorer,) = data_of(shown)["attention"]
    assert explorer["rows"][0]["axes"][0]["names"][0] == "</script>" and shown.page.count("</script>") == 2
    frame = shown._repr_html_()
    assert frame.startswith('<iframe sandbox="allow-scripts"') and frame.count("<") == 2
    assert html.unescape(re.findall(r'srcdoc="([^"]*)"', frame)[0]) == shown.page
    assert shown.save(tmp_path / "a.html").read_text(encoding="utf-8") == shown.page


def test_a_task_names_the_tokens_of_its_batch() -> None:
    rows = [{"text": f"a {word} film", "label": word} for word in ("good", "bad", "dull") * 3]
    work = topwork.build("text-classification", BASES["text-classification"], rows=rows)
    batch = work.task.collate(work.task.encode(rows[:1], "predict", 0), "predict")
    (explorer,) = data_of(topwork.look(work).show(batch))["attention"]
    assert {"good", "film"} <= set(explorer["rows"][0]["axes"][0]["names"])


def test_the_queries_of_a_detector_have_their_boxes() -> None:
    rows = topwork.load_plugins().tasks["object-detection"].example_rows()[:2]
    work = topwork.build("object-detection", BASES["object-detection"], rows=rows)
    batch = work.task.collate(work.task.encode(rows, "predict", 0), "predict")
    (explorer,) = data_of(topwork.look(work).show(batch))["attention"]
    wanted = work.task.query_boxes(work.model, batch)
    for row, boxes in zip(explorer["rows"], wanted, strict=True):
        (shown,) = [axis["boxes"] for axis in row["axes"] if axis.get("boxes")]
        assert [entry[1] for entry in shown] == [each.label for each in boxes]
        assert [entry[3] for entry in shown] == [pytest.approx(list(each.box), abs=1e-4) for each in boxes]


def test_names_that_fit_no_positions_are_refused(model: BertModel) -> None:
    look = topwork.look(model)
    with torch.no_grad(), look.capture("weights", "entropy") as seen:
        model(torch.arange(8).reshape(2, 4))
    with pytest.raises(UsageError, match="3 names for 4 positions"):
        seen.show([list("abc"), list("abc")])
    with pytest.raises(UsageError, match="names of 1 items"):
        seen.show(list("abcd"))
    with pytest.raises(UsageError, match="no attention head 9"):
        seen.show(layer=0, head=9)
    with torch.no_grad(), look.capture("entropy") as other:
        model(torch.arange(4)[None])
    with pytest.raises(UsageError, match="no weights were captured"):
        other.show()
    with pytest.raises(UsageError, match="no plugin shows a run"):
        topwork.show("run", ".", topwork.load_plugins(disable=["report"]))


def test_a_run_is_shown(tmp_path: Path) -> None:
    rows = [{"text": f"a {word} film", "label": word} for word in ("good", "bad", "dull") * 3]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = {
        "task": "text-classification",
        "base": BASES["text-classification"],
        "data": {"train": str(tmp_path / "rows.jsonl")},
        "stages": [{"evaluate": {"role": "train"}}],
    }
    run = topwork.run(recipe, folder=tmp_path / "run", quiet=True)
    shown = run.show()
    assert "1 · evaluate" in shown.page and len(data_of(shown)["predictions"][0]["predictions"]) == 9
