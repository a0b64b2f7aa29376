"""Texts of the tests that `topwork plugins new` writes, by kind of plugin; placeholders as in `templates`."""

from __future__ import annotations

_TINY = """{
    "config": {
        "model_type": "bert",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    }
}
"""

TESTS = {
    "task": '''"""The task keeps what the contract promises, and learns."""

from pathlib import Path

import @MODULE@
import topwork
from topwork.testing import check_task

BASE = '''
    + _TINY
    + """

def test_the_task_keeps_its_promises(tmp_path: Path) -> None:
    check_task(@MODULE@.@CLASS@, BASE, tmp_path)


def test_the_task_learns_its_rows() -> None:
    plugins = topwork.load_plugins(extra=[@MODULE@])
    rows = @MODULE@.@CLASS@.example_rows()
    work = topwork.build("@SHORT@", BASE, rows=rows, plugins=plugins)
    before = work.evaluate(rows)["mae"]
    work.train(rows, epochs=40, learning_rate=3e-3, batch_size=5)
    assert work.evaluate(rows)["mae"] < before / 2
""",
    "stage": '''"""The stage keeps what the contract promises, and gives the right numbers."""

import @MODULE@
import topwork
from topwork.testing import check_stage

BASE = '''
    + _TINY
    + """ROWS = [{"text": text, "label": label} for text, label in [("good", "yes"), ("bad", "no")] * 4]


def test_the_stage_keeps_its_promises() -> None:
    check_stage(@MODULE@.@CLASS@)


def test_the_stage_counts_every_parameter_once() -> None:
    work = topwork.build("@TASK@", BASE, rows=ROWS, plugins=topwork.load_plugins(extra=[@MODULE@]))
    result = work.apply("@IDENTIFIER@", {}, depth=2)
    assert result["parameters"] == sum(parameter.numel() for parameter in work.model.parameters())
    assert len(result["tables"]["parameters"]) > 1
""",
    "observer": '''"""The observer hears a whole run."""

import json
from pathlib import Path

import @MODULE@
import topwork

BASE = '''
    + _TINY
    + """

def test_the_observer_writes_what_a_run_reports(tmp_path: Path) -> None:
    lines = [json.dumps({"text": text, "label": label}) for text, label in [("good", "yes"), ("bad", "no")] * 8]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\\n".join(lines), encoding="utf-8")
    recipe = {
        "task": "@TASK@",
        "base": BASE,
        "data": {"train": str(rows), "evaluate": str(rows)},
        "stages": [{"train": {"steps": 4, "batch_size": 4}}, "evaluate"],
    }
    plugins = topwork.load_plugins(extra=[@MODULE@])
    run = topwork.run(recipe, folder=tmp_path / "run", plugins=plugins, quiet=True)
    text = (run.root / @MODULE@.FILE).read_text(encoding="utf-8")
    written = [json.loads(line) for line in text.splitlines()]
    assert [line["step"] for line in written if "loss" in line] == [1, 2, 3, 4]
    assert [line["stage"] for line in written if line.get("done")] == ["train", "evaluate"]
""",
    "base": '''"""The base keeps what the contract promises, and carries a task from training to a saved model."""

from pathlib import Path

import torch

import @MODULE@
import topwork
from topwork.testing import check_base

ROWS = [{"text": text, "label": label} for text, label in [("a good film", "yes"), ("a bad film", "no")] * 4]


def test_the_base_keeps_its_promises() -> None:
    base = @MODULE@.load_base("@SHORT@:32", topwork.BaseOptions(model="@SHORT@:32"))
    check_base(base, {"input_ids": torch.tensor([[1, 2, 3]]), "attention_mask": torch.tensor([[1, 1, 0]])})


def test_the_base_leaves_other_names_alone() -> None:
    assert @MODULE@.load_base("bert-base-uncased", topwork.BaseOptions(model="bert-base-uncased")) is None


def test_a_task_learns_on_the_base_and_loads_again(tmp_path: Path) -> None:
    plugins = topwork.load_plugins(extra=[@MODULE@])
    work = topwork.build("@TASK@", "@SHORT@:32", rows=ROWS, plugins=plugins)
    work.train(ROWS, epochs=20, learning_rate=1e-2, batch_size=8)
    work.save(tmp_path / "model")
    assert topwork.load(tmp_path / "model", plugins=plugins).evaluate(ROWS)["accuracy"] == 1.0
''',
}
