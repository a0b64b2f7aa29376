"""`recipes/bertology.yaml` on data in GLUE's own file formats: its stages, and the data named as its comment says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import topwork
from topwork_lens.look import Look

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "bertology.yaml"
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
BASE = {"config": {"model_type": "bert", **SIZES, "initializer_range": 0.3}}
SAID = ['a "warm', '"funny" film', "dull", 'from " start', "painful", "a cast", 'lovely "', "neither"]
#: header and lines as they stand in GLUE's files; nothing in them is quoted
FILES: dict[str, tuple[str, Any]] = {
    "SST-2": ("sentence\tlabel\n", lambda n, text: f"{text} \t{n % 2}\n"),
    "MRPC": (
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n",
        lambda n, text: f'{n % 2}\t{702876 + n}\t{702977 + n}\t{text} .\tReferring to {text} as only "the witness .\n',
    ),
    "CoLA": ("", lambda n, text: f"gj04\t{n % 2}\t{'' if n % 2 else '*'}\tOur friends won't buy {text}.\n"),
    "STS-B": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n",
        lambda n, text: (
            f"{n}\tmain-captions\tMSRvid\t2012test\t{n:04d}\tnone\tnone\t{text}\tA {text}.\t{n % 6}.{n}00\n"
        ),
    ),
}


def said_of(name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The options and the columns that the recipe's comment gives for a file."""
    comment = RECIPE.read_text(encoding="utf-8")
    block = comment[comment.index(f"{name}/train.tsv") :]
    options = re.search(r"options: (\{.*?\})\}", block)
    columns = re.search(r"columns: (\{.*?\})", block)
    assert options and columns
    return yaml.safe_load(options[1]), yaml.safe_load(columns[1])


@pytest.mark.parametrize("name", list(FILES))
def test_bertology_on_glue(name: str, tmp_path: Path) -> None:
    header, line = FILES[name]
    texts = SAID * 2
    file = tmp_path / "train.tsv"
    file.write_text(header + "".join(line(n, text) for n, text in enumerate(texts)), encoding="utf-8")
    options, columns = said_of(name)
    rows = {"path": str(file), "options": options}
    task: Any = {"name": "text-classification", "regression": True} if name == "STS-B" else "text-classification"
    stages = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["stages"]
    assert [stage if isinstance(stage, str) else next(iter(stage)) for stage in stages] == [
        "train", "evaluate", "attention", "head_importance", "prune_schedule", "evaluate", "save", "report",
    ]  # fmt: skip
    stages[0] = {"train": {"steps": 2, "batch_size": 8}}
    recipe = {
        "task": task,
        "base": BASE,
        "data": {"train": rows, "calibrate": rows, "evaluate": rows, "columns": columns},
        "stages": stages,
    }
    done = topwork.run(recipe, folder=tmp_path / "run", quiet=True)
    kept = list(done.rows("train"))
    assert [row["text"].strip(" .") for row in kept] == [
        {"CoLA": f"Our friends won't buy {text}"}.get(name, text).strip() for text in texts
    ]
    _, before, attention, scored, search, after, _, _ = (record["result"] for record in done.results)
    assert all(entry > 0 for layer in attention_of(done) for entry in layer["entropy"])
    assert attention["entropy"] > 0
    assert all(score >= 0 for layer in scored["layers"] for score in layer["scores"])
    assert search["ended_by"] in ("metric", "nothing left")
    assert 0 < search["heads_after"] == sum(len(layer.kept or ()) for layer in Look(done.model).layers) <= 8
    assert before["rows_per_second"] > 0 and after["rows_per_second"] > 0
    assert set(before["metrics"]) == set(after["metrics"])
    assert (tmp_path / "run" / "report.html").is_file()


def attention_of(done: Any) -> list[dict[str, Any]]:
    import json

    record = next(record for record in done.results if record["stage"] == "attention")
    return json.loads((done.root / record["folder"] / "attention.json").read_text(encoding="utf-8"))["layers"]
