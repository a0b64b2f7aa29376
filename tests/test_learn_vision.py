"""image-classification and object-detection learn rows by heart, measured after saving by a new process; the same rows
with exchanged targets are learned as well, and are at chance when the truth judges them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import topwork
from test_named_vision import BASES

MEASURE = """
import json, sys, topwork
found = []
for folder in sys.argv[2:]:
    work = topwork.load(folder)
    found.append(work.evaluate(work.task.example_rows())[sys.argv[1]])
print(json.dumps(found))
"""


def labels(rows):
    """Each label goes to rows of all three labels: a third of the rows keep theirs."""
    names = sorted({row["label"] for row in rows})
    places = {name: place for place, name in enumerate(names)}
    return [{**row, "label": names[(places[row["label"]] + n // 3) % len(names)]} for n, row in enumerate(rows)]


def objects(rows):
    """Every picture gets the objects of the one before it."""
    return [{**row, "objects": rows[n - 1]["objects"]} for n, row in enumerate(rows)]


# task: (family, key of the metric, exchanging, at least, chance, training)
TASKS = {
    "image-classification": ("ViT", "accuracy", labels, 1.0, 1 / 3, {"steps": 80, "learning_rate": 3e-3}),
    "object-detection": (
        "RT-DETR",
        "map50",
        objects,
        0.9,
        0.2,
        {"steps": 500, "learning_rate": 2e-3, "schedule": "cosine"},
    ),
}


@pytest.mark.learn
@pytest.mark.parametrize("task", TASKS)
def test_rows_are_learned_by_heart(task, tmp_path, plugins) -> None:
    family, key, exchange, least, chance, training = TASKS[task]
    rows = plugins.task(task).example_rows()
    target = next(name for name, column in plugins.task(task).columns.items() if column.target)
    assert len(rows) >= 8 and len({str(row[target]) for row in rows}) >= 3
    folders = []
    for name, taught in (("true", rows), ("exchanged", exchange(rows))):
        work = topwork.build(task, BASES[family], rows=rows, plugins=plugins)
        work.train(taught, batch_size=len(rows), checkpoint_every="never", **training)
        folders.append(str(work.save(tmp_path / name)))
    told = subprocess.run([sys.executable, "-c", MEASURE, key, *folders], capture_output=True, text=True, check=True)
    learned, exchanged = json.loads(told.stdout.splitlines()[-1])
    assert learned >= least
    assert exchanged <= chance + 1e-9
