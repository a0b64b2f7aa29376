"""Attention heads scored, searched and pruned by two real processes: the numbers of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tolerance import about

import topwork

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
METHODS = ("michel", "taylor", "leave_one_out", "entropy", "shapley", "random")
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
TEXT = "a warm and funny film dull from start to end nothing works here what lovely surprise painful"
WORDS = TEXT.split(" ")
#: not as many for both processes, and of varied length
ROWS = [
    {"text": " ".join(WORDS[n % 5 : n % 5 + 1 + 3 * n % 13]), "label": ("good", "bad")[n % 3 == 1]} for n in range(9)
]


def launched(file: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command += ["-m", "topwork", "run", str(file), "--folder", str(folder)]
    paths = [ROOT / "core", ROOT / "plugins", os.environ.get("PYTHONPATH", "")]
    more = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, env={**os.environ, **more}, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]


def same(found: Any, expected: Any, place: str = "") -> None:
    """Equal, numbers to 1e-6."""
    if isinstance(expected, dict):
        assert isinstance(found, dict) and list(found) == list(expected), place
        for name, value in expected.items():
            same(found[name], value, f"{place}.{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), place
        for number, value in enumerate(expected):
            same(found[number], value, f"{place}[{number}]")
    else:
        assert found == (about(expected) if isinstance(expected, float) else expected), place


def without(result: Any) -> Any:
    """A result without times, and without what depends on the rows that operations and differences were counted on:
    two processes have others there than one."""
    if isinstance(result, list):
        return [without(one) for one in result]
    if not isinstance(result, dict):
        return result
    left = ("rows_per_second", "seconds", "model_folder", "check", "flops", "speed_limit", "attention_share")
    return {name: without(value) for name, value in result.items() if not name.startswith(left)}


def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    schedule: dict[str, Any] = {"share": 0.5, "step": 2, "iterative": True, "compare_random": 2, "evaluate": True}
    recipe = {
        "task": "text-classification",
        "base": {"config": {"model_type": "bert", **SIZES, "initializer_range": 0.3}},
        "data": {role: {"path": str(rows)} for role in ("train", "calibrate", "evaluate")},
        "stages": [
            *({"head_importance": {"method": method, "normalise": "none", "orders": 1}} for method in METHODS),
            {"head_importance": {"reduction": "token", "rows": 1}},  # nothing for one of them
            "head_ablation",
            {"mask_heads": {"heads": {0: [3]}}},
            {"prune_schedule": {**schedule, "prune": False}},
            {"prune_schedule": {**schedule, "importance": {"batch_size": 2}}},
            "evaluate",
            "save",
        ],
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    launched(file, tmp_path / "two")
    alone = topwork.run(recipe, folder=tmp_path / "one", quiet=True)
    for record in alone.results:
        two, one = (
            json.loads((tmp_path / name / record["folder"] / "result.json").read_text()) for name in ("two", "one")
        )
        same(without(two["result"]), without(one["result"]), record["folder"])
    assert len(alone.results) == len(recipe["stages"])
    models = [topwork.load(tmp_path / name / "model") for name in ("one", "two")]
    kept = [[layer.kept for layer in topwork.look(model).layers] for model in models]
    assert kept[0] == kept[1] and sum(map(len, kept[0])) == 5  # a half of the seven that were not masked went
