"""How fast a pruned model is, beside the limit that arithmetic sets, and how long pruning takes.

    python tests/benchmarks/lens_pruning.py --layers 4 --tokens 128 512

For 25, 50 and 75 % of the attention heads gone: the speed-up over the unpruned model (medians of interleaved runs, CPU
time), the limit 1 / (1 - p a) with a counted while the model runs, and their ratio. Then what removing half of the
attention heads of BERT-base takes, with its check and without: seconds, and the most that it allocates beside the
attention weights of one layer and the activations of the batch that it is checked with. Last, a deep and narrow toy.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from allocated import peak_bytes

from topwork_lens.flops import attention_share, count_flops, speed_limit
from topwork_lens.look import Look
from topwork_lens.pruning.probes import probe_inputs
from topwork_lens.pruning.slicing import cut
from topwork_lens.pruning.strategies import plan


def make(layers: int) -> Any:
    """The shape of BERT-base, with fewer layers."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    return BertModel(BertConfig(num_hidden_layers=layers, vocab_size=1000), add_pooling_layer=False).eval()


def seconds(function: Callable[[], Any]) -> float:
    """CPU time of one call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def unchecked(model: Any, gone: list[int]) -> None:
    """Cut every layer, without the check."""
    for layer in Look(model).layers:
        heads, groups, _ = plan(layer, gone)
        cut(model, layer, heads, groups)


def speeds(layers: int, items: int, tokens: int, runs: int) -> None:
    """Print one line for each share."""
    ids = torch.randint(0, 1000, (items, tokens))
    models = {0.0: make(layers)}
    for share in (0.25, 0.5, 0.75):
        models[share] = make(layers)
        unchecked(models[share], list(range(round(12 * share))))
    times: dict[float, list[float]] = {share: [] for share in models}
    with torch.no_grad():
        for run in range(runs + 1):
            for share, model in models.items():
                spent = seconds(lambda model=model: model(ids))
                if run:
                    times[share].append(spent)
    whole = statistics.median(times[0.0])
    flops = count_flops(models[0.0], Look(models[0.0]).layers, lambda: models[0.0](ids))
    print(f"{tokens} tokens: attention is {flops.share:.3f} of the operations ({attention_share(768, tokens):.3f})")
    for share in (0.25, 0.5, 0.75):
        found, limit = whole / statistics.median(times[share]), speed_limit(share, flops.share)
        print(f"  {share:.0%} gone: {found:.3f} times faster, limit {limit:.3f}, ratio {found / limit:.2f}", end=" ")
        print("(at least 0.9)", "ok" if found >= 0.9 * limit else "MISSED")


def operation(layers: int) -> None:
    """What removing half of the attention heads takes."""
    half = {number: list(range(6)) for number in range(layers)}
    model = make(layers)
    one, other, third = model, copy.deepcopy(model), copy.deepcopy(model)
    plain = seconds(lambda: unchecked(other, list(range(6))))
    checked = seconds(lambda: Look(one).prune_heads(half))
    print(f"removing half of {layers} layers: {plain:.3f} s (below 1 {'ok' if plain < 1 else 'MISSED'})", end=", ")
    print(f"with its check {checked:.2f} s (below 3 {'ok' if checked < 3 else 'MISSED'})")
    # The activations: all that a forward pass makes and keeps for a backward pass.
    probe = probe_inputs(third)
    activations = peak_bytes(lambda: third(**probe))
    attention = sum(one.numel() * one.element_size() for one in third.encoder.layer[0].attention.parameters())
    whole = sum(one.numel() * one.element_size() for one in third.parameters())
    # Made inside, so that what is given back of the model itself is counted.
    peak = peak_bytes(lambda: Look(make(layers)).prune_heads(half, check=probe)) - whole
    bound = attention + activations
    print(
        f"beside the model {peak / 2**20:.1f} MiB, one layer's attention and the activations {bound / 2**20:.1f} MiB:",
        end=" ",
    )
    print("ok" if peak <= bound else "MISSED")


def toy(layers: int = 24) -> None:
    """What removing one attention head of each layer of a deep and narrow model takes: all of it is bookkeeping."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=32, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=64, vocab_size=50
    )
    models = [BertModel(config).eval() for _ in range(3)]
    Look(models[0]).prune_heads({0: [1]})
    plain = seconds(lambda: unchecked(models[1], [1]))
    checked = seconds(lambda: Look(models[2]).prune_heads({number: [1] for number in range(layers)}))
    bar = "ok" if plain < 0.3 else "MISSED"
    print(
        f"one head of each of {layers} narrow layers: {plain:.3f} s (below 0.3 {bar}), with its check {checked:.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("items", 4), ("layers", 4), ("runs", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 512])
    options = parser.parse_args()
    for tokens in options.tokens:
        speeds(options.layers, options.items, tokens, options.runs)
    operation(12)
    toy()


if __name__ == "__main__":
    main()
