"""How fast a pruned model is, beside the limit that arithmetic sets, and how long pruning takes.

    python tests/benchmarks/lens_pruning.py --layers 4 --tokens 128 512

For 25, 50 and 75 % of the attention heads gone: the speed-up over the unpruned model (medians of interleaved runs, CPU
time), the limit 1 / (1 - p a) with a counted while the model runs, and their ratio. Then the seconds that removing half
of the attention heads takes, with its check and without.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from topwork_lens.flops import attention_share, count_flops, speed_limit
from topwork_lens.forms import plan
from topwork_lens.look import Look
from topwork_lens.slicing import cut


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
        print(f"  {share:.0%} gone: {found:.3f} times faster, limit {limit:.3f}, ratio {found / limit:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("items", 4), ("layers", 4), ("runs", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--tokens", type=int, nargs="+", default=[128, 512])
    options = parser.parse_args()
    for tokens in options.tokens:
        speeds(options.layers, options.items, tokens, options.runs)
    half = {number: list(range(6)) for number in range(options.layers)}
    model = make(options.layers)
    other = copy.deepcopy(model)
    plain = seconds(lambda: unchecked(other, list(range(6))))
    print(f"removing half: {plain:.3f} s", end=", ")
    print(f"with its check {seconds(lambda: Look(model).prune_heads(half)):.2f} s")


if __name__ == "__main__":
    main()
