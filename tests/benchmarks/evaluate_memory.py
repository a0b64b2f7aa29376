"""How much memory `evaluate` takes as the rows grow: 50 pictures and 500, each measured in a process of its own, beside
transformers' Trainer as it evaluates by default (it keeps every output and every target until the end).

    python tests/benchmarks/evaluate_memory.py
    python tests/benchmarks/evaluate_memory.py depth-estimation --counts 50 500

Asked: the peak of 500 pictures is at most 40 MB above that of 50; the state of the metric is at most 4 kB a row. The
pictures lie in files and are opened as they are needed. What is printed is the highest resident memory of the process
(VmHWM), above what it had before it evaluated.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

MOST_MEGABYTES, MOST_BYTES = 40, 4096
LABELS = 40
VIT = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 384, "patch_size": 16}
MODELS: dict[str, dict[str, Any]] = {
    "image-segmentation": {
        "model_type": "segformer",
        "hidden_sizes": [16, 32, 64, 96],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 4, 4],
        "decoder_hidden_size": 64,
    },
    "object-detection": {
        **VIT,
        "model_type": "yolos",
        "image_size": [256, 256],
        "num_hidden_layers": 2,
        "num_detection_tokens": 100,
    },
    "depth-estimation": {
        **VIT,
        "model_type": "dpt",
        "image_size": 224,
        "num_hidden_layers": 4,
        "backbone_out_indices": [0, 1, 2, 3],
        "neck_hidden_sizes": [24, 48, 96, 96],
        "fusion_hidden_size": 32,
        "is_hybrid": False,
    },
}
OPTIONS: dict[str, dict[str, Any]] = {"image-segmentation": {"image_size": 256, "kind": "semantic"}}


# ---------------------------------------------------------------- rows in files


def draw(folder: Path, count: int) -> None:
    """`count` pictures with a mask of 40 labels, and a map of depths in millimetres."""
    import numpy
    from PIL import Image
    from speed_rows import picture

    for number in range(count):
        image = picture(number, (300, 480))
        image.save(folder / f"{number}.jpg", quality=85)
        blocks = numpy.random.default_rng(number).integers(0, LABELS, (6, 8), dtype=numpy.uint8)
        mask = Image.fromarray(blocks).resize(image.size, Image.Resampling.NEAREST)
        mask.save(folder / f"{number}-mask.png")
        Image.fromarray(numpy.asarray(mask, dtype=numpy.uint16) * 100 + 1000).save(folder / f"{number}-depth.png")


def rows_of(task: str, folder: Path, count: int) -> Any:
    """A data set of files; nothing is opened here."""
    import datasets

    columns: dict[str, Any] = {"image": [str(folder / f"{number}.jpg") for number in range(count)]}
    if task == "object-detection":
        boxes = [[10.0 + 5 * place, 20.0, 40.0, 60.0] for place in range(7)]
        columns["objects"] = [
            {"bbox": boxes, "category": [(number + place) % LABELS for place in range(7)]} for number in range(count)
        ]
    else:
        name = "mask" if task == "image-segmentation" else "depth"
        columns[name] = [str(folder / f"{number}-{name}.png") for number in range(count)]
    rows = datasets.Dataset.from_dict(columns)
    for name in set(columns) - {"objects"}:
        rows = rows.cast_column(name, datasets.Image())
    return rows


# ---------------------------------------------------------------- one measurement, in a process of its own


def highest() -> float:
    """MB"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def by_topwork(work: Any, rows: Any) -> int:
    """Evaluates, and answers the bytes of the metric's state."""
    metrics: list[Any] = []
    fresh = work.task.metric
    work.task.metric = lambda: (metrics.append(fresh()), metrics[-1])[1]
    work.evaluate(rows)
    return max(len(pickle.dumps(metric)) for metric in metrics) - len(pickle.dumps(fresh()))


