"""Accumulated batches are one larger batch: for every task, however many targets a row has."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from tiny_bases import BART, BASES, VIT
from undisturbed import undisturbed, weights_of

import topwork

STEP = {"steps": 1, "optimizer": "sgd", "learning_rate": 0.1, "schedule": "constant", "clip": 0, "epochs": 1}
#: name of the case -> task, base, options
CASES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    **{task: (task, base, {}) for task, base in BASES.items()},
    "text-generation": ("text-generation", BASES["text-generation"], {"packing": False}),
    "text-classification, weighted": (
        "text-classification",
        BASES["text-classification"],
        {"class_weights": "balanced", "label_smoothing": 0.2},
    ),
    "translation, smoothed": ("translation", BART, {"label_smoothing": 0.2}),
    "translation, prompts": ("translation", BASES["text-generation"], {}),
    "object-detection, generic": (
        "object-detection",
        VIT,
        {"detr_head": {"queries": 6, "width": 16, "feed_forward": 16, "attention_heads": 2, "decoder_layers": 2}},
    ),
    "image-segmentation, generic": ("image-segmentation", VIT, {}),
}


def rows_of(task: str, plugins: Any) -> list[Any]:
    """Four example rows with different numbers of targets."""
    rows = plugins.task(task).example_rows()
    picked = {"object-detection": (0, 1, 2, -1), "image-segmentation": (0, 1, 2, -1)}.get(task, (0, 1, 2, 3))
    rows = [dict(rows[index]) for index in picked]
    for times, row in zip((1, 3, 7, 10), rows):
        if task == "token-classification":
            row.update({name: value * times for name, value in row.items() if isinstance(value, list)})
        if task == "fill-mask":
            row.update(text=" ".join(["nine words make a text that has no mask"] * times), answer=None)
        if task == "text-generation":
            row.update({name: " ".join([value] * times) for name, value in row.items() if isinstance(value, str)})
        if task == "summarization":
            row.update(summary=" ".join([row["summary"]] * times))
        if task == "image-segmentation":
            mask = np.array(row["mask"])
            mask[:, : times * 2] = 255  # does not count
            row.update(mask=mask)
    return rows


@pytest.mark.parametrize("name", CASES)
def test_accumulated_batches_make_the_step_of_one_larger_batch(name, plugins):
    task, base, options = CASES[name]
    rows = rows_of(task, plugins)
    work = topwork.build(task, base, rows=plugins.task(task).example_rows(), plugins=plugins, **options)
    undisturbed(work.model)
    begin = weights_of(work.model)
    state = copy.deepcopy(work.model.state_dict())
    steps = {}
    items = len(work.task.encode(rows, "train", 0))
    for size in (items, 2, 1):
        work.model.load_state_dict(state)
        result = work.train(rows, batch_size=size, accumulate=-(-items // size), checkpoint_every="never", **STEP)
        assert result["steps"] == 1
        steps[size] = weights_of(work.model) - begin
    whole = steps.pop(items)
    assert float(whole.norm()) > 0
    for size, step in steps.items():
        assert float((step - whole).norm() / whole.norm()) < 1e-5, size
