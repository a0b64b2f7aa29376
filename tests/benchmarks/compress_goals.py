"""The parts of the benchmark of compression; each prints a table and says of each goal whether it is reached."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from compress_models import ENCODERS, MINILM, RECIPES, Trained, copied, first

from topwork.data.loop import Settings, loss_batches
from topwork.process import Process
from topwork_compress.compression import Compression
from topwork_compress.measure import wall_times
from topwork_compress.plan import Budget
from topwork_compress.plan import Settings as How
from topwork_compress.procedure import run_all
from topwork_lens.model_state import quiet

#: rows that are calibrated on, rows that are measured, and seeds of the comparison with random masks
ROWS, MEASURED, SEEDS, MASKS = 512, 400, 5, 6
#: of a metric between 0 and 1; of others, relative
LOSS = 0.01
#: what is removed, and budgets that are tried: without neurons none below two thirds can be kept
CURVES = {
    "heads alone": (0.8, 0.7),
    "heads and neurons": (0.5, 0.4, 0.3, 0.25),
    "a whole layer first": (0.5, 0.3),
    "at random": (0.5, 0.3),
}
#: the share of the operations at which what does not shrink is seen
FLOOR = 0.05
#: batches of the wall times: rows x tokens
SIZES = ((1, 16), (2, 128), (8, 32), (8, 128), (16, 128))


def table(*head: str) -> None:
    """Print the head of a table."""
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head), flush=True)


def line(*cells: Any) -> None:
    """Print a line of a table."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def batches_of(work: Any, rows: Any) -> list[Any]:
    """Return batches with targets."""
    return list(loss_batches(work.task, work.model, rows, Settings(), Process()))


def compressed(work: Any, batches: list[Any], budget: float, how: str = "") -> tuple[Any, dict[str, Any]]:
    """Compress a copy of a model; return it and what came out.

    Args:
        work: the task with its model.
        batches: calibration rows.
        budget: the share of the operations that is left.
        how: words: "heads alone", "at random", "layer" (one whole layer first), "multiple" of 16.
    """
    small = copied(work)
    start = time.process_time()
    settings = How(
        score="random" if "random" in how else None,
        layers=int("layer" in how),
        multiple=16 if "multiple" in how else 1,
    )
    compression = Compression(small.model, batches, small.task.row_losses, work.plugins, settings)
    if how == "heads alone":
        chosen = compression.units.chosen
        compression.units.chosen = {path: unit for path, unit in chosen.items() if hasattr(unit, "heads")}
    result = run_all(compression, Budget(macs=budget))
    record = {"left": result.after / result.before, "seconds": time.process_time() - start}
    return small, record | {kind: after for kind, (_, after) in result.plan.counts().items()}


def times(models: Sequence[Any], rows: int, tokens: int, repeats: int = 9) -> list[float]:
    """Return the median seconds of each model on random tokens, in turn."""
    ids = torch.randint(5, 200, (rows, tokens), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)

    def run(model: Any) -> Any:
        with quiet(model):
            return model(input_ids=ids, attention_mask=mask)

    return wall_times([lambda model=model: run(model) for model in models], repeats)


# ---------------------------------------------------------------- what is removed, and how it is chosen


def curve(trained: Trained, file: Path | None = None) -> None:
    """Accuracy against milliseconds of MiniLM on words that people rated, by what is removed.

    Args:
        trained: models by name.
        file: is written with the points, for `tests/helpers/documents.py`.
    """
    work = trained.model(MINILM)
    rows, held = trained.rows(MINILM, work)
    batches = batches_of(work, first(rows, ROWS))
    accuracy = float(work.evaluate(held)["accuracy"])
    print(f"whole: accuracy {accuracy:.4f}", flush=True)
    table("choice", "macs left", "heads", "neurons", "accuracy", "ms", "faster", "limit", "cpu s")
    points: list[dict[str, Any]] = []
    for how, budgets in CURVES.items():
        for budget in budgets:
            small, record = compressed(work, batches, budget, how)
            before, after = times([work.model, small.model], 8, 128, repeats=5)
            # a busy machine slows both alike: milliseconds are those of the first measurement of the whole model
            whole = points[0]["whole_ms"] if points else round(1000 * before)
            point = {
                "choice": how,
                "left": round(record["left"], 3),
                "accuracy": float(small.evaluate(held)["accuracy"]),
            }
            point |= {"whole": accuracy, "whole_ms": whole, "ms": round(whole * after / before)}
            points.append(point)
            cells = point["left"], record["heads"], record["neurons"], f"{point['accuracy']:.4f}", point["ms"]
            line(how, *cells, f"{before / after:.2f}", f"{1 / record['left']:.2f}", f"{record['seconds']:.1f}")
            if file is not None:
                file.write_text(json.dumps(points, indent=1) + "\n")


# ---------------------------------------------------------------- text encoders


