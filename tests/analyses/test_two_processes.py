"""Analyses by two real processes: the numbers of one."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from analysis_models import BERT, WORDS, sentences

import topwork

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]


def _same(measured: Any, expected: Any, where: str = "") -> None:
    """Equal, numbers to 1e-4: rows come in other batches."""
    if isinstance(expected, dict):
        assert measured.keys() == expected.keys(), where
        for name, value in expected.items():
            if name not in ("x", "y"):  # a map may be turned
                _same(measured[name], value, f"{where}.{name}")
    elif isinstance(expected, list):
        assert len(measured) == len(expected), where
        for index, value in enumerate(expected):
            _same(measured[index], value, f"{where}[{index}]")
    elif isinstance(expected, float):
        assert measured == pytest.approx(expected, rel=1e-4, abs=1e-5), where
    else:
        assert measured == expected, where


def _rows(folder: Path) -> Path:
    rows = [{"text": text, "label": "abc"[index % 3]} for index, text in enumerate(sentences(11))]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / "rows.jsonl"


def _treebank(folder: Path) -> Path:
    draw = random.Random(3)
    rows = []
    for _ in range(25):
        count = draw.randint(4, 8)
        heads = [0, *(draw.randint(1, word) for word in range(1, count))]
        rows.append({"words": draw.choices(WORDS, k=count), "heads": heads, "relations": ["dep"] * count})
    (folder / "trees.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / "trees.jsonl"


def test_two_processes_measure_what_one_measures(tmp_path: Path) -> None:
    rows = {"path": str(_rows(tmp_path))}
    recipe = {
        "task": "text-classification",
        "base": BERT,
        "data": {"train": rows, "calibrate": rows, "evaluate": rows},
        "stages": [
            {"attention_patterns": {"gradients": True, "compared": 4}},
            {"head_roles": {"rows": 11}},
            {"head_effects": {"draws": 200, "other_role": "calibrate"}},
            {"head_effects": {"draws": 200, "ablation": "mean", "tables": ["one_removed"], "measures": ["loss"]}},
            {"word_relations": {"dependencies": {"path": str(_treebank(tmp_path))}, "draws": 200}},
        ],
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    single = topwork.run(file, folder=tmp_path / "single", quiet=True)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command += ["-m", "topwork", "run", str(file), "--folder", str(tmp_path / "double")]
    paths = [ROOT / "core", ROOT / "plugins", os.environ.get("PYTHONPATH", "")]
    more = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, env={**os.environ, **more}, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]
    for record in single.results:
        result = json.loads((tmp_path / "double" / record["folder"] / "result.json").read_text())["result"]
        _same(result, json.loads(json.dumps(record["result"])), record["stage"])
