"""Every analysis by two real processes under `accelerate launch`: the numbers of one."""

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
from topwork_analyses.plugin import register_stages

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
#: with norms before each block, as direct attribution needs it
BASE: dict[str, Any] = {"config": BERT["config"] | {"model_type": "modernbert", "pad_token_id": 0}}
SCALARS: dict[str, Any] = {"rows": 5, "draws": 100}
#: stage -> options; those with rows of their own get them in `_recipe`
STAGES: dict[str, list[dict[str, Any]]] = {
    "attention_patterns": [{"gradients": True, "compared": 4}],
    "head_roles": [{"rows": 11}],
    "head_effects": [
        {"draws": 200, "other_role": "calibrate"},
        {"draws": 200, "ablation": "mean", "tables": ["one_removed"], "measures": ["loss"]},
        {"draws": 100, "ablation": "resample", "tables": ["one_removed"], "measures": ["loss"], "slices": "half"},
    ],
    "word_relations": [{"draws": 200}],
    "edge_probing": [{"labels": ["tags"], "seeds": 2, "epochs": 2, "projection": 8, "draws": 20}],
    "cat_probing": [{"language": "dependencies", "types": None, "permutations": 5, "draws": 20}],
    "relevance": [{"rows": 3, "steps": 2, "orders": 1, "draws": 10}],
    "attribution_patching": [{**SCALARS, "top": 3}, {**SCALARS, "top": 2, "steps": 3}],
    "direct_attribution": [SCALARS],
    "early_exit": [{}],
    "drift": [{"rows": 6, "permutations": 5, "draws": 10}],
    # At a rate of nothing: two processes train on other batches than one, and this is about what is measured meanwhile.
    "importance_over_training": [{"train": {"steps": 2, "batch_size": 4, "learning_rate": 1e-12, "evaluate_every": 1}}],
}


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


def _written(file: Path, rows: list[dict[str, Any]]) -> dict[str, str]:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"path": str(file)}


def _trees() -> list[dict[str, Any]]:
    draw = random.Random(3)
    rows = []
    for _ in range(25):
        count = draw.randint(4, 8)
        words = draw.choices(WORDS, k=count)
        heads = [0, *(draw.randint(1, word) for word in range(1, count))]
        tags = ["AB"[len(word) > 4] for word in words]
        rows.append({"words": words, "heads": heads, "relations": ["dep"] * count, "tags": tags})
        rows[-1]["text"] = " ".join(words)
    return rows


def _recipe(folder: Path) -> dict[str, Any]:
    texts = enumerate(sentences(11))
    labelled = [{"text": text, "label": "abc"[index % 3], "half": "ab"[index < 6]} for index, text in texts]
    rows = _written(folder / "rows.jsonl", labelled)
    trees = _written(folder / "trees.jsonl", _trees())
    sources = {
        "word_relations": {"dependencies": trees},
        "edge_probing": {"train": trees, "evaluate": trees},
        "cat_probing": {"rows": trees},
    }
    stages: list[dict[str, Any]] = [
        {name: {**options, **sources.get(name, {})}} for name, all_of in STAGES.items() for options in all_of
    ]
    data = {"train": rows, "calibrate": rows, "evaluate": rows}
    return {"task": "text-classification", "base": BASE, "data": data, "stages": stages}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[Any, Any]]]:
    """By stage, the results of two processes, each beside that of one."""
    folder = tmp_path_factory.mktemp("runs")
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(_recipe(folder), sort_keys=False), encoding="utf-8")
    single = topwork.run(file, folder=folder / "single", quiet=True)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command += ["-m", "topwork", "run", str(file), "--folder", str(folder / "double")]
    paths = [ROOT / "core", ROOT / "plugins", os.environ.get("PYTHONPATH", "")]
    more = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, env={**os.environ, **more}, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-4000:]
    pairs: dict[str, list[tuple[Any, Any]]] = {}
    for record in single.results:
        double = json.loads((folder / "double" / record["folder"] / "result.json").read_text(encoding="utf-8"))
        pairs.setdefault(record["stage"], []).append((double["result"], json.loads(json.dumps(record["result"]))))
    return pairs


@pytest.mark.parametrize("stage", [declaration.name for declaration in register_stages()])
def test_two_processes_measure_what_one_measures(stage: str, results: dict[str, list[tuple[Any, Any]]]) -> None:
    assert len(results[stage]) == len(STAGES[stage])
    for double, single in results[stage]:
        for result in (double, single):
            result.pop("history", None)  # losses of the batches of a training
        _same(double, single, stage)
