"""Compression against its goals, in one run: accuracy, counted operations, milliseconds, random masks, precision.

    python tests/benchmarks/compress.py [--models FOLDER] [--parts curve encoders tasks wall precision] [--recipes NAME]
                                        [--json FILE]

Models are trained as the shipped recipes say, or taken from the folder that an earlier run left. Calibrated on training
rows, measured on held-out rows that nothing was fitted to. Milliseconds are medians of interleaved runs on one thread.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

PARTS = ("curve", "encoders", "wall", "precision", "tasks")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="where trained models are kept; by default they are dropped")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--json", type=Path, help="file for the points of the part `curve`")
    parser.add_argument("--recipes", nargs="+", help="of the part `tasks`; by default all thirteen")
    arguments = parser.parse_args()
    import compress_goals as goals
    import compress_precision
    import torch
    import transformers
    from compress_models import RECIPES, Trained

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as scratch:
        trained = Trained(arguments.models or Path(scratch) / "models")
        print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        for part in arguments.parts:
            print(f"\n## {part}\n", flush=True)
            if part == "precision":
                compress_precision.precision(trained, Path(scratch))
            elif part == "curve":
                goals.curve(trained, arguments.json)
            elif part == "tasks":
                goals.tasks(trained, arguments.recipes or RECIPES)
            else:
                getattr(goals, part)(trained)


if __name__ == "__main__":
    main()
