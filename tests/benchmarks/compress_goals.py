"""The parts of the benchmark of compression; each prints a table and says of each goal whether it is reached."""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from compress_models import ENCODERS, MINILM, RECIPES, ROOT, Trained, copied, first

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
#: parts of what can go that are tried, and what is wanted of the first
CUTS, HALF = (0.5, 0.4, 0.3, 0.2, 0.1), "at most .01, or 1 %, lost"
#: the share of the operations at which what does not shrink is seen
FLOOR = 0.05
TEACHER = "3 times, at most .01 lost"
ENCODER = "2.0 times, at most .01 lost, 120 s of CPU time, no training"
#: batches of the wall times: rows x tokens
SIZES = ((1, 16), (2, 128), (8, 32), (8, 128), (16, 128))


@dataclass
class Goal:
    """One goal, and the figure of this run.

    Args:
        name: what is measured.
        wanted: the goal.
        figure: what was measured; "" for what was not run.
        reached: whether the figure reaches the goal.
    """

    name: str
    wanted: str
    figure: str = ""
    reached: bool = False

    def outcome(self) -> str:
        """Return "reached", "MISSED" or "not run"."""
        return word(self.reached) if self.figure else "not run"


def word(reached: bool) -> str:
    """Return "reached" or "MISSED"."""
    return "reached" if reached else "MISSED"


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
    """Return the fastest seconds of each model on random tokens, in turn."""
    ids = torch.randint(5, 200, (rows, tokens), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)

    def run(model: Any) -> Any:
        with quiet(model):
            return model(input_ids=ids, attention_mask=mask)

    return wall_times([lambda model=model: run(model) for model in models], repeats)


# ---------------------------------------------------------------- text encoders


def encoders(trained: Trained, budget: float = 0.47) -> list[Goal]:
    """Three text encoders: twice as fast at 128 tokens, with at most a point lost and 120 s of CPU time."""
    print("goal: 2.0 times on 8 x 128 tokens, at most .01 lost on held-out rows, at most 120 s of CPU time")
    table("encoder", "macs left", "before", "after", "faster", "of the limit", "cpu s", "goal")
    goals = []
    for name in (MINILM, *ENCODERS):
        if not trained.has(name):
            goals.append(Goal(f"text encoder {name}, 8 x 128", ENCODER))
            continue
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
        line(name, *cells, word(reached))
        figure = f"{slow / fast:.2f} times, {primary} {before:.4f} -> {after:.4f}, {record['seconds']:.0f} s"
        goals.append(Goal(f"text encoder {name}, 8 x 128", ENCODER, figure, reached))
    return goals


# ---------------------------------------------------------------- every task


def tasks(trained: Trained, names: Sequence[str] = RECIPES) -> list[Goal]:
    """Every recipe's model at half of what can be removed; a smaller part where that loses too much."""
    print("goal: at most .01 (or 1 %) lost at half of the operations that can go; better than six random masks of the")
    print("same counts, by the loss of held-out rows, on at least 4 of 5 seeds")
    table("recipe", "can go", "left", "before", "after", "goal", "seeds better", "largest cut that keeps it", "cpu s")
    goals = []
    for name in names:
        if not trained.has(name):
            line(name, *[""] * 4, "not run: there is no trained model", "", "", "")
            goals.append(Goal(f"{name} at half", HALF))
            continue
        start = time.process_time()
        work = trained.model(name)
        rows, held = trained.rows(name, work)
        primary, higher = work.task.metric().primary, work.task.metric().higher_is_better
        held = first(held, MEASURED if work.task.name.endswith("classification") else 120)
        before = float(work.evaluate(held)[primary])
        can_go, values = cuts(work, rows, held, before)
        last = min(values)
        keeps = f"{last} of it" if kept(before, values[last], higher) else "none"
        shown = ", ".join(f"{cut}: {value:.4f}" for cut, value in values.items())
        better = seeds_better(work, rows, held, 1 - can_go / 2)
        reached = kept(before, values[0.5], higher)
        cells = f"{can_go:.1%}", f"{1 - can_go / 2:.3f}", f"{primary} {before:.4f}", shown, word(reached)
        line(name, *cells, f"{better} of {SEEDS}", keeps, f"{time.process_time() - start:.0f}")
        figure = f"{primary} {before:.4f} -> {values[0.5]:.4f}, largest cut that keeps it: {keeps}"
        goals.append(Goal(f"{name} at half", HALF, figure, reached))
        goals.append(Goal(f"{name} against six random masks", "4 of 5 seeds", f"{better} of {SEEDS}", better >= 4))
    return goals


def cuts(work: Any, rows: Any, held: Any, before: float) -> tuple[float, dict[float, float]]:
    """Return the share of the operations that can go, and the metric when parts of that are gone.

    The model is fitted and masked, which is what the cut model computes: pruning proves it each time.

    Args:
        work: the task with its model, which is itself again afterwards.
        rows: to calibrate on.
        held: rows that are measured.
        before: the metric of the whole model.

    Returns:
        The metric by part, from half down to the first that keeps the metric.
    """
    higher = work.task.metric().higher_is_better
    compression = Compression(work.model, batches_of(work, first(rows, 256)), work.task.row_losses, work.plugins, How())
    costs = compression.costs(Budget(macs=0.5))
    can_go = sum(costs.removable(compression.units).values()) / costs.total
    values: dict[float, float] = {}
    for cut in CUTS:
        with compression.finished(compression.plan(Budget(macs=1 - can_go * cut), costs)):
            values[cut] = float(work.evaluate(held)[work.task.metric().primary])
        if kept(before, values[cut], higher):
            break
    return can_go, values


