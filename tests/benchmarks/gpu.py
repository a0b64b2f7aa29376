"""Figures of topwork on a GPU: training by precision and compilation, prediction, importance, pruning, compression.

`python tests/benchmarks/gpu.py [PART ...] [--rounds N]`; the parts are `train`, `predict`, `importance`, `statistics`,
`prune` and `compress`, by default all. The model has the sizes of BERT-base and random weights, the texts are random
words. Every part runs its contestants in turn, in one process, and prints the medians of wall seconds between two
synchronisations. The floors are printed beside: the bare forward, or forward, backward and step, in the same precision.
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import topwork

CONFIG = {
    "model_type": "bert",
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
}
TEXTS = "text-classification"
PARTS = ("train", "predict", "importance", "statistics", "prune", "compress")


def rows_of(count: int, longest: int) -> list[dict[str, str]]:
    """Return texts of `longest` / 4 to `longest` words with one of two labels."""
    draw = random.Random(0)
    words = [f"w{number}" for number in range(800)]
    texts = (" ".join(draw.choices(words, k=draw.randint(longest // 4, longest))) for _ in range(count))
    return [{"text": text, "label": ("yes", "no")[index % 2]} for index, text in enumerate(texts)]


@cache
def made(attention: str | None) -> Any:
    """Return a task model of the sizes of BERT-base on the CPU; random weights take seconds to draw."""
    import torch

    torch.manual_seed(0)
    base = {"config": CONFIG} | ({"attention": attention} if attention else {})
    return topwork.build(TEXTS, base, rows=rows_of(512, 120), max_length=512)


def build(attention: str | None = None) -> Any:
    """Return a task model on the GPU, always with the same weights."""
    work = copy.copy(made(attention))
    work.model = copy.deepcopy(work.model).to("cuda").eval()
    return work


def seconds(function: Callable[[], Any]) -> float:
    """Return the wall seconds of a function, its work on the GPU included."""
    import torch

    torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def medians(functions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return the medians of the seconds of functions, rounds alternating after one that warms up."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds + 1):
        for name, function in functions.items():
            spent = seconds(function)
            if turn:
                times[name].append(spent)
    return {name: statistics.median(values) for name, values in times.items()}


def show(part: str, times: dict[str, float], floor: str, per: float = 1.0, unit: str = "") -> None:
    """Print a line for each contestant: seconds, units a second, and its time relative to the floor's."""
    for name, spent in times.items():
        rate = f"{per / spent:10.0f} {unit}/s" if unit else ""
        print(f"{part:11} {name:34} {spent:8.3f} s {rate}  {times[floor] / spent:5.2f} of the floor", flush=True)


def batches_of(work: Any, rows: list[dict[str, str]], size: int, mode: str = "loss") -> list[Any]:
    """Return batches on the GPU, rows sorted by length."""
    import torch

    items = sorted(work.task.encode(rows, mode, 0), key=lambda item: item.cost)
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    return [work.task.collate(part, mode).to(torch.device("cuda")) for part in parts]


