"""What is held in memory: rows are encoded as they are needed, loading copies neither rows nor weights, and the state
of a metric is small."""

from __future__ import annotations

import copy
import itertools
import json
import os
import pickle
import subprocess
import sys

import datasets
import numpy
import pyarrow
import pytest
import torch
from PIL import Image
from tiny_bases import BASES

import topwork
from topwork import RowsOptions, load_plugins
from topwork.data import loop
from topwork.data.roles import Roles
from topwork_tasks.image_classification.task import ImageClassification

PLUGINS = load_plugins()


def larger(value):
    """Pictures and maps ten times as large: whoever keeps one is found out."""
    if isinstance(value, Image.Image):
        return value.resize((10 * value.width, 10 * value.height), Image.Resampling.NEAREST)
    if isinstance(value, numpy.ndarray) and value.ndim == 2:
        return numpy.kron(value, numpy.ones((10, 10), value.dtype))
    return value


@pytest.mark.parametrize("name", sorted(PLUGINS.tasks))
def test_the_state_of_a_metric_is_at_most_4_kb_a_row(name):
    rows = [{key: larger(value) for key, value in row.items()} for row in PLUGINS.tasks[name].example_rows()]
    work = topwork.build(name, copy.deepcopy(BASES[name]), rows=rows, plugins=PLUGINS)
    predictions = work.predict(rows)
    metric = work.task.metric()
    sizes = []
    for _ in range(3):
        for row, prediction in zip(rows, predictions):
            metric.update(row, pickle.loads(pickle.dumps(prediction)))
        sizes.append(len(pickle.dumps(metric)))
    assert (sizes[2] - sizes[1]) / len(rows) <= 4096


def test_pictures_are_opened_as_they_are_needed(tmp_path, monkeypatch):
    """Neither naming the columns, nor knowing what the items cost, nor a first answer opens all of them."""
    for number in range(60):
        Image.new("RGB", (32, 32), (4 * number, 0, 0)).save(tmp_path / f"{number}.png")
    columns = {"image": [str(tmp_path / f"{number}.png") for number in range(60)], "label": ["a", "b"] * 30}
    rows = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    work = topwork.build("image-classification", copy.deepcopy(BASES["image-classification"]), rows=rows.select([0, 1]))
    opened = []
    real = ImageClassification.encode

    def watched(task, rows, mode, seed):
        opened.extend(rows)
        return real(task, rows, mode, seed)

    monkeypatch.setattr(ImageClassification, "encode", watched)
    found = work.predictions(rows, ahead=8)
    next(iter(found))
    assert len(opened) == 8
    opened.clear()
    work.train(rows, steps=2, batch_size=4, checkpoint_every="never")
    assert 8 <= len(opened) <= 12  # accelerate fetches one batch ahead


def test_loading_rows_does_not_copy_them(tmp_path):
    """Rows of a file stay in the cache file that `datasets` maps into memory, with their fingerprint, also when columns
    are renamed and roles are cut; rows in memory are the same objects."""
    file = tmp_path / "rows.jsonl"
    lines = (json.dumps({"said": f"{number} " * 400, "kind": "ab"[number % 2], "more": 1}) for number in range(5000))
    file.write_text("\n".join(lines))
    assert file.stat().st_size > 8_000_000
    options = topwork.DataOptions(
        train=RowsOptions(path=str(file)), columns={"text": "said", "label": "kind"}, evaluate={"cut": 0.2}
    )
    before = pyarrow.total_allocated_bytes()
    roles = Roles(PLUGINS.tasks["text-classification"], PLUGINS, options, seed=3)
    train, held = roles("train"), roles("evaluate")
    assert (len(train), len(held), train.column_names) == (4000, 1000, ["text", "label"])
    assert train.rows.cache_files and pyarrow.total_allocated_bytes() - before < 1_000_000
    again = Roles(PLUGINS.tasks["text-classification"], PLUGINS, options, seed=3)
    assert again("train").rows._fingerprint == train.rows._fingerprint

    given = [{"text": "a" * 1000, "label": "x"}, {"text": "b" * 1000, "label": "y"}]
    roles = Roles(PLUGINS.tasks["text-classification"], PLUGINS, given={"train": given})
    assert all(mine["text"] is theirs["text"] for mine, theirs in zip(roles("train"), given))


#: of a process of its own: one that ran other tests takes memory back from them while it loads, or does not
LOADING = """
import gc, sys
from pathlib import Path
import topwork

def megabytes(kind):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1]) / 1024

topwork.load(sys.argv[1])  # what is imported on the way is not counted
gc.collect()
Path("/proc/self/clear_refs").write_text("5")  # the highest is measured anew from here
before = megabytes("VmRSS")
loaded = topwork.load(sys.argv[1])
print(sum(parameter.nbytes for parameter in loaded.model.parameters()) / 2**20, megabytes("VmHWM") - before)
"""


@pytest.mark.parametrize("pruned", [False, True])
def test_loading_a_model_takes_its_weights_once(tmp_path, pruned):
    """Measured as the highest resident memory while loading, files that are mapped included; 63 MB of weights."""
    widths = {"hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 2048}
    config = {"model_type": "bert", "num_hidden_layers": 5, **widths}
    rows = [{"text": "one", "label": "a"}, {"text": "two", "label": "b"}]
    work = topwork.build("text-classification", {"config": config}, rows=rows)
    if pruned:  # then topwork reads the weights, and not transformers
        topwork.prune_heads(work.model, {0: [1]})
    size = sum(parameter.nbytes for parameter in work.model.parameters()) / 2**20
    work.save(tmp_path)
    # large pieces go back to the system at once: else one time in six the allocator keeps 40 MB that nothing uses
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", LOADING, str(tmp_path)]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    loaded, highest = map(float, shown.stdout.split())
    assert size > 60 and loaded == size and highest < 1.5 * size


def test_inputs_and_parts_are_dropped_while_rows_are_given_out(monkeypatch):
    """Dense predictions of a bucket do not wait for one another: rows are given out batch by batch."""
    rows = ImageClassification.example_rows()
    work = topwork.build("image-classification", copy.deepcopy(BASES["image-classification"]), rows=rows)
    monkeypatch.setitem(loop.BUCKET_BYTES, "cpu", 2**22)
    big = 2**19  # bytes of a part: two make a batch of rows that are given out
    predicted = []

    def predict(model, batch):
        predicted.extend(item.row for item in batch.items)
        return [torch.zeros(big // 4) for _ in batch.items]

    monkeypatch.setattr(work.task, "predict", predict)
    monkeypatch.setattr(work.task, "merge", lambda row, parts: parts[0].numel())
    many = list(itertools.islice(itertools.cycle([{"image": row["image"]} for row in rows]), 30))
    waiting = [len(predicted) - number for number, _, _ in work.predictions(many, items=1)]
    assert predicted == list(range(30)) and max(waiting) <= 3