def kept(before: float, after: float, higher: bool) -> bool:
    """Return whether at most .01, or 1 %, is lost."""
    lost = before - after if higher else after - before
    return lost <= max(LOSS, LOSS * abs(before)) + 1e-9


def seeds_better(work: Any, rows: Any, held: Any, budget: float) -> int:
    """Return on how many seeds the chosen mask has a smaller loss than the mean of random ones of the same counts."""
    wins = 0
    measured = batches_of(work, first(held, 64))
    for seed in range(SEEDS):
        batches = batches_of(work, first(rows.shuffle(seed=seed + 1), 64))
        compression = Compression(work.model, batches, work.task.row_losses, work.plugins, How(seed=seed))
        plan = compression.plan(Budget(macs=budget))

        def loss(masks: Any, compression: Any = compression) -> float:
            with compression.masked(masks), quiet(compression.model), torch.no_grad():
                return float(torch.cat([work.task.row_losses(compression.model, batch) for batch in measured]).mean())

        random = [loss(compression.random(plan, SEEDS * seed + draw)) for draw in range(MASKS)]
        wins += loss(plan.removed) < statistics.mean(random)
    return wins


# ---------------------------------------------------------------- wall time


def wall(trained: Trained, budget: float = 0.5) -> list[Goal]:
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
    goals = []
    for count, tokens in SIZES:
        whole, one, sixteen, floor = times([work.model, small.model, even.model, least.model], count, tokens, 15)
        shares = whole / one * record["left"], whole / sixteen * other["left"]
        reached = "" if count * tokens < 256 else word(max(shares) >= 0.9)
        cells = f"{1000 * whole:.1f}", f"{whole / one:.2f}", *(f"{share:.2f}" for share in shares)
        line(f"{count} x {tokens}", *cells, f"{1000 * floor:.1f}", reached)
        if reached:
            figure = f"{shares[0]:.2f}, {shares[1]:.2f} in multiples of 16"
            goals.append(Goal(f"wall time, {count} x {tokens}", ".9 of the counted limit", figure, max(shares) >= 0.9))
    return goals


# ---------------------------------------------------------------- with a teacher


def distilled(trained: Trained, budgets: Sequence[float] = (0.25, 0.2, 0.15), epochs: int = 3) -> list[Goal]:
    """MiniLM cut, then trained for some epochs with the model before as its teacher; without and with a layer less."""
    print(
        f"goal: 3 times on 8 x 128 tokens, at most .01 lost on the rated words, after {epochs} epochs with the teacher"
    )
    table("left", "layers", "before", "cut", "after training", "faster", "cpu s", "goal")
    goals: list[Goal] = []
    for budget, layers in itertools.product(budgets, (0, 1)):
        start = time.process_time()
        work = trained.model(MINILM)
        rows, held = trained.rows(MINILM, work)
        small = copied(work)
        before = float(work.evaluate(held)["accuracy"])
        cut = {"macs": budget, "layers": layers, "compare_random": 0, "time": False, "evaluate": False}
        small.apply("compress", {"calibrate": first(rows, ROWS)}, **cut)
        between = float(small.evaluate(held)["accuracy"])
        more = {"epochs": epochs, "learning_rate": 5.0e-5, "batch_size": 32, "warmup": 0.1, "teacher_hidden": 1.0}
        small.apply("train", {"train": rows}, teacher=str(trained.folder / MINILM / "model"), **more)
        after = float(small.evaluate(held)["accuracy"])
        slow, fast = times([work.model, small.model], 8, 128)
        reached = before - after <= LOSS and slow / fast >= 3
        cells = f"{before:.4f}", f"{between:.4f}", f"{after:.4f}", f"{slow / fast:.2f}"
        line(budget, layers, *cells, f"{time.process_time() - start:.0f}", word(reached))
        figure = f"{slow / fast:.2f} times, accuracy {before:.4f} -> {after:.4f}"
        goals.append(Goal(f"with a teacher, {budget}, {layers} layers fewer", TEACHER, figure, reached))
    return goals


def architectures() -> list[Goal]:
    """What the coverage table says of neurons and whole layers, and how many model types it has measured."""
    counts = json.loads((ROOT / "plugins" / "topwork_lens" / "coverage.json").read_text())["counts"]
    neurons = {name: counts.get(f"neurons: {name}", 0) for name in ("hard", "soft", "refused", "none", "missed")}
    layers = {name: counts.get(f"whole layers: {name}", 0) for name in ("all", "some", "refused", "none")}
    measured, layered = sum(neurons.values()), sum(layers.values())
    hard, left_out = neurons["hard"] / measured, (layers["all"] + layers["some"]) / layered
    figure = f"{hard:.1%} of {measured} measured, silently wrong {counts['silently wrong']}"
    right = hard >= 0.85 and not counts["silently wrong"]
    return [
        Goal("neurons of architectures", "hard on 85 %, silently wrong 0", figure, right),
        Goal("whole layers of architectures", "70 %", f"{left_out:.1%} of {layered} measured", left_out >= 0.7),
    ]
