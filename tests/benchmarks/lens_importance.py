"""How long importance takes on a BERT-base shape, beside a bare forward and activation-backward (its floor).

    python tests/benchmarks/lens_importance.py --items 8 --tokens 128 --layers 12

Prints medians of interleaved runs and their ratio, and the time that pruning half of the attention heads takes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from topwork import Batch, Item
from topwork_lens.importance import frozen
from topwork_lens.look import Look


def make(layers: int) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(num_hidden_layers=layers, vocab_size=1000)).eval()


def losses(model: Any, batch: Batch) -> torch.Tensor:
    inputs = {key: value for key, value in batch.inputs.items() if key != "labels"}
    return torch.nn.functional.cross_entropy(model(**inputs).logits, batch.inputs["labels"], reduction="none")


def floor(model: Any, batch: Batch) -> None:
    """Forward and backward through the activations, no parameter gradients."""
    with frozen(model):
        embedded = model.bert.embeddings(input_ids=batch.inputs["input_ids"]).detach().requires_grad_()
        inputs = {"inputs_embeds": embedded, "attention_mask": batch.inputs["attention_mask"]}
        loss = torch.nn.functional.cross_entropy(model(**inputs).logits, batch.inputs["labels"])
        torch.autograd.grad(loss, embedded)


def measured(function: Callable[[], Any]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("items", 8), ("tokens", 128), ("layers", 12), ("runs", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    model = make(options.layers)
    ids = torch.randint(0, 1000, (options.items, options.tokens))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.zeros(options.items).long()}
    batch = Batch(inputs, [Item(row, {}) for row in range(options.items)])
    look = Look(model)
    layers = look.layers

    def importance() -> None:
        # The second batch of a run: the first one is also checked for rows that influence each other.
        from topwork_lens.importance import Sums, _gradients

        sums = Sums()
        sums.independent = True
        with frozen(model):
            _gradients(model, layers, batch, losses, sums, "example", False)

    times: dict[str, list[float]] = {"importance": [], "floor": []}
    for run in range(options.runs + 1):
        for name, function in (("importance", importance), ("floor", lambda: floor(model, batch))):
            spent = measured(function)
            if run:
                times[name].append(spent)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"importance {medians['importance']:.3f} s, floor {medians['floor']:.3f} s", end=", ")
    print(f"ratio {medians['importance'] / medians['floor']:.3f}")
    half = {number: list(range(0, 12, 2)) for number in range(options.layers)}
    print(f"pruning half with its check: {measured(lambda: look.prune_heads(half)):.2f} s")


if __name__ == "__main__":
    main()
