"""How fast topwork trains by default, beside transformers' Trainer as example scripts set it up (padding to the
maximum) and at its best (`train_sampling_strategy="group_by_length"`, padding per batch): same model, same rows, same
number of rows seen, one process, rounds interleaved, medians of CPU time; the held-out metric stands beside.

    python tests/benchmarks/train_speed.py --rows 240 --rounds 3

"by cost" plans batches by tokens (`batch_cost`), as many as a batch of the others has on average. The floor is forward,
backward and optimizer step alone, on batches of rows that are best sorted, collated before.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import topwork

WANTED = {"padding to the maximum": 2.5, "group_by_length": 1.15}
EPOCHS, RATE = 2, 1e-3
CONFIG = {
    "model_type": "bert",
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "max_position_embeddings": 128,
}


def rows_of(split: str, count: int) -> list[dict]:
    """Texts of 4 to 90 words, their lengths even on a logarithmic scale, with one of three labels that can be learned:
    which of three words stands in place of every fifth word or so."""
    from topwork_bases.samples.python_docs import paragraphs

    draw = random.Random(split)
    words = [word for word in " ".join(row["text"] for row in paragraphs(split)).split() if word.isalpha()]
    made = []
    for number in range(count):
        length, start = round(4 * 22 ** draw.random()), draw.randrange(len(words) - 100)
        label = ("red", "green", "blue")[number % 3]
        text = [label if draw.random() < 0.2 else word for word in words[start : start + length]]
        text[draw.randrange(len(text))] = label
        made.append({"text": " ".join(text), "label": label})
    return made


class Contest:
    """One model and one set of rows for all."""

    def __init__(self, count: int, batch: int, length: int, bf16: bool) -> None:
        self.batch, self.length, self.bf16, self.turn = batch, length, bf16, 0
        self.train, self.test = rows_of("train", count), rows_of("test", 150)
        task = self.fresh().task
        # as many tokens in a batch as one of `batch` rows has on average: about as many steps
        self.cost = round(batch * sum(item.cost for item in task.encode(self.train, "train", 0)) / count)

    def fresh(self) -> Any:
        import torch

        torch.manual_seed(self.turn)  # every contestant of a round begins with the same weights
        return topwork.build(
            "text-classification",
            {"config": CONFIG},
            rows=self.train,
            max_length=self.length,
            tokenizer={"vocab_size": 2000},
        )

    def topwork(self, **changes: Any) -> tuple[float, float]:
        model = self.fresh()
        start = time.process_time()
        model.train(
            self.train,
            epochs=EPOCHS,
            learning_rate=RATE,
            seed=self.turn,
            checkpoint_every="never",
            **(changes or {"batch_size": self.batch}),
            precision="bf16" if self.bf16 else "float32",
        )
        return time.process_time() - start, model.evaluate(self.test)["accuracy"]

    def transformers(self, **changes: Any) -> tuple[float, float]:
        """As `run_glue.py` does it: everything is tokenized first, then Trainer."""
        import datasets
        from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, default_data_collator

        model = self.fresh()
        tokenizer, names = model.task.tokenizer, model.task.names
        longest = changes.pop("padding", None)
        model.model.train()
        start = time.process_time()
        rows = datasets.Dataset.from_list(self.train)

        def encode(part: dict[str, list]) -> dict[str, Any]:
            padding = "max_length" if longest else False
            found = tokenizer(part["text"], truncation=True, max_length=self.length, padding=padding)
            return {**found, "labels": [names.index(label) for label in part["label"]]}

        rows = rows.map(encode, batched=True, remove_columns=["text", "label"], load_from_cache_file=False)
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                num_train_epochs=EPOCHS,
                per_device_train_batch_size=self.batch,
                learning_rate=RATE,
                seed=self.turn,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                log_level="error",
                use_cpu=True,
                weight_decay=0.0,
                bf16=self.bf16,
                **changes,
            )
            trainer = Trainer(
                model=model.model,
                args=arguments,
                train_dataset=rows,
                data_collator=default_data_collator if longest else DataCollatorWithPadding(tokenizer),
            )
            trainer.train()
        return time.process_time() - start, model.evaluate(self.test)["accuracy"]

    def floor(self) -> tuple[float, float]:
        import torch

        from topwork import accelerated
        from topwork.data.batching import Budget, plan
        from topwork.data.loop import autocast

        model = self.fresh()
        task, net = model.task, model.model.train()
        items = task.encode(self.train, "train", 0)
        places = plan([item.cost for item in items], Budget(self.batch))
        batches = [task.collate([items[place] for place in part], "train") for part in places]
        random.Random(0).shuffle(batches)
        optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, fused=True)
        precision = "bf16" if self.bf16 else "float32"
        start = time.process_time()
        for batch in batches * EPOCHS:
            with autocast(torch.device("cpu"), precision), accelerated(torch.device("cpu"), precision):
                loss = task.loss(net, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return time.process_time() - start, model.evaluate(self.test)["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 240), ("rounds", 3), ("batch", 16), ("length", 128), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--bf16", action="store_true", help="train under autocast")
    options = parser.parse_args()
    import datasets
    import torch
    import transformers
    import transformers.trainer

    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    contest = Contest(options.rows, options.batch, options.length, options.bf16)
    functions: dict[str, Callable[[], tuple[float, float]]] = {
        "topwork": contest.topwork,
        "topwork by cost": lambda: contest.topwork(batch_cost=contest.cost),
        "padding to the maximum": lambda: contest.transformers(padding=True),
        "group_by_length": lambda: contest.transformers(train_sampling_strategy="group_by_length"),
        "padding per batch": contest.transformers,
        "floor": contest.floor,
    }
    spent: dict[str, list[float]] = {name: [] for name in functions}
    reached: dict[str, list[float]] = {name: [] for name in functions}
    everything, contest.train = contest.train, contest.train[:48]
    for function in functions.values():
        function()  # warms up
    contest.train = everything
    for contest.turn in range(options.rounds):
        for name, function in functions.items():
            seconds, accuracy = function()
            spent[name].append(seconds)
            reached[name].append(accuracy)
    tell(spent, reached, options)


def tell(spent: dict[str, list[float]], reached: dict[str, list[float]], options: argparse.Namespace) -> None:
    """The ratios, and the held-out accuracy of each contestant: mean, and one by one."""
    print(
        f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; {EPOCHS} x {options.rows} rows each"
    )
    medians = {name: statistics.median(values) for name, values in spent.items()}
    means = {name: statistics.mean(values) for name, values in reached.items()}
    for name, seconds in medians.items():
        ratio = seconds / medians["topwork"]
        wanted = WANTED.get(name)
        asked = f" (asked {wanted}: {'OK' if ratio >= wanted else 'MISSED'})" if wanted else ""
        accuracies = " ".join(f"{value:.3f}" for value in reached[name])
        print(f"{name}: {seconds:.2f} s, {ratio:.2f} x topwork{asked}; accuracy {means[name]:.3f} ({accuracies})")
    best = max(means[name] for name in WANTED)
    worse = means["topwork"] < best - 0.01
    print(f"held-out accuracy: topwork {means['topwork']:.3f}, the better of the others {best:.3f}", end="")
    print(": MISSED" if worse else ": not worse")


if __name__ == "__main__":
    main()
