"""Compression against its goals, in one run: accuracy, counted operations, milliseconds, random masks, precision.

    python tests/benchmarks/compress.py [--models FOLDER] [--only-trained] [--recipes NAME ...]
                                        [--parts architectures encoders wall precision distilled tasks]

Models are trained as the shipped recipes say, or taken from the folder that an earlier run left. Calibrated on training
rows, measured on held-out rows that nothing was fitted to. Milliseconds are the fastest of interleaved runs.
The last table has every goal beside its figure, those of parts that were not run too. The curve of accuracy against
milliseconds is in the run of `recipes/compress.yaml` with the option `curve` of its stage.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

PARTS = ("architectures", "encoders", "wall", "precision", "distilled", "tasks")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="where trained models are kept; by default they are dropped")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--only-trained", action="store_true", help="leave out models that --models does not have")
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
        trained = Trained(arguments.models or Path(scratch) / "models", train=not arguments.only_trained)
        print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        parts: dict[str, Callable[[], list[goals.Goal]]] = {
            "architectures": goals.architectures,
            "encoders": lambda: goals.encoders(trained),
            "wall": lambda: goals.wall(trained),
            "precision": lambda: compress_precision.precision(trained, Path(scratch)),
            "distilled": lambda: goals.distilled(trained),
            "tasks": lambda: goals.tasks(trained, arguments.recipes or RECIPES),
        }
        results: list[goals.Goal] = []
        for part, measure in parts.items():
            if part in arguments.parts:
                print(f"\n## {part}\n", flush=True)
                results += measure()
            else:
                results.append(goals.Goal(f"part `{part}`", f"--parts {part}"))
    print("\n## goals\n")
    goals.table("what", "goal", "figure of this run", "outcome")
    for goal in results:
        goals.line(goal.name, goal.wanted, goal.figure, goal.outcome())


if __name__ == "__main__":
    main()