def train(rounds: int) -> None:
    """Training of 512 texts of up to 120 words in batches of 32, in four ways, beside a bare loop in bf16."""
    import torch

    rows = rows_of(512, 120)
    options = {"epochs": 1, "batch_size": 32, "checkpoint_every": "never", "learning_rate": 1e-5}
    names = ("float32", "fp16", "auto (bf16)", "bf16, grouped by length", "bf16, grouped, compiled")
    more: dict[str, dict[str, Any]] = {
        "float32": {"precision": "float32"},
        "fp16": {"precision": "fp16"},
        "bf16, grouped by length": {"group": True},
        "bf16, grouped, compiled": {"group": True, "compile": True},
    }
    works = {name: build() for name in names}
    bare = build()
    optimizer = torch.optim.AdamW(bare.model.parameters(), lr=1e-5, fused=True)

    def loop() -> None:
        bare.model.train()
        for batch in batches_of(bare, rows, 32, "train"):
            with torch.autocast("cuda", torch.bfloat16):
                loss = bare.task.loss(bare.model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(bare.model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    functions: dict[str, Callable[[], Any]] = {
        name: lambda name=name, work=work: work.train(rows, **options, **more.get(name, {}))
        for name, work in works.items()
    }
    functions["bare loop, bf16, sorted"] = loop
    times = medians(functions, rounds)
    show("train", times, "bare loop, bf16, sorted", len(rows), "rows")
    for name in ("float32", "auto (bf16)"):
        torch.cuda.reset_peak_memory_stats()
        functions[name]()
        print(f"train       {name}: peak {torch.cuda.max_memory_allocated() / 2**30:.2f} GB")


def predict(rounds: int) -> None:
    """Prediction of 1024 texts of up to 120 words, beside transformers' pipeline and the bare model."""
    import torch
    import transformers

    rows = rows_of(1024, 120)
    work = build()
    texts = [row["text"] for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        pipe = transformers.pipeline(TEXTS, model=str(work.save(f"{folder}/model")), device="cuda:0")
    half = copy.copy(work)
    half.model = copy.deepcopy(work.model).to(torch.bfloat16)
    prepared = batches_of(work, rows, 128, "predict")

    def bare(dtype: Any) -> None:
        with torch.inference_mode(), torch.autocast("cuda", dtype, enabled=dtype is not torch.float32):
            for batch in prepared:
                work.task.predict(work.model, batch)

    functions: dict[str, Callable[[], Any]] = {
        "pipeline, batches of 8": lambda: list(pipe(texts, batch_size=8)),
        "pipeline, batches of 32": lambda: list(pipe(texts, batch_size=32)),
        "pipeline, batches of 128": lambda: list(pipe(texts, batch_size=128)),
        "float32": lambda: work.predict(rows),
        "bf16 weights": lambda: half.predict(rows),
        "bare model, float32, encoded": lambda: bare(torch.float32),
        "bare model, bf16, encoded": lambda: bare(torch.bfloat16),
    }
    show("predict", medians(functions, rounds), "bare model, float32, encoded", len(rows), "rows")
    same = [mine[0]["label"] == theirs["label"] for mine, theirs in zip(work.predict(rows), pipe(texts, batch_size=32))]
    print(f"predict     labels equal to the pipeline's: {sum(same)} of {len(same)}")


def importance(rounds: int) -> None:
    """Importance of the 144 heads on 512 texts (Michel et al. 2019), beside forward and backward of the bare model."""
    import torch

    rows = rows_of(512, 120)
    work = build()
    prepared = batches_of(work, rows, 32)

    def bare(autocast: bool) -> None:
        for batch in prepared:
            with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
                loss = work.task.loss(work.model, batch)
            loss.backward()
            work.model.zero_grad()

    functions: dict[str, Callable[[], Any]] = {
        "float32": lambda: work.apply("head_importance", {"calibrate": rows}),
        "bf16": lambda: work.apply("head_importance", {"calibrate": rows}, precision="bf16"),
        "forward and backward, float32": lambda: bare(False),
        "forward and backward, bf16": lambda: bare(True),
    }
    show("importance", medians(functions, rounds), "forward and backward, float32", len(rows), "rows")


def attention_statistics(rounds: int) -> None:
    """Entropy and other statistics of all weights, 8 x 512 tokens, beside the bare forward and the eager one."""
    import torch

    rows = rows_of(8, 500)
    work, eager = build(), build("eager")
    inputs = dict(batches_of(work, rows, 8, "predict")[0].inputs)

    def forward(model: Any, **options: Any) -> None:
        with torch.no_grad():
            for _ in range(10):
                model(**inputs, **options)

    def captured() -> None:
        with torch.no_grad():
            for _ in range(10):
                with topwork.look(work).capture("entropy", "distance", "max", "argmax"):
                    work.model(**inputs)

    functions: dict[str, Callable[[], Any]] = {
        "captured": captured,
        "eager with output_attentions": lambda: forward(eager.model, output_attentions=True),
        "bare forward": lambda: forward(work.model),
    }
    show("statistics", medians(functions, rounds), "bare forward", 80, "rows")


def prune(rounds: int) -> None:
    """Half of the heads, and half of heads and neurons by `compress`, removed: seconds, and the speed afterwards."""
    rows = rows_of(256, 120)
    whole = build()
    prepared = batches_of(whole, rows, 64, "predict")
    pruned = build()
    check = {name: tensor[:4] for name, tensor in prepared[0].inputs.items()}
    heads = {layer: list(range(6)) for layer in range(12)}
    spent = seconds(lambda: topwork.prune_heads(pruned.model, heads, check=check))
    print(f"prune       half of 144 heads, with the check: {spent:.2f} s")
    show("prune", forwards({"half of the heads": pruned, "whole model": whole}, prepared, rounds), "whole model")


def compress(rounds: int) -> None:
    """Half of the operations removed without training: seconds, and measured speed beside the counted limit."""
    rows = rows_of(256, 120)
    whole, smaller = build(), build()
    prepared = batches_of(whole, rows, 64, "predict")
    roles = {"train": rows, "calibrate": rows[:128], "evaluate": rows[128:]}
    result: dict[str, Any] = {}
    spent = seconds(lambda: result.update(smaller.apply("compress", roles, macs=0.5, multiple=64)))
    kept = {key: result.get(key) for key in ("macs_left", "limit", "speed_limit", "speedup", "of_limit")}
    print(f"compress    to half: {spent:.1f} s; {kept}")
    show(
        "compress", forwards({"half of the operations": smaller, "whole model": whole}, prepared, rounds), "whole model"
    )


def forwards(works: dict[str, Any], batches: list[Any], rounds: int) -> dict[str, float]:
    """Return the seconds of forwards in float32 and in bf16."""
    import torch

    def run(work: Any, autocast: bool) -> None:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            for batch in batches * 10:
                work.model(**batch.inputs)

    functions = {name: lambda work=work: run(work, False) for name, work in works.items()}
    functions |= {f"{name}, bf16": lambda work=work: run(work, True) for name, work in works.items()}
    return medians(functions, rounds)


def main() -> None:
    """Run the chosen parts."""
    import torch
    import transformers

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there is no GPU that CUDA can use")
    transformers.logging.set_verbosity_error()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, transformers {transformers.__version__}")
    functions = dict(zip(PARTS, (train, predict, importance, attention_statistics, prune, compress)))
    for part in options.parts or PARTS:
        functions[part](options.rounds)


if __name__ == "__main__":
    main()
