"""How long importance takes, beside run_bertology's procedure on transformers 4 and beside its floor.

    python tests/benchmarks/lens_importance.py                      # BERT-base, 8 x 128 and 2 x 512; 64 sentences
    python tests/benchmarks/lens_importance.py --layers 4 --runs 3

The floor is a bare forward and a backward through the activations alone. All sides take turns; figures are medians of
CPU time, and the most that one pass allocates: topwork divides a batch that would keep too much, for rows are scored as
if each were alone. "End to end" scores rows of varied length: run_bertology pads all of
them to 128 tokens, in batches of 1 (its default) and 8; topwork sorts them by length. All runs on one thread.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from allocated import peak_bytes
from bertology_v4 import Reference
from lens_rows import batch, bert, by_length, losses, sentences, write

from topwork import Batch
from topwork_lens.look import Look
from topwork_lens.model_state import frozen

Work = Callable[[], Any]


def floor(model: Any, one: Batch) -> None:
    """Forward, and backward through the activations; no parameter gradients."""
    with frozen(model):
        embedded = model.bert.embeddings(input_ids=one.inputs["input_ids"]).detach().requires_grad_()
        inputs = {"inputs_embeds": embedded, "attention_mask": one.inputs["attention_mask"]}
        loss = torch.nn.functional.cross_entropy(model(**inputs).logits, one.inputs["labels"])
        torch.autograd.grad(loss, embedded)


def ours(model: Any, batches: list[Batch], bf16: bool = False) -> Any:
    """Importance by the public door."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return Look(model).importance(batches, row_losses=losses)


def spent(work: Work) -> float:
    """CPU seconds of one call; of the other process where that did the work."""
    start = time.process_time()
    answer = work()
    return answer["seconds"] if isinstance(answer, dict) else time.process_time() - start


def medians(sides: dict[str, Work], runs: int) -> dict[str, float]:
    """CPU seconds of each side; they take turns, the first round does not count."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for run in range(runs + 1):
        for name, work in sides.items():
            seconds = spent(work)
            if run:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def line(what: str, ratio: float, wanted: float, less: bool = False) -> None:
    """One figure beside what is wanted."""
    good = ratio <= wanted if less else ratio >= wanted
    print(f"  {what}: {ratio:.2f} ({'at most' if less else 'at least'} {wanted}) {'ok' if good else 'MISSED'}")


def one_batch(model: Any, reference: Reference, items: int, tokens: int, runs: int) -> None:
    """One padded batch of one shape."""
    single = [batch(sentences(items, 1), tokens)]

    def four(peak: bool = False) -> dict[str, Any]:
        return reference.ask("importance", rows=items, size=items, longest=tokens, peak=peak)

    # A second batch of the same shape: the first one is also checked for rows that influence each other.
    twice = [single[0], single[0]]
    sides: dict[str, Work] = {
        "floor": lambda: floor(model, single[0]),
        "topwork": lambda: ours(model, single),
        "topwork twice": lambda: ours(model, twice),
        "bf16": lambda: ours(model, single, True),
        "bf16 twice": lambda: ours(model, twice, True),
        "run_bertology": four,
    }
    found = medians(sides, runs)
    for name in ("topwork", "bf16"):
        found[f"{name}, each further batch"] = found[f"{name} twice"] - found[name]
    print(f"{items} x {tokens}: " + ", ".join(f"{name} {value:.3f} s" for name, value in found.items()))
    further = found["topwork, each further batch"]
    line("run_bertology / topwork", found["run_bertology"] / further, 1.45)
    line("run_bertology / topwork, one batch alone", found["run_bertology"] / found["topwork"], 1.45)
    line("topwork / floor", further / found["floor"], 1.05, less=True)
    line("run_bertology / topwork in bf16", found["run_bertology"] / found["bf16, each further batch"], 3.5)
    memory, theirs = peak_bytes(lambda: ours(model, single)), four(peak=True)["peak"]
    least = peak_bytes(lambda: floor(model, single[0]))
    print(f"  allocated at the peak: topwork {memory / 2**20:.0f} MiB, floor {least / 2**20:.0f} MiB, ", end="")
    print(f"run_bertology {theirs / 2**20:.0f} MiB beside its gradients of all parameters")
    line("topwork's memory / run_bertology's", memory / theirs, 0.42, less=True)


def end_to_end(model: Any, reference: Reference, count: int, runs: int) -> None:
    """Rows of varied length."""
    batches = list(by_length(sentences(count, 1)))
    sides: dict[str, Work] = {
        "topwork": lambda: ours(model, batches),
        "bf16": lambda: ours(model, batches, True),
        "batch 1": lambda: reference.ask("importance", rows=count, size=1),
        "batch 8": lambda: reference.ask("importance", rows=count, size=8),
    }
    found = medians(sides, runs)
    print(f"{count} rows of varied length: " + ", ".join(f"{name} {value:.2f} s" for name, value in found.items()))
    for side, wanted in (("topwork", (7, 5)), ("bf16", (12, 9))):
        for size, least in zip((1, 8), wanted, strict=True):
            line(f"run_bertology, batch {size} / {side}", found[f"batch {size}"] / found[side], least)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layers", 12), ("width", 768), ("runs", 5), ("rows", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    model = bert(options.layers, options.width // 64, options.width)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), model, sentences(options.rows, 1))
        with Reference(Path(folder)) as reference:
            for items, tokens in ((8, 128), (2, 512)):
                one_batch(model, reference, items, tokens, options.runs)
            end_to_end(model, reference, options.rows, max(1, options.runs // 2))


if __name__ == "__main__":
    main()
