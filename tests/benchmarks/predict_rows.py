"""Rows per second and largest memory of `topwork predict` on csv files of growing length: memory must stay flat.

`python tests/benchmarks/predict_rows.py [rows ...]`, by default 10,000 and 100,000. Each length runs in a process of
its own on a small text classifier that is made from a config, so reading, batching and writing weigh as much as they
can beside the model.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TINY = {
    "config": {
        "model_type": "bert",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 64,
    }
}
WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]


def write_rows(file: Path, count: int) -> None:
    """Write a csv of texts of 3 to 20 words."""
    draw = random.Random(0)
    with file.open("w", encoding="utf-8") as sink:
        sink.write("text\n")
        for _ in range(count):
            sink.write(" ".join(draw.choices(WORDS, k=draw.randint(3, 20))) + "\n")


def save_model(folder: Path) -> None:
    """Write the folder of a classifier that was not trained."""
    import topwork

    rows = [{"text": " ".join(WORDS[: index + 3]), "label": "ab"[index % 2]} for index in range(8)]
    topwork.build("text-classification", TINY, rows=rows).save(folder)


def measure(folder: Path, count: int) -> dict[str, float]:
    """Return what `topwork predict` of a file with this many rows took, in a process of its own."""
    file, predictions = folder / f"{count}.csv", folder / f"{count}.jsonl"
    write_rows(file, count)
    command = [
        sys.executable,
        "-m",
        "topwork",
        "predict",
        str(folder / "model"),
        str(file),
        "--output",
        str(predictions),
    ]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = status
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(command)} failed with status {status}")
    with predictions.open(encoding="utf-8") as lines:
        assert sum(1 for _ in lines) == count
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return {
        "rows": count,
        "seconds": round(seconds, 1),
        "rows_per_second": round(count / seconds),
        "peak_mb": round(used.ru_maxrss / unit),
    }


def main(counts: list[int]) -> None:
    """Print a line of JSON for each length."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder / "model")
        for count in counts:
            print(json.dumps(measure(folder, count)), flush=True)


if __name__ == "__main__":
    main([int(text) for text in sys.argv[1:]] or [10_000, 100_000])
