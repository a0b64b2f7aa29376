"""The text tasks of one sequence learn rows by heart, measured after saving by a new process; the same rows with
exchanged targets are learned as well, and are at chance when the truth judges them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import topwork

BERT = {
    "model_type": "bert",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}
GPT2 = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128}
MEASURE = """
import json, sys, topwork
rows, folders, key = json.load(open(sys.argv[1])), sys.argv[3:], sys.argv[2]
print(json.dumps([topwork.load(folder).evaluate(rows)[key] for folder in folders]))
"""


def classes(rows):
    """Each label goes to rows of all three labels: a third of the rows keep theirs."""
    names = sorted({row["label"] for row in rows})
    places = {name: place for place, name in enumerate(names)}
    return [{**row, "label": names[(places[row["label"]] + n) % len(names)]} for n, row in enumerate(rows)]


def answers(rows):
    """The two questions about a context exchange their answers; the one without an answer keeps that."""
    changed = [dict(row) for row in rows]
    for one, other in zip(changed[:-1:2], changed[1::2]):
        one["answers"], other["answers"] = other["answers"], one["answers"]
    return changed


def completions(rows):
    return [{**row, "completion": rows[n - 1]["completion"]} for n, row in enumerate(rows)]


# task: (config, key of the metric, exchanging, chance, options, steps)
TASKS = {
    "text-classification": (BERT, "accuracy", classes, 1 / 3, {}, 60),
    "question-answering": (BERT, "exact_match", answers, 1 / 9, {}, 150),
    "text-generation": (GPT2, "exact_match", completions, 0.0, {"generation": {"max_new_tokens": 8}}, 120),
}


@pytest.mark.learn
@pytest.mark.parametrize("task", TASKS)
def test_rows_are_learned_by_heart(task, tmp_path, plugins):
    config, key, exchange, chance, options, steps = TASKS[task]
    rows = plugins.task(task).example_rows()
    target = next(name for name, column in plugins.task(task).columns.items() if column.target)
    assert len(rows) >= 8 and len({str(row[target]) for row in rows}) >= 3
    folders = []
    for name, taught in (("true", rows), ("exchanged", exchange(rows))):
        model = topwork.build(task, {"config": config}, rows=rows, plugins=plugins, **options)
        model.train(taught, steps=steps, batch_size=len(rows), learning_rate=3e-3, checkpoint_every="never")
        folders.append(str(model.save(tmp_path / name)))
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    told = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "rows.json"), key, *folders],
        capture_output=True,
        text=True,
        check=True,
    )
    learned, exchanged = json.loads(told.stdout.splitlines()[-1])
    assert learned == 1
    assert exchanged <= chance + 1e-9
