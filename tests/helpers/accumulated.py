"""One step of training by batches of several sizes, for every task: in this process, or in several as a program.

`python accumulated.py FOLDER` trains every case with the batches of `SIZES` and writes the steps, and the losses of
three rows, a number that two processes cannot share out evenly; with `accelerate launch` the items are shared out over
the processes. Under FSDP each case is trained once, with several batches in its step.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
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


#: items in a batch of one process; None: all items in one batch
SIZES = (None, 2, 1)


def steps_of(name: str, plugins: Any, sizes: tuple[int | None, ...] = SIZES) -> dict[int | None, torch.Tensor]:
    """Return the step that each size of batches makes, the items of an epoch accumulated into one step."""
    from topwork.process import Process

    task, base, options = CASES[name]
    rows = rows_of(task, plugins)
    work = topwork.build(task, base, rows=plugins.task(task).example_rows(), plugins=plugins, **options)
    undisturbed(work.model)
    begin = weights_of(work.model)
    state = copy.deepcopy(work.model.state_dict())
    items = -(-len(work.task.encode(rows, "train", 0)) // Process().count)
    steps = {}
    for size in sizes:
        work.model.load_state_dict(state)
        chosen = {"batch_size": size or items, "accumulate": -(-items // (size or items)), "checkpoint_every": "never"}
        assert work.train(rows, **chosen, **STEP)["steps"] == 1
        steps[size] = weights_of(work.model) - begin
    return steps


def loss_of(name: str, plugins: Any) -> float:
    """Return the mean loss of three rows, each as if it were alone."""
    task, base, options = CASES[name]
    rows = plugins.task(task).example_rows()
    work = topwork.build(task, base, rows=rows, plugins=plugins, **options)
    return float(work.apply("evaluate", {"evaluate": rows[:3]}, loss=True)["metrics"]["loss"])


def main(folder: Path) -> None:
    from topwork.process import Process

    torch.set_num_threads(1)
    plugins = topwork.load_plugins()
    for name in CASES:
        if Process().sharding is None:
            known = {**steps_of(name, plugins), "loss": loss_of(name, plugins)}
        else:
            known = steps_of(name, plugins, (1,))
        if Process().main:
            torch.save(known, folder / f"{name}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
