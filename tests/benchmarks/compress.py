"""Compression side by side: accuracy, counted operations and milliseconds, for what is removed and how it is chosen.

    python tests/benchmarks/compress.py [--folder MODEL] [--budgets 0.7 0.5 0.4 0.3]

Real weights (MiniLM) on words that people rated as good or bad, trained as in `recipes/compress.yaml` unless a saved
model is given; calibrated on 512 training rows, measured on held-out words that nothing was fitted to. Milliseconds are
medians of interleaved runs of 8 texts of 128 tokens on one thread.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

import topwork
from topwork.data.loop import Settings, loss_batches
from topwork.process import Process
from topwork_compress.compression import Compression
from topwork_compress.measure import wall_times
from topwork_compress.plan import Budget
from topwork_compress.plan import Settings as How
from topwork_compress.procedure import run_all
from topwork_lens.model_state import quiet

ROOT = Path(__file__).resolve().parents[2]
ROWS = 512


def trained(folder: Path) -> Any:
    """Train as the recipe does, and return the model."""
    recipe = yaml.safe_load((ROOT / "recipes" / "compress.yaml").read_text())
    recipe["stages"] = [recipe["stages"][0], "save"]
    return topwork.load(topwork.run(recipe, folder=folder / "run").model_folder)


def compressed(work: Any, batches: list[Any], budget: float, how: str) -> tuple[Any, dict[str, Any]]:
    """Compress a copy of a model; return it and what came out."""
    small = copy.copy(work)
    small.model = copy.deepcopy(work.model)
    start = time.process_time()
    settings = How(tune="none" if "untuned" in how else "lstsq", score="random" if how == "random" else "fisher")
    compression = Compression(small.model, batches, small.task.row_losses, work.plugins, settings)
    if how == "heads":
        chosen = compression.units.chosen
        compression.units.chosen = {path: unit for path, unit in chosen.items() if hasattr(unit, "heads")}
    result = run_all(compression, Budget(macs=budget))
    counts = result.plan.counts()
    record = {"left": result.after / result.before, "seconds": time.process_time() - start}
    return small, record | {kind: after for kind, (_, after) in counts.items()}


def milliseconds(works: list[Any]) -> list[float]:
    """Return the median time of each model on 8 texts of 128 tokens."""
    ids = torch.randint(1000, 20000, (8, 128), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)

    def run(model: Any) -> Any:
        with quiet(model):
            return model(input_ids=ids, attention_mask=mask)

    return [1000 * seconds for seconds in wall_times([lambda work=work: run(work.model) for work in works])]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a saved model; without it one is trained")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.7, 0.5, 0.4, 0.3])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        work = topwork.load(arguments.folder) if arguments.folder else trained(Path(scratch))
        plugins = work.plugins
        rows = plugins.load_rows(topwork.RowsOptions(path="sample:rated-words", split="train")).shuffle(seed=0)
        held = plugins.load_rows(topwork.RowsOptions(path="sample:rated-words", split="test"))
        batches = list(loss_batches(work.task, work.model, rows.select(range(ROWS)), Settings(), Process()))
        print(f"whole: accuracy {work.evaluate(held)['accuracy']:.4f}", flush=True)
        head = "choice", "macs left", "heads", "neurons", "accuracy", "ms", "faster", "limit", "cpu s"
        print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
        for budget in arguments.budgets:
            for how in ("heads", "heads + neurons", "heads + neurons, untuned", "random"):
                try:
                    small, record = compressed(work, batches, budget, how)
                except topwork.UsageError as error:
                    print(f"| {how} | {budget} | {error.cause} |" + " |" * 6, flush=True)
                    continue
                before, after = milliseconds([work, small])
                accuracy = small.evaluate(held)["accuracy"]
                cells = how, f"{record['left']:.3f}", record["heads"], record["neurons"], f"{accuracy:.4f}"
                cells = *cells, f"{after:.1f}", f"{before / after:.2f}", f"{1 / record['left']:.2f}"
                print("| " + " | ".join(map(str, (*cells, f"{record['seconds']:.1f}"))) + " |", flush=True)


if __name__ == "__main__":
    main()
