"""Tasks of a stranger that classify nothing go through every stage, the page, a saved folder and the lens like ours."""

from __future__ import annotations

import importlib.util
import sys
from itertools import pairwise
from pathlib import Path

import datasets
import pytest

import topwork
from topwork import DataError, Plugins, Refused
from topwork.testing import check_stage, check_task

FILE = Path(__file__).parents[1] / "packages" / "topwork-studio" / "topwork_studio.py"
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 16}
SERIES = {"context_length": 32, "patch_length": 8, "patch_stride": 8, "num_input_channels": 1, "d_model": 16}
BASES = {
    "keypoints": {"model_type": "vit", "image_size": 16, "patch_size": 4, **SMALL},
    "text-pairs": {"model_type": "bert", "max_position_embeddings": 64, **SMALL},
    "forecast": {"model_type": "patchtst", "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 16, **SERIES},
}
STAGES = [
    {"train": {"epochs": 12, "batch_size": 4, "learning_rate": 1e-2, "evaluate_every": 18, "keep": "best"}},
    "evaluate",
    "attention",
    {"head_importance": {"batch_size": 1}},
    "head_ablation",
    {"mask_heads": {"count": 1}},
    {"prune_heads": {"count": 1}},
    "weight_drift",
    "predict",
    "save",
    "report",
]


@pytest.fixture(scope="module")
def studio() -> Plugins:
    spec = importlib.util.spec_from_file_location("topwork_studio", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["topwork_studio"] = module
    spec.loader.exec_module(module)
    return topwork.load_plugins(extra=[module])


@pytest.mark.parametrize("name", BASES)
def test_every_stage(name: str, studio: Plugins, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    task = studio.tasks[name]
    base = {"config": BASES[name]}
    check_task(task, base, tmp_path / "checked", plugins=studio)
    rows = task.example_rows()
    stored = datasets.Dataset.from_list(rows)
    stored.save_to_disk(tmp_path / "rows")
    data = dict.fromkeys(("train", "calibrate", "evaluate", "predict"), str(tmp_path / "rows"))
    recipe = {"task": name, "base": base, "data": data, "stages": STAGES}
    run = topwork.run(recipe, plugins=studio, folder=tmp_path / "run", quiet=True)
    found = {record["stage"]: record["result"] for record in run.results}
    history = [entry["loss"] for entry in found["train"]["history"] if "loss" in entry]
    assert history[-1] < 0.8 * history[0]
    assert found["prune_heads"]["heads_before"] - found["prune_heads"]["heads_after"] == 1
    assert found["predict"]["rows"] == len(rows)
    page = (run.root / "report.html").read_text()
    assert "By &lt;b&gt;rows" in page and "onerror=alert(1)&gt;" in page
    own = ("<script>", '<script type="application/json" id="topwork-data">')  # the page's code, and its data
    assert page.count("<script") == sum(page.count(tag) for tag in own) == 2
    content = page.replace("http://www.w3.org/2000/svg", "")  # the name of a namespace; nothing is fetched
    assert not any(text in content for text in ("<img src=x", "<b>rows", "http://", "https://"))
    work = topwork.load(run.model_folder, plugins=studio)
    assert len(work.predict(rows)) == len(rows) and len(work.look().layers) == 2


def test_a_row_that_cannot_be_used_is_named(studio: Plugins) -> None:
    task = studio.tasks["forecast"]
    rows = task.example_rows()
    work = topwork.build("forecast", {"config": BASES["forecast"]}, rows=rows, plugins=studio)
    rows[4] = {**rows[4], "past": [1.0]}
    with pytest.raises(DataError, match="row 4, column 'past': 1 values, 32 are needed"):
        work.evaluate(rows)
    check_stage(studio.stages["weight_drift"])


def test_rows_that_share_one_run_are_not_told_apart(studio: Plugins) -> None:
    rows = studio.tasks["text-pairs"].example_rows()
    work = topwork.build("text-pairs", {"config": BASES["text-pairs"]}, rows=rows, plugins=studio)
    type(work.task).row_losses, kept = together, type(work.task).row_losses
    try:
        with pytest.raises(Refused, match="batch_size: 1"):
            work.apply("head_importance", {"calibrate": rows})
    finally:
        type(work.task).row_losses = kept


def together(task, model, batch):
    left, right = task.sides(model, batch)
    return batch.mean_by_row(1 - (left * right).sum(-1))


def test_items_that_must_stay_together_are_one_item(studio: Plugins, tmp_path: Path) -> None:
    pairs = studio.tasks["text-pairs"]

    class Apart(pairs):  # type: ignore[misc, valid-type]
        """One item for each side: training would put them into different batches."""

        name = "apart"

        def encode(self, rows, mode, seed):
            items = super().encode(rows, mode, seed)
            return [type(item)(item.row, {"side": side}, item.cost) for item in items for side in item.inputs["sides"]]

        def collate(self, items, mode):
            both = [type(a)(a.row, {"sides": [a.inputs["side"], b.inputs["side"]]}) for a, b in pairwise(items)]
            return super().collate(both[::2] or self._nothing(), mode)

        def _nothing(self):
            raise ValueError("half a pair")

    with pytest.raises(AssertionError, match=r"what must stay together is one item.*half a pair"):
        check_task(Apart, {"config": BASES["text-pairs"]}, tmp_path)