def encoders(trained: Trained, budget: float = 0.47) -> None:
    """Three text encoders: twice as fast at 128 tokens, with at most a point lost and 120 s of CPU time."""
    print("goal: 2.0 times on 8 x 128 tokens, at most .01 lost on held-out rows, at most 120 s of CPU time")
    table("encoder", "macs left", "before", "after", "faster", "of the limit", "cpu s", "goal")
    for name in (MINILM, *ENCODERS):
        work = trained.model(name)
        rows, held = trained.rows(name, work)
        held = first(held, MEASURED if name in ENCODERS else len(held))
        primary = work.task.metric().primary
        small, record = compressed(work, batches_of(work, first(rows, ROWS)), budget)
        before, after = work.evaluate(held)[primary], small.evaluate(held)[primary]
        slow, fast = times([work.model, small.model], 8, 128)
        reached = before - after <= LOSS and slow / fast >= 2 and record["seconds"] <= 120
        cells = f"{record['left']:.3f}", f"{primary} {before:.4f}", f"{after:.4f}", f"{slow / fast:.2f}"
        cells = *cells, f"{slow / fast * record['left']:.2f}", f"{record['seconds']:.1f}"
        line(name, *cells, "reached" if reached else "MISSED")


# ---------------------------------------------------------------- every task


def tasks(trained: Trained, names: Sequence[str] = RECIPES) -> None:
    """Every recipe's model at half of what can be removed; the curve where that loses more than a point."""
    print("goal: at most .01 (or 1 %) lost at half of the operations that can go; better than six random masks of the")
    print("same counts, by the loss of held-out rows, on at least 4 of 5 seeds")
    table("recipe", "can go", "left", "before", "after", "goal", "seeds better", "largest cut that keeps it", "cpu s")
    for name in names:
        start = time.process_time()
        work = trained.model(name)
        rows, held = trained.rows(name, work)
        primary, higher = work.task.metric().primary, work.task.metric().higher_is_better
        held = first(held, MEASURED if work.task.name.endswith("classification") else 120)
        before = float(work.evaluate(held)[primary])
        batches = batches_of(work, first(rows, 256))
        costs = whole_costs(work, batches)
        can_go = costs[0] / costs[1]
        values: dict[float, float] = {}
        for cut in (0.5, 0.4, 0.3, 0.2, 0.1):
            small, _ = compressed(work, batches, 1 - can_go * cut)
            values[cut] = float(small.evaluate(held)[primary])
            if kept(before, values[cut], higher):
                break
        last = min(values)
        keeps = f"{last}" if kept(before, values[last], higher) else "none"
        shown = ", ".join(f"{cut}: {value:.4f}" for cut, value in values.items())
        better = seeds_better(work, rows, held, 1 - can_go / 2)
        reached = "reached" if 0.5 in values and kept(before, values[0.5], higher) else "MISSED"
        cells = f"{can_go:.1%}", f"{1 - can_go / 2:.3f}", f"{primary} {before:.4f}", shown, reached
        line(name, *cells, f"{better} of {SEEDS}", keeps, f"{time.process_time() - start:.0f}")


def whole_costs(work: Any, batches: list[Any]) -> tuple[int, int]:
    """Return the operations that can go, and all."""
    compression = Compression(copied(work).model, batches, work.task.row_losses, work.plugins, How())
    costs = compression.costs(Budget(macs=0.5))
    return sum(costs.removable(compression.units).values()), costs.total


def kept(before: float, after: float, higher: bool) -> bool:
    """Return whether at most .01, or 1 %, is lost."""
    lost = before - after if higher else after - before
    return lost <= max(LOSS, LOSS * abs(before)) + 1e-9


def seeds_better(work: Any, rows: Any, held: Any, budget: float) -> int:
    """Return on how many seeds the chosen mask has a smaller loss than the mean of random ones of the same counts."""
    wins = 0
    measured = batches_of(work, first(held, 64))
    for seed in range(SEEDS):
        model = copied(work).model
        batches = batches_of(work, first(rows.shuffle(seed=seed + 1), 64))
        compression = Compression(model, batches, work.task.row_losses, work.plugins, How(seed=seed))
        plan = compression.plan(Budget(macs=budget))

        def loss(masks: Any, compression: Any = compression) -> float:
            with compression.masked(masks), quiet(compression.model), torch.no_grad():
                return float(torch.cat([work.task.row_losses(compression.model, batch) for batch in measured]).mean())

        random = [loss(compression.random(plan, SEEDS * seed + draw)) for draw in range(MASKS)]
        wins += loss(plan.removed) < statistics.mean(random)
    return wins


# ---------------------------------------------------------------- wall time


def wall(trained: Trained, budget: float = 0.5) -> None:
    """Measured times against the counted limit, by the size of the batch and by multiples of widths."""
    print("goal: at least .9 of the limit from 256 tokens a batch on; the floor is what nearly nothing is left of")
    work = trained.model(MINILM)
    rows, _ = trained.rows(MINILM, work)
    batches = batches_of(work, first(rows, ROWS))
    small, record = compressed(work, batches, budget)
    even, other = compressed(work, batches, budget, "multiple")
    least, rest = compressed(work, batches, FLOOR)
    head = "of the limit, multiple 1", "of the limit, multiple 16", f"ms at {rest['left']:.3f}"
    table("rows x tokens", "whole ms", "faster", *head, "goal")
    for count, tokens in SIZES:
        whole, one, sixteen, floor = times([work.model, small.model, even.model, least.model], count, tokens, 15)
        shares = whole / one * record["left"], whole / sixteen * other["left"]
        reached = "" if count * tokens < 256 else "reached" if max(shares) >= 0.9 else "MISSED"
        cells = f"{1000 * whole:.1f}", f"{whole / one:.2f}", *(f"{share:.2f}" for share in shares)
        line(f"{count} x {tokens}", *cells, f"{1000 * floor:.1f}", reached)
