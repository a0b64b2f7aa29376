"""How fast topwork predicts, task by task, beside the best of transformers' pipeline at batch sizes 1, 8 and 32, and
plain loops at the same sizes for the three tasks whose pipelines are gone: same model, same rows, float32, one process,
rounds interleaved, medians of CPU time.

    python tests/benchmarks/predict_speed.py text-classification depth-estimation --rounds 3 --bf16
    python tests/benchmarks/predict_speed.py texts        # or images, audio, all

Asked: on texts 1.2 times the best, and twice batch sizes 8 and 32; elsewhere 0.97 times the best; with `--bf16` on
texts and images twice the best, agreeing on 99 % of the rows. That the float32 predictions are equal to the pipeline's
one by one is asserted.
The floor is the model alone, on items that were encoded, planned and padded before.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

from speed_cases import CASES, Case

import topwork

SIZES = (1, 8, 32)
BEST = {"text": 1.2, "image": 0.97, "audio": 0.97}
BATCHED, NARROW, AGREED = 2.0, 2.0, 0.99
GROUPS = {"texts": "text", "images": "image", "audio": "audio"}


def make(name: str, case: Case, rows: list[dict]) -> Any:
    """topwork's task on its model. New task heads give nearly the same to everything, and a decision may then hang on
    the last digit: what they say is made further apart, as training would."""
    import torch

    torch.manual_seed(0)
    work = topwork.build(name, base=case.base, rows=rows, **case.options)
    if case.identity:
        layer = work.model.get_submodule(case.identity)
        with torch.no_grad():
            layer.weight.copy_(torch.eye(len(layer.weight)))
            layer.bias.zero_()
    if case.head:
        weight = work.model.get_submodule(case.head).weight
        with torch.no_grad():
            weight.mul_(10 / float(weight.flatten(1).norm(dim=1).mean()))
    return work


def contestants(work: Any, case: Case, name: str, rows: list[dict], folder: str) -> dict[str, Callable[[], Any]]:
    """By name: what predicts all rows."""
    found: dict[str, Callable[[], Any]] = {"topwork": lambda: work.predict(rows), "floor": floor(work, rows)}
    if case.loop is not None:
        for size in SIZES:
            found[f"plain loop {size}"] = lambda size=size: case.loop(work, rows, size)
        return found
    import transformers

    pipe = transformers.pipeline(name, model=folder, device="cpu")
    given = [row[case.column] for row in rows]
    if getattr(pipe, "tokenizer", None) is not None and case.kind == "text" and pipe.model.can_generate():
        pipe.tokenizer.padding_side = "left"  # its batches would be continued behind padding
    for size in SIZES:
        found[f"pipeline {size}"] = lambda size=size: pipeline(pipe, given, size, case)
    return found


def pipeline(pipe: Any, given: list[Any], size: int, case: Case) -> list[Any]:
    if case.kind == "audio":  # it takes the entries out of what it is given
        given = [{"raw": sound["array"].copy(), "sampling_rate": sound["sampling_rate"]} for sound in given]
    return list(pipe(given, batch_size=size, **case.settings))


def floor(work: Any, rows: list[dict]) -> Callable[[], None]:
    """The model and the reading of its outputs: the same batches, made before."""
    import torch

    from topwork import accelerated
    from topwork.data.batching import plan
    from topwork.data.loop import Settings

    task, device = work.task, torch.device("cpu")
    items = task.encode(rows, "predict", 0)
    budget = Settings().budget(task, device)
    places = plan([item.cost for item in items], budget)
    batches = [task.collate([items[place] for place in part], "predict").to(device) for part in places]

    def run() -> None:
        with torch.inference_mode(), accelerated(device, "float32"):
            for batch in batches:
                task.predict(work.model, batch)

    return run


def measure(functions: dict[str, Callable], rounds: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Medians of CPU seconds, rounds interleaved after one that warms up, and what each answered."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    answers = {}
    for turn in range(rounds + 1):
        for name, function in functions.items():
            start = time.process_time()
            answers[name] = function()
            if turn:
                times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}, answers


def verdict(name: str, ratio: float, wanted: float) -> str:
    """A figure, what was asked, and whether it is reached."""
    return f"{name} {ratio:.2f} x (asked {wanted}: {'OK' if ratio >= wanted else 'MISSED'})"


def share(same: Callable[[Any, Any], bool], mine: list, theirs: list) -> float:
    """Of the rows for which two predictions are the same."""
    return sum(same(one, other) for one, other in zip(mine, theirs, strict=True)) / len(mine)


def compare(name: str, options: argparse.Namespace) -> bool:
    case = CASES[name]
    rows = case.rows(options.rows or case.count)
    work = make(name, case, rows)
    inputs = [column for column, told in work.task.columns.items() if not told.target]
    asked = [{column: row[column] for column in inputs if column in row} for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        work.save(folder)
        functions = contestants(work, case, name, asked, folder)
        if options.bf16:
            functions["topwork bf16"] = lambda: work.predict(asked, precision="bf16")
        for cost in options.budgets:
            functions[f"cost {cost}"] = lambda cost=cost: work.predict(asked, cost=cost)
        medians, answers = measure(functions, options.rounds)
    mine, others = answers["topwork"], [key for key in medians if key.startswith(("pipeline", "plain"))]
    agree = share(case.same, mine, answers[others[0]])
    assert agree == 1, f"{name}, {others[0]}: {100 * agree:.1f} % of the predictions are equal"
    best = min(others, key=medians.__getitem__)
    told = [verdict(f"best ({best})", medians[best] / medians["topwork"], BEST[case.kind])]
    if case.kind == "text":
        told += [verdict(key, medians[key] / medians["topwork"], BATCHED) for key in others if not key.endswith(" 1")]
    if options.bf16:
        agree = share(case.near or case.same, mine, answers["topwork bf16"])
        ratio = medians[best] / medians["topwork bf16"]
        wanted = case.kind != "audio"
        told += [verdict("bf16", ratio, NARROW) if wanted else f"bf16 {ratio:.2f} x (nothing asked)"]
        verdict_too = " (asked 99: MISSED)" if wanted and agree < AGREED else ""
        told += [f"agreeing on {100 * agree:.1f} % of the rows{verdict_too}"]
    print(f"{name}: {len(rows)} rows, topwork {medians['topwork']:.2f} s; {'; '.join(told)}")
    for key in others[1:]:
        agree = share(case.same, answers[others[0]], answers[key])
        if agree < 1:  # padding changes its answers; topwork's are those of a row alone
            print(f"  {key} agrees with itself one by one on {100 * agree:.1f} % of the rows only")
    shown = "; ".join(f"{key} {value / medians['topwork']:.2f}" for key, value in medians.items())
    print(f"  of topwork's time: {shown}", flush=True)
    return not any("MISSED" in line for line in told)


def chosen(names: list[str]) -> list[str]:
    """Tasks by their names, or by "texts", "images", "audio", "all"."""
    kinds = {GROUPS[name] for name in names if name in GROUPS}
    everything = not names or "all" in names
    return [name for name, case in CASES.items() if everything or name in names or case.kind in kinds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*CASES, *GROUPS, "all"]
    parser.add_argument("tasks", nargs="*", metavar="task", help=f"of {', '.join(names)}")
    parser.add_argument("--rows", type=int, help="by default 64 for texts, 32 where a row is dear")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action="store_true", help="also predict under autocast")
    parser.add_argument("--budgets", type=int, nargs="*", default=[], help="also try these budgets of cost")
    options = parser.parse_args()
    if unknown := sorted(set(options.tasks) - set(names)):
        parser.error(f"{unknown[0]} is none of {', '.join(names)}")
    import torch
    import transformers

    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; bf16 {bf16_kind()}")
    missed = [task for task in chosen(options.tasks) if not compare(task, options)]
    print("missed: " + ", ".join(missed) if missed else "all as asked")


def bf16_kind() -> str:
    """Whether the CPU multiplies bf16 itself."""
    import torch

    supported = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "by the CPU" if supported else "emulated"


if __name__ == "__main__":
    main()
