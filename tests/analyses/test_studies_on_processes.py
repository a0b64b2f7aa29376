"""Studies of states, syntax and relevance under `accelerate launch`: two processes give the numbers of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import topwork

ROOT = Path(__file__).parents[2]
SENTENCES = [
    ("the old man sings", "D A N V", [3, 3, 4, 0]),
    ("a dog barks", "D N V", [2, 3, 0]),
    ("small cats sleep well", "A N V R", [2, 3, 0, 3]),
    ("dogs run", "N V", [2, 0]),
    ("the man runs fast", "D N V R", [2, 3, 0, 3]),
]


def recipe(folder: Path) -> dict[str, Any]:
    file = folder / "rows.jsonl"
    rows = [
        {"text": text, "words": text.split(), "tags": tags.split(), "heads": heads, "label": tags[0]}
        for text, tags, heads in SENTENCES * 2
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = {"path": str(file)}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    probes = {"labels": ["tags"], "seeds": 2, "epochs": 2, "projection": 8, "draws": 20}
    trees = {"language": "dependencies", "types": None, "permutations": 5, "draws": 20}
    return {
        "task": "text-classification",
        "base": {"config": {"model_type": "bert", **sizes}},
        "data": {"train": source, "evaluate": source},
        "stages": [
            {"edge_probing": {"train": source, "evaluate": source, **probes}},
            {"cat_probing": {"rows": source, **trees}},
            {"relevance": {"rows": 2, "steps": 2, "orders": 1, "draws": 10}},
            "early_exit",
            {"drift": {"rows": 6, "permutations": 5, "draws": 10}},
        ],
    }


@pytest.mark.learn
def test_two_processes_give_the_numbers_of_a_single_process(tmp_path):
    made = recipe(tmp_path)
    alone = topwork.run(made, folder=tmp_path / "alone", quiet=True)
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(made), encoding="utf-8")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command += ["-m", "topwork", "run", str(file), "--folder", str(tmp_path / "two")]
    paths = os.pathsep.join(map(str, [ROOT / "core", ROOT / "plugins", os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]
    for record in alone.results:
        other = json.loads((tmp_path / "two" / record["folder"] / "result.json").read_text(encoding="utf-8"))
        assert other["result"] == json.loads(json.dumps(record["result"])), record["stage"]
