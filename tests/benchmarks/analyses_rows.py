"""Memory and time of analyses by the number of rows: `python tests/benchmarks/analyses_rows.py STAGE ROWS`.

Prints the resident memory while the stage runs, every 15 seconds: it stays where it is at the first rows.
"""

from __future__ import annotations

import argparse
import random
import threading
import time
from pathlib import Path
from typing import Any

import topwork

CONFIG = {
    "model_type": "bert",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
WORDS = ["the", "red", "fox", "ran", "over", "green", "hill", "blue", "bird", "sat", "on", "a", "big", "old", "tree"]
OPTIONS: dict[str, dict[str, Any]] = {
    "head_effects": {"draws": 200, "corpus_draws": 20, "tables": ["one_removed"]},
    "attention_patterns": {"compared": 2},
}


def megabytes() -> int:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 2**20


def rows_of(count: int) -> list[dict[str, str]]:
    """Return texts of random words with two labels."""
    drawn = random.Random(0)
    return [
        {"text": " ".join(drawn.choices(WORDS, k=drawn.randint(4, 12))), "label": ("yes", "no")[index % 2]}
        for index in range(count)
    ]


def main() -> None:
    """Run a stage over the rows, and print its memory and its time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=list(OPTIONS))
    parser.add_argument("rows", type=int, nargs="?", default=10_000)
    given = parser.parse_args()
    rows = rows_of(given.rows)
    work = topwork.build("text-classification", {"config": CONFIG}, rows=rows[:200])
    work.model.eval()
    options = OPTIONS[given.stage] | ({"rows": given.rows} if given.stage == "attention_patterns" else {})
    begun, done = time.process_time(), threading.Event()

    def watch() -> None:
        while not done.wait(15):
            print(f"{time.process_time() - begun:6.0f} s of CPU, {megabytes()} MB", flush=True)

    threading.Thread(target=watch, daemon=True).start()
    result = work.apply(given.stage, {"evaluate": rows}, **options)
    done.set()
    seconds = time.process_time() - begun
    print(f"{given.stage}: {result['rows']} rows, {seconds:.0f} s of CPU, {megabytes()} MB at the end")


if __name__ == "__main__":
    main()
