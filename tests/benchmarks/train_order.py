"""Does grouping items of like length cost quality? A paired comparison over seeds.

Three tasks on small rows with texts of very different lengths: tags of words, classes of texts, answers in texts. For
each seed every way of ordering trains the same initial weights on the same rows; only the batches differ. What is
printed: the mean score of each way, its difference from a random order, the paired t of that difference, and the
padded tokens of an epoch relative to a random order.

Run: python tests/benchmarks/train_order.py --seeds 10
"""

from __future__ import annotations

import argparse
import math
import os
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

import torch

import topwork
from topwork.data.batching import Budget, TrainBatches

BASE = {
    "config": {
        "model_type": "bert",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
}
#: way -> option `group`
WAYS: dict[str, Any] = {"random": False, "default": None, "grouped": True}


def sentence(draw: random.Random) -> list[tuple[str, str]]:
    """Words with tags that depend on the word before: a small grammar, with ambiguous words."""
    length = min(60, 2 + int(draw.expovariate(1 / 10)))
    words, before = [], ""
    for _ in range(length):
        word = f"w{int(draw.paretovariate(0.9)) % 120}"
        kind = (sum(map(ord, word)) + (3 if before == "verb" else 0)) % 4
        tag = ("noun", "verb", "adjective", "other")[kind]
        words.append((word, tag))
        before = tag
    return words


def tag_rows(count: int, draw: random.Random) -> list[dict[str, Any]]:
    drawn = [sentence(draw) for _ in range(count)]
    return [{"words": [word for word, _ in pairs], "tags": [tag for _, tag in pairs]} for pairs in drawn]


def class_rows(count: int, draw: random.Random) -> list[dict[str, Any]]:
    rows = []
    for pairs in (sentence(draw) for _ in range(count)):
        votes = [tag for _, tag in pairs]
        rows.append({"text": " ".join(word for word, _ in pairs), "label": max(sorted(set(votes)), key=votes.count)})
    return rows


def answer_rows(count: int, draw: random.Random) -> list[dict[str, Any]]:
    rows = []
    for pairs in (sentence(draw) for _ in range(count)):
        words = [word for word, _ in pairs]
        index = draw.randrange(len(words))
        words.insert(index, "key")
        answer = words[index + 1] if index + 1 < len(words) else "key"
        start = len(" ".join(words[: index + 1])) + 1 if answer != "key" else len(" ".join(words[:index])) + bool(index)
        answers = {"text": [answer], "answer_start": [start]}
        rows.append({"question": "what follows the key", "context": " ".join(words), "answers": answers})
    return rows


#: task -> (rows, metric, epochs, learning rate)
TASKS: dict[str, tuple[Any, str, int, float]] = {
    "token-classification": (tag_rows, "accuracy", 4, 3e-3),
    "text-classification": (class_rows, "accuracy", 8, 3e-3),
    "question-answering": (answer_rows, "f1", 12, 3e-3),
}


def score(task: str, way: Any, seed: int, rows: int) -> tuple[float, float, float]:
    """The metric on 300 other rows, the training loss, and seconds of CPU of one training."""
    make, metric, epochs, rate = TASKS[task]
    draw = random.Random(1000 + seed)
    train, test = make(rows, draw), make(300, draw)
    work = topwork.build(task, BASE, rows=train, seed=seed, tokenizer={"min_frequency": 1})
    start = time.process_time()
    options = {"epochs": epochs, "batch_size": 16, "learning_rate": rate, "checkpoint_every": "never", "group": way}
    loss = work.train(train, seed=seed, **options)["loss"]
    seconds = time.process_time() - start
    return float(work.evaluate(test)[metric]), loss, seconds


def padded(task: str, way: Any, rows: int) -> int:
    """Tokens of an epoch, padding counted."""
    train = TASKS[task][0](rows, random.Random(1000))
    work = topwork.build(task, BASE, rows=train, tokenizer={"min_frequency": 1})
    costs = [item.cost for item in work.task.encode(train, "train", 0)]
    sampler = TrainBatches(costs, Budget(16), 0, window={None: None, True: 64, False: 1}.get(way, way))
    return sum(len(batch) * max(costs[index] for _, index in batch) for batch in sampler)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for task in options.tasks:
        found = {
            way: [score(task, group, seed, options.rows) for seed in range(options.seeds)]
            for way, group in WAYS.items()
        }
        baseline = padded(task, False, options.rows)
        print(f"{task}, {options.rows} rows, {options.seeds} seeds: {TASKS[task][1]}")
        for way, group in WAYS.items():
            scores = [entry[0] for entry in found[way]]
            differences = [left - right[0] for left, right in zip(scores, found["random"], strict=True)]
            spread = statistics.stdev(differences) if len(differences) > 1 else 0.0
            t = statistics.mean(differences) / (spread / math.sqrt(len(differences))) if spread else 0.0
            seconds = statistics.mean(entry[2] for entry in found[way])
            print(
                f"  {way:8} {statistics.mean(scores):.4f}  difference {statistics.mean(differences):+.4f}  t {t:+.2f}  "
                f"loss {statistics.mean(entry[1] for entry in found[way]):.4f}  "
                f"padded tokens {padded(task, group, options.rows) / baseline:.2f}  CPU {seconds:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
