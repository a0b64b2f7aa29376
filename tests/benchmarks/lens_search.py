"""A mask search to nine tenths of the accuracy: topwork's, beside the loop of run_bertology on transformers 4.

    python tests/benchmarks/lens_search.py --rows 64

Both search on the same small trained BERT and the same rows of varied length. The loop pads every row to 128 tokens, in
batches of 8 (its default of 1 is slower), and scores anew at every step, a tenth of the attention heads at a time.
Printed: CPU seconds, ratios, and the size of the masks and their accuracy on other rows.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from bertology_v4 import Reference
from lens_rows import bert, by_length, losses, sentences, write

from topwork import Batch, accelerated
from topwork_lens.flops import count_flops
from topwork_lens.look import Look
from topwork_lens.schedule.output_cache import CachedMeasure
from topwork_lens.schedule.schedule import Limits, Schedule
from topwork_lens.scoring.selection import Choice

#: few words, so that the task is learned in minutes
WORDS = 30


def accuracy(model: Any, many: list[Batch]) -> float:
    """Of the model as it is now, at the speed of topwork's stage `evaluate`."""
    right = total = 0
    with torch.no_grad(), accelerated(torch.device("cpu")):
        for one in many:
            inputs = {key: value for key, value in one.inputs.items() if key != "labels"}
            right += int((model(**inputs).logits.argmax(-1) == one.inputs["labels"]).sum())
            total += len(one)
    return right / total


def trained(layers: int, heads: int, width: int, steps: int) -> Any:
    """A BERT that knows the task."""
    model = bert(layers, heads, width, initializer_range=0.05)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    for step in range(steps):
        for one in by_length(sentences(32, 1000 + step, WORDS), 4096):
            losses(model, one).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.eval()


def search(model: Any, many: list[Batch], threshold: float, **options: Any) -> dict[str, list[int]]:
    """topwork's search, as its stage `prune_schedule` does it."""
    look = Look(model)
    layers = look.layers

    def measured(masks: dict[str, list[int]]) -> float:
        with look.mask_heads(masks):
            return accuracy(model, many)

    def score(masks: dict[str, list[int]]) -> Any:
        with look.mask_heads(masks):
            return look.importance(many, row_losses=losses)

    total = sum(layer.heads for layer in layers)
    flops = count_flops(model, layers, lambda: accuracy(model, many[:1]))
    bisect = options.pop("bisect", False)
    both = CachedMeasure(model, measured, score, options.get("iterative", False))
    schedule = Schedule(
        layers,
        Choice(at_least=0),
        max(1, total // 10),
        Limits(metric=threshold),
        flops,
        both.measure,
        both.score,
        **options,
    )
    return (schedule.bisect() if bisect else schedule.run()).removed


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds, and what came out."""
    start = time.process_time()
    found = function()
    return time.process_time() - start, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 64), ("layers", 6), ("heads", 8), ("width", 256), ("steps", 150)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    model = trained(options.layers, options.heads, options.width, options.steps)
    rows = sentences(options.rows, 1, WORDS)
    many, other = list(by_length(rows)), list(by_length(sentences(400, 2, WORDS), 2048))
    print(f"accuracy {accuracy(model, many):.3f}, on other rows {accuracy(model, other):.3f}")
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), model, rows)
        with Reference(Path(folder)) as reference:
            reference.ask("importance", rows=1)  # warm
            answer = reference.ask("search", size=8)
    paths = [layer.path for layer in Look(model).layers]
    mask = {paths[int(number)]: gone for number, gone in answer["gone"].items()}
    ways: dict[str, tuple[Callable[[], Any], float]] = {
        "the same algorithm": (lambda: search(model, many, 0.9, iterative=True), 5),
        "scored once": (lambda: search(model, many, 0.9), 8),
        "scored once, bisection": (lambda: search(model, many, 0.9, bisect=True), 8),
    }
    base = answer["seconds"]
    found = {"run_bertology's loop": (base, mask), **{name: timed(way) for name, (way, _) in ways.items()}}
    for name, (spent, masks) in found.items():
        with Look(model).mask_heads(masks):
            quality = accuracy(model, other)
        wanted = (
            f", at least {ways[name][1]} {'ok' if base / spent >= ways[name][1] else 'MISSED'}" if name in ways else ""
        )
        removed = sum(map(len, masks.values()))
        print(f"{name}: {spent:.2f} s ({base / spent:.1f}x{wanted}), {removed} gone, {quality:.3f} on other rows")


if __name__ == "__main__":
    main()