def by_trainer(work: Any, rows: Any, folder: str) -> int:
    """Trainer as it is by default: it collects all outputs and targets, then calls `compute_metrics`. Answers their
    bytes."""
    import numpy
    import torch
    from transformers import Trainer, TrainingArguments

    kept = []

    def size(value: Any) -> int:
        if isinstance(value, list | tuple):
            return sum(map(size, value))
        if isinstance(value, dict):
            return sum(map(size, value.values()))
        return numpy.asarray(value).nbytes

    def count(found: Any) -> dict[str, float]:
        kept.append(size(found.predictions) + size(found.label_ids))
        return {}

    class Encoded(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, number: int) -> Any:
            return work.task.encode([rows[number]], "loss", 0)[0]

    arguments = TrainingArguments(
        output_dir=folder,
        per_device_eval_batch_size=8,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        remove_unused_columns=False,
        label_names=["labels"],
        eval_do_concat_batches=work.task.name != "object-detection",  # its targets cannot be joined
    )
    trainer = Trainer(
        model=with_loss(work.model) if work.task.name == "depth-estimation" else work.model,
        args=arguments,
        data_collator=lambda items: work.task.collate(items, "loss").inputs,
        compute_metrics=count,
    )
    trainer.evaluate(Encoded())
    return kept[0]


def with_loss(model: Any) -> Any:
    """DPT has no loss of its own, and Trainer wants one."""
    import torch

    class WithLoss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, labels: Any, **inputs: Any) -> dict[str, Any]:
            found = self.model(**inputs).predicted_depth
            return {"loss": found.mean(), "predicted_depth": found}

    return WithLoss()


def measure(task: str, who: str, folder: Path, count: int) -> dict[str, float]:
    import datasets
    import torch
    import transformers

    import topwork
    from topwork import load_plugins
    from topwork.data.columns import canonical

    torch.set_num_threads(1)
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    names = [f"label {number}" for number in range(LABELS)]
    options = dict(OPTIONS.get(task, {}))
    if task == "depth-estimation":
        options["depth_scale"] = 1000.0
    else:
        options["label_names"] = names
    work = topwork.build(task, {"config": MODELS[task]}, rows=rows_of(task, folder, 20), **options)
    rows = rows_of(task, folder, count)
    work.predict([{"image": row["image"]} for row in rows.select(range(8))])  # warms up
    before = highest()
    if who == "topwork":
        state = by_topwork(work, rows)
    else:
        named = canonical(rows, load_plugins().tasks[task], {}, targets=True, location="rows")
        with tempfile.TemporaryDirectory() as temporary:
            state = by_trainer(work, named, temporary)
    return {"peak": highest() - before, "state": state / count}


# ---------------------------------------------------------------- all of them


def alone(task: str, who: str, folder: Path, count: int) -> dict[str, float]:
    """The measurement in a fresh process."""
    command = [sys.executable, __file__, "--measure", task, who, str(folder), str(count)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{task}, {who}, {count}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(task: str, folder: Path, counts: list[int]) -> bool:
    fine = True
    for who in ("topwork", "Trainer"):
        found = {count: alone(task, who, folder, count) for count in counts}
        few, many = found[counts[0]], found[counts[-1]]
        grown = many["peak"] - few["peak"]
        peaks = "; ".join(f"{count} pictures {entry['peak']:.0f} MB" for count, entry in found.items())
        print(f"{task}, {who}: {peaks}; grown by {grown:.0f} MB", end="")
        if who == "topwork":
            held = grown <= MOST_MEGABYTES and many["state"] <= MOST_BYTES
            fine = fine and held
            print(f" (asked {MOST_MEGABYTES}); the metric keeps {many['state']:.0f} bytes a row", end="")
            print(f" (asked {MOST_BYTES}): {'OK' if held else 'MISSED'}", flush=True)
        else:
            print(f"; it keeps {many['state'] / 1024:.0f} kB a row", flush=True)
    return fine


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        task, who, folder, count = sys.argv[2:]
        print(json.dumps(measure(task, who, Path(folder), int(count))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", help=f"of {', '.join(MODELS)}; by default all")
    parser.add_argument("--counts", type=int, nargs=2, default=[50, 500])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder), max(options.counts))
        missed = [task for task in options.tasks or MODELS if not compare(task, Path(folder), options.counts)]
    print("missed: " + ", ".join(missed) if missed else "all as asked")


if __name__ == "__main__":
    main()
