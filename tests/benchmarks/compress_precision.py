"""Compressed and in bfloat16, beside the pipeline of transformers and ONNX Runtime: the part `precision`."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from compress_goals import ROWS, Goal, batches_of, compressed, line, table, word
from compress_models import MINILM, Trained, copied, first

#: tokens of a text at most, rows of a batch of ONNX Runtime
TOKENS, BATCH = 128, 8
Labels = Callable[[], list[str]]


def precision(trained: Trained, folder: Path, budget: float = 0.5) -> list[Goal]:
    """Print how fast each labels the same texts, and how many labels are those of the pipeline."""
    print("goal: 3 times the best of the pipeline's batch sizes, on the same texts, with 99 % of its labels")
    work = trained.model(MINILM)
    rows, held = trained.rows(MINILM, work)
    small, record = compressed(work, batches_of(work, first(rows, ROWS)), budget)
    texts = long_texts(held)
    labels, seconds = measured(contestants(work, small, texts, folder))
    best = min(value for name, value in seconds.items() if name.startswith("pipeline"))
    table("what runs", "macs left", "cpu s", "times the best pipeline", "same labels", "goal")
    goals = []
    for name, value in seconds.items():
        same = sum(map(str.__eq__, labels[name], labels["pipeline 8"])) / len(texts)
        reached = best / value >= 3 and same >= 0.99
        left = record["left"] if "compressed" in name else 1.0
        cells = f"{left:.2f}", f"{value:.2f}", f"{best / value:.2f}", f"{same:.1%}"
        line(name, *cells, word(reached) if name == "compressed, bf16" else "")
        if name in ("compressed, bf16", "ONNX Runtime, whole"):
            figure = f"{best / value:.2f} times the best pipeline, {same:.1%} of the labels"
            goals.append(Goal(name, "3 times, 99 % of the labels" if "bf16" in name else "beside it", figure, reached))
    return goals


def long_texts(rows: Any, count: int = 96) -> list[str]:
    """Return texts of 20 to 120 held-out words that were rated alike: an average of what the model can say."""
    by_label: dict[str, list[str]] = {}
    for row in rows:
        by_label.setdefault(str(row["label"]), []).append(str(row["text"]))
    texts = []
    for index in range(count):
        words = list(by_label.values())[index % len(by_label)]
        length = 20 + 100 * index // count
        texts.append(" ".join(words[(index * 7 + offset) % len(words)] for offset in range(length)))
    return texts


def contestants(work: Any, small: Any, texts: list[str], folder: Path) -> dict[str, Labels]:
    """Return by name what labels all texts."""
    import transformers

    pipe = transformers.pipeline("text-classification", model=str(work.save(folder / "whole")), device="cpu")
    asked = [{"text": text} for text in texts]

    def piped(size: int) -> list[str]:
        return [answer["label"] for answer in pipe(texts, batch_size=size, truncation=True, max_length=TOKENS)]

    def own(task: Any, **options: Any) -> list[str]:
        answers = task.predict(asked, **options)
        return [(answer[0] if isinstance(answer, list) else answer)["label"] for answer in answers]

    found: dict[str, Labels] = {f"pipeline {size}": lambda size=size: piped(size) for size in (1, 8)}
    found |= {"whole": lambda: own(work), "compressed": lambda: own(small)}
    found["compressed, bf16"] = lambda: own(small, precision="bf16")
    for name, task in (("whole", work), ("compressed", small)):
        narrow = copied(task)
        narrow.model = torch.ao.quantization.quantize_dynamic(narrow.model, {torch.nn.Linear}, torch.qint8)
        found[f"{name}, int8"] = lambda narrow=narrow: own(narrow)
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnxscript"):
        for name, task in (("whole", work), ("compressed", small)):
            session = session_of(task.model, folder / f"{name}.onnx")
            found[f"ONNX Runtime, {name}"] = lambda session=session: labelled(session, work, texts)
    return found


def session_of(model: Any, file: Path) -> Any:
    """Export a model and open it on one thread."""
    import onnxruntime

    ids = torch.ones(2, 8, dtype=torch.long)
    sizes = {0: torch.export.Dim("rows"), 1: torch.export.Dim("tokens", max=TOKENS)}
    inputs = {"input_ids": ids, "attention_mask": ids.clone()}  # one tensor would become one input
    shapes = dict.fromkeys(inputs, sizes)
    program = torch.onnx.export(model.eval(), (), kwargs=inputs, dynamic_shapes=shapes, dynamo=True, verbose=False)
    assert program is not None
    program.save(file)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def labelled(session: Any, work: Any, texts: list[str]) -> list[str]:
    """Return the labels of texts by ONNX Runtime, in batches of texts of like length."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    labels = [""] * len(texts)
    for start in range(0, len(order), BATCH):
        part = order[start : start + BATCH]
        asked = [texts[index] for index in part]
        made = work.task.tokenizer(asked, padding=True, truncation=True, max_length=TOKENS, return_tensors="np")
        logits = session.run(None, {key: made[key] for key in ("input_ids", "attention_mask")})[0]
        for index, best in zip(part, logits.argmax(-1), strict=True):
            labels[index] = work.model.config.id2label[int(best)]
    return labels


def measured(functions: dict[str, Labels], rounds: int = 3) -> tuple[dict[str, list[str]], dict[str, float]]:
    """Return what each answered, and its median CPU seconds, in turn after a round that warms up."""
    answers: dict[str, list[str]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(rounds + 1):
        for name, function in functions.items():
            start = time.process_time()
            answers[name] = function()
            if turn:
                seconds[name].append(time.process_time() - start)
    return answers, {name: statistics.median(values) for name, values in seconds.items()}
