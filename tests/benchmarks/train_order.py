"""Does the order of training items cost quality? A paired comparison over seeds, based on transformers' Trainer.

Three tasks on small rows with texts of very different lengths: tags of words, classes of texts, answers in texts. For
each seed every way trains the same initial weights on the same encoded rows, for the same number of steps with the same
optimizer and schedule; only who trains and the order of the rows differ. `Trainer` is transformers' own, used plainly:
the model's own loss, its default random order, padding per batch. What is printed: the mean score of each way, its
difference from Trainer, the paired t of that difference with its two-sided p, the training loss, the padded tokens of
an epoch relative to a random order, and CPU seconds.

Run: python tests/benchmarks/train_order.py --seeds 10 --rows 300 2100
The speed bar is that of `train_speed.py`, which `--speed` runs afterwards.

Grouping begins at 64 batches an epoch: with 300 rows the default order is a random one, with 2,100 rows it is grouped.
Ten seeds gave differences of the default from Trainer of +.0003 (p .49), +.0010 (.81), -.0382 (.29) with 300 rows, and
of -.0001 (.81), -.0007 (.86), +.0020 (.96) with 2,100, in the order of `TASKS`; answers are still being learned there.
Epochs are scaled so that the number of steps is about that of 300 rows.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
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
#: name of the base of the comparison
TRAINER = "Trainer"
#: way -> option `group` of the training stage
WAYS: dict[str, Any] = {TRAINER: TRAINER, "random": False, "default": None, "grouped": True}
BATCH_SIZE = 16


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
    epochs = max(1, round(epochs * 300 / rows))
    work = topwork.build(task, BASE, rows=train, seed=seed, tokenizer={"min_frequency": 1})
    start = time.process_time()
    if way == TRAINER:
        loss = train_with_transformers(work, train, epochs, rate, seed)
    else:
        options = {"epochs": epochs, "batch_size": BATCH_SIZE, "learning_rate": rate, "checkpoint_every": "never"}
        loss = work.train(train, seed=seed, group=way, **options)["loss"]
    seconds = time.process_time() - start
    return float(work.evaluate(test)[metric]), loss, seconds


def train_with_transformers(work: Any, rows: list[dict[str, Any]], epochs: int, rate: float, seed: int) -> float:
    """Train a model of transformers with its Trainer and the loss of its own `forward`; return the mean loss."""
    from transformers import Trainer, TrainingArguments

    task = work.task
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=BATCH_SIZE,
            learning_rate=rate,
            seed=seed,
            weight_decay=0.0,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            log_level="error",
            use_cpu=True,
            remove_unused_columns=False,
        )
        work.model.train()
        trainer = Trainer(
            model=work.model,
            args=arguments,
            train_dataset=task.encode(rows, "train", 0),
            data_collator=lambda items: task.collate(items, "train").inputs,
        )
        loss = trainer.train().training_loss
    work.model.eval()
    return float(loss)


def padded(task: str, way: Any, rows: int) -> int:
    """Tokens of an epoch, padding counted."""
    train = TASKS[task][0](rows, random.Random(1000))
    work = topwork.build(task, BASE, rows=train, tokenizer={"min_frequency": 1})
    costs = [item.cost for item in work.task.encode(train, "train", 0)]
    sampler = TrainBatches(costs, Budget(BATCH_SIZE), 0, window={None: None, True: 64, False: 1}.get(way, way))
    return sum(len(batch) * max(costs[index] for _, index in batch) for batch in sampler)


def compare(task: str, rows: int, seeds: int, ways: dict[str, Any], first: int = 0) -> None:
    """Print one comparison."""
    from scipy import stats

    results: dict[str, list[tuple[float, float, float]]] = {way: [] for way in ways}
    for seed in range(first, first + seeds):  # interleaved: what slows the machine down slows all ways
        for way, group in ways.items():
            results[way].append(score(task, group, seed, rows))
    baseline = padded(task, False, rows)
    print(f"{task}, {rows} rows, seeds {first} to {first + seeds - 1}: {TASKS[task][1]}")
    for way, group in ways.items():
        scores = [result[0] for result in results[way]]
        differences = [mine - base[0] for mine, base in zip(scores, results[TRAINER], strict=True)]
        test = stats.ttest_1samp(differences, 0.0) if len(set(differences)) > 1 else None
        t, p = (float(test.statistic), float(test.pvalue)) if test is not None else (0.0, 1.0)
        tokens = padded(task, group, rows) / baseline if way != TRAINER else 1.0
        print(
            f"  {way:8} {statistics.mean(scores):.4f}  difference {statistics.mean(differences):+.4f}  t {t:+.2f}  "
            f"p {p:.3f}  loss {statistics.mean(result[1] for result in results[way]):.4f}  "
            f"padded tokens {tokens:.2f}  CPU {statistics.mean(result[2] for result in results[way]):.1f} s",
        )
        print(f"           by seed: {' '.join(f'{value:.4f}' for value in scores)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rows", type=int, nargs="*", default=[300])
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument(
        "--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="Trainer is always among them"
    )
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--speed", action="store_true", help="afterwards the speed, by train_speed.py")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ways = {way: group for way, group in WAYS.items() if way in {TRAINER, *options.ways}}
    for rows in options.rows:
        for task in options.tasks:
            compare(task, rows, options.seeds, ways, options.first_seed)
    if options.speed:
        subprocess.run([sys.executable, str(Path(__file__).with_name("train_speed.py"))], check=True)


if __name__ == "__main__":
    main()
