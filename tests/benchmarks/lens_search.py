"""A mask search to nine tenths of the accuracy: topwork's, beside the loop of transformers' run_bertology.

    python tests/benchmarks/lens_search.py --rows 64

Both search on the same small trained BERT and the same rows of varied length. The loop is stated again here as that
script had it: eager attention, every row padded to the longest, full backward with the gradients of all parameters,
scores anew at every step, a tenth of the attention heads at a time; with its gradients set to zero between batches
(without that the script's scores were wrong) and an end. Printed: CPU seconds, ratios, and the size and accuracy of the
masks.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from topwork import Batch, Item
from topwork_lens.flops import count_flops
from topwork_lens.look import Look
from topwork_lens.schedule import Limits, Schedule
from topwork_lens.scores import Choice

LONGEST, WORDS = 128, 30


def rows(count: int, seed: int) -> list[tuple[torch.Tensor, int]]:
    """Sequences of 8 to 128 words and whether the word 3 stands among them; most are short."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number in range(count):
        length = int(8 + (LONGEST - 8) * torch.rand(1, generator=generator) ** 3)
        ids = torch.randint(4, WORDS, (length,), generator=generator)
        ids[0] = 1
        if number % 2:
            ids[int(torch.randint(1, length, (1,), generator=generator))] = 3
        found.append((ids, number % 2))
    return found


def batches(chosen: list[tuple[torch.Tensor, int]], size: int, padded_to: int = 0) -> Iterator[Batch]:
    """Batches in the order of the rows (padded to one length), or sorted by length."""
    order = list(range(len(chosen)))
    if not padded_to:
        order.sort(key=lambda number: len(chosen[number][0]))
    for start in range(0, len(order), size):
        part = [chosen[number] for number in order[start : start + size]]
        longest = padded_to or max(len(ids) for ids, _ in part)
        ids = torch.stack([torch.nn.functional.pad(one, (0, longest - len(one))) for one, _ in part])
        inputs = {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": torch.tensor([y for _, y in part])}
        yield Batch(inputs, [Item(number, {}) for number in range(len(part))])


def losses(model: Any, batch: Batch) -> torch.Tensor:
    inputs = {key: value for key, value in batch.inputs.items() if key != "labels"}
    return torch.nn.functional.cross_entropy(model(**inputs).logits, batch.inputs["labels"], reduction="none")


def accuracy(model: Any, many: list[Batch]) -> float:
    """Of the model as it is now."""
    right = total = 0
    with torch.no_grad():
        for batch in many:
            inputs = {key: value for key, value in batch.inputs.items() if key != "labels"}
            right += int((model(**inputs).logits.argmax(-1) == batch.inputs["labels"]).sum())
            total += len(batch)
    return right / total


def trained(layers: int, heads: int, width: int, steps: int) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    config = BertConfig(**sizes, intermediate_size=4 * width, vocab_size=WORDS, initializer_range=0.05, num_labels=2)
    model = BertForSequenceClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    for step in range(steps):
        for batch in batches(rows(32, 1000 + step), 32):
            losses(model, batch).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.eval()


def reference(model: Any, many: list[Batch], threshold: float) -> tuple[dict[str, list[int]], int]:
    """run_bertology's loop: masks by path, and passes over the rows."""
    model.set_attn_implementation("eager")
    look = Look(model)
    layers = look.layers
    total = sum(layer.heads for layer in layers)
    at_once = max(1, int(total * 0.1))
    gone: dict[str, list[int]] = {}
    passes = 0

    def score() -> dict[tuple[str, int], float]:
        from topwork_lens.gates import gated

        found = {(layer.path, number): 0.0 for layer in layers for number in range(layer.heads)}
        for batch in many:
            leaves = {
                layer.path: torch.tensor([0.0 if n in gone.get(layer.path, ()) else 1.0 for n in range(layer.heads)])
                for layer in layers
            }
            for leaf in leaves.values():
                leaf.requires_grad_()
            with gated(model, {layer.path: (layer, leaves[layer.path]) for layer in layers}):
                loss = model(**batch.inputs, output_attentions=True).loss
            loss.backward()
            model.zero_grad()
            for path, leaf in leaves.items():
                for number, value in enumerate(leaf.grad.abs().tolist()):
                    found[path, number] += value
        for layer in layers:
            norm = sum(found[layer.path, n] ** 2 for n in range(layer.heads)) ** 0.5 + 1e-20
            for number in range(layer.heads):
                found[layer.path, number] /= norm
        return found

    def measured(masks: dict[str, list[int]]) -> float:
        with look.mask_heads(masks):
            return accuracy(model, many)

    first, best = measured({}), {}
    while True:
        scores = score()
        passes += 2
        left = sorted((value, head) for head, value in scores.items() if head[1] not in gone.get(head[0], ()))
        if not left:
            break
        gone = {path: list(numbers) for path, numbers in gone.items()}
        for _, (path, number) in left[:at_once]:
            gone.setdefault(path, []).append(number)
        if measured(gone) < threshold * first:
            break
        best = gone
    model.set_attn_implementation("sdpa")
    return best, passes


def search(model: Any, many: list[Batch], threshold: float, **options: Any) -> dict[str, list[int]]:
    """topwork's search on the same model."""
    look = Look(model)
    layers = look.layers

    def measured(masks: dict[str, list[int]]) -> float:
        with look.mask_heads(masks):
            return accuracy(model, many)

    def score(masks: dict[str, list[int]]) -> Any:
        with look.mask_heads(masks):
            return look.importance(many, row_losses=losses)

    total = sum(layer.heads for layer in layers)
    flops = count_flops(model, layers, lambda: accuracy(model, many[:1]))
    bisect = options.pop("bisect", False)
    schedule = Schedule(
        layers,
        Choice(at_least=0),
        max(1, int(total * 0.1)),
        Limits(metric=threshold),
        flops,
        measured,
        score,
        **options,
    )
    return (schedule.bisect() if bisect else schedule.run()).gone


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds, and what came out."""
    start = time.process_time()
    found = function()
    return time.process_time() - start, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("rows", 64), ("layers", 4), ("heads", 8), ("width", 128), ("steps", 150)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    model = trained(options.layers, options.heads, options.width, options.steps)
    chosen = rows(options.rows, 1)
    padded, sorted_ones = list(batches(chosen, 8, LONGEST)), list(batches(chosen, 16))
    other = list(batches(rows(400, 2), 32))
    print(f"accuracy {accuracy(model, sorted_ones):.3f}, on other rows {accuracy(model, other):.3f}")
    base, (mask, _) = timed(lambda: reference(model, padded, 0.9))
    ways: dict[str, Callable[[], Any]] = {
        "the same algorithm": lambda: search(model, sorted_ones, 0.9, iterative=True),
        "scored once": lambda: search(model, sorted_ones, 0.9),
        "scored once, bisection": lambda: search(model, sorted_ones, 0.9, bisect=True),
    }
    found = {"run_bertology's loop": (base, mask), **{name: timed(way) for name, way in ways.items()}}
    for name, (spent, masks) in found.items():
        with Look(model).mask_heads(masks):
            quality = accuracy(model, other)
        removed = sum(map(len, masks.values()))
        print(f"{name}: {spent:.2f} s ({base / spent:.1f}x), {removed} gone, accuracy on other rows {quality:.3f}")


if __name__ == "__main__":
    main()
