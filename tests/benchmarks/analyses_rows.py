"""Memory and time of every analysis, and of every kind of capture, by the number of rows.

`python tests/benchmarks/analyses_rows.py [NAME ...] [--rows 1000 10000]`. Each name (a stage, or `capture.KIND`) runs
in processes of its own, one for each number of rows; a line says what they took, and the largest resident memory while
rows were read: it is the same for ten times as many rows where rows stream. Results keep a number for each row where
intervals are asked for, and rows themselves lie in memory as they do in a run: both are counted.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

CONFIG = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 32,
}
#: stage that reads a residual stream, which only networks that normalise before their blocks have -> its network
CONFIGS = {"direct_attribution": CONFIG | {"model_type": "modernbert"}}
WORDS = ["the", "red", "fox", "ran", "over", "green", "hill", "blue", "bird", "sat", "on", "a", "big", "old", "tree"]
SCALAR: dict[str, Any] = {"draws": 100, "top": 1}
#: stage -> options, the smallest ones: what grows with rows is the same
STAGES: dict[str, dict[str, Any]] = {
    "attention": {"overlays": 0},
    "head_importance": {},
    "head_ablation": {"tables": ["one_removed"]},
    "attention_patterns": {"compared": 2},
    "head_roles": {},
    "head_effects": {"draws": 100, "corpus_draws": 20, "tables": ["one_removed"]},
    "importance_over_training": {"train": {"steps": 2, "batch_size": 8}},
    "word_relations": {"draws": 10_000},
    "edge_probing": {"labels": ["label"], "seeds": 1, "epochs": 1, "projection": 8, "draws": 10, "control": False},
    "cat_probing": {"language": "dependencies", "types": None, "permutations": 1, "draws": 10},
    "relevance": {"steps": 1, "orders": 1, "draws": 10, "shown": 0, "randomise": False},
    "attribution_patching": SCALAR,
    "direct_attribution": {"draws": 100},
    "early_exit": {},
    "drift": {"permutations": 1, "draws": 10},
}
#: stage -> the option that says how many rows are read
LIMITS = {
    "head_ablation": "limit",
    "head_effects": "limit",
    "word_relations": "limit",
    "edge_probing": "limit",
    "cat_probing": "limit",
    "early_exit": "limit",
}
CAPTURES = ("entropy", "information", "distance", "mass", "argmax", "max", "mean", "weights", "quantised", "query")
CAPTURES += ("key", "value", "scores", "context", "attention_output", "head_output", "hidden", "hidden_states")
CAPTURES += ("embeddings", "final_norm", "head_input", "mlp_input", "mlp_activation", "mlp_output")
BATCH = 50


def megabytes() -> int:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 2**20


def rows_of(count: int) -> list[dict[str, Any]]:
    """Return sentences of random words with two labels and random trees."""
    drawn = random.Random(0)
    rows = []
    for index in range(count):
        words = drawn.choices(WORDS, k=drawn.randint(4, 8))
        heads = [0, *(drawn.randint(1, word) for word in range(1, len(words)))]
        tree = {"words": words, "heads": heads, "relations": ["dep"] * len(words)}
        rows.append({"text": " ".join(words), "label": ("yes", "no")[index % 2], **tree})
    return rows


def run_stage(name: str, rows: list[dict[str, Any]], work: Any, folder: Path) -> None:
    """Run a stage over all rows."""
    options = STAGES[name] | ({LIMITS.get(name, "rows"): len(rows)} if name != "importance_over_training" else {})
    if name in ("word_relations", "edge_probing", "cat_probing"):
        file = folder / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        source = {"path": str(file)}
        options |= {
            "word_relations": {"dependencies": source},
            "edge_probing": {"train": source, "evaluate": source, "evaluate_limit": len(rows)},
            "cat_probing": {"rows": source},
        }[name]
    if name == "importance_over_training":
        options["importance"] = {"rows": len(rows)}
    work.apply(name, {"train": rows, "calibrate": rows, "evaluate": rows}, **options)


def run_capture(kind: str, count: int, work: Any, folder: Path) -> None:
    """Capture from batches of all rows, one block a batch, and once more into a folder."""
    import torch

    import topwork

    look = topwork.look(work)
    options: dict[str, Any] = {"keys": "special"} if kind == "mass" else {}
    total = torch.zeros(())
    for start in range(0, count, BATCH):
        ids = torch.randint(5, 15, (BATCH, 12), generator=torch.Generator().manual_seed(start))
        ids[:, 0] = 2
        to = {"folder": folder / f"batch{start}"} if start % 1000 == 0 else {}
        with torch.no_grad(), look.capture(kind, **options, **to) as seen:
            work.model(input_ids=ids, attention_mask=torch.ones_like(ids))
        parts = (
            [tensor for states in seen.hidden_states().values() for tensor in states]
            if kind == "hidden_states"
            else [part for calls in seen.found[kind].values() for part in calls]
        )
        total += sum(part.float().nan_to_num(neginf=0).sum() for part in parts)


def measure(name: str, count: int) -> dict[str, Any]:
    """Return the time and the largest memory of one name, in this process."""
    import topwork

    rows = rows_of(count)
    work = topwork.build("text-classification", {"config": CONFIGS.get(name, CONFIG)}, rows=rows[:200])
    work.model.eval()
    begun, done, largest = time.process_time(), threading.Event(), [megabytes()]

    def watch() -> None:
        while not done.wait(0.05):
            largest[0] = max(largest[0], megabytes())

    threading.Thread(target=watch, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        if name.startswith("capture."):
            run_capture(name.removeprefix("capture."), count, work, Path(folder))
        else:
            run_stage(name, rows, work, Path(folder))
    done.set()
    return {"mb": largest[0], "seconds": round(time.process_time() - begun, 1)}


def main() -> None:
    """Measure each name at each number of rows, and print a line for it."""
    names = [*STAGES, *(f"capture.{kind}" for kind in CAPTURES)]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="by default all of: " + " ".join(names))
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--inside", action="store_true", help="measure one name in this process, and print JSON")
    given = parser.parse_args()
    if unknown := set(given.names) - set(names):
        parser.error(f"not known: {', '.join(sorted(unknown))}")
    if given.inside:
        print(json.dumps(measure(given.names[0], given.rows[0])))
        return
    for name in given.names or names:
        parts = []
        for count in given.rows:
            command = [sys.executable, __file__, name, "--rows", str(count), "--inside"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                parts.append(f"{count} rows failed: {done.stderr.strip().splitlines()[-1]}")
                continue
            figures = json.loads(done.stdout.splitlines()[-1])
            parts.append(f"{count:,} rows {figures['mb']} MB, {figures['seconds']} s of CPU")
        print(f"{name:28} {'; '.join(parts)}", flush=True)


if __name__ == "__main__":
    main()
