"""Clark's statistics of every attention head beside a bare forward pass: time and memory.

    python tests/benchmarks/clark_statistics.py --tokens 512

The model is a random BERT-base (12 layers, 12 attention heads, width 768). Statistics are entropy, breadth, confidence
and the shares of attention on the previous, same and next token, on [CLS], [SEP] and a named token, beside those of
uniform attention. Both sides take turns; printed are CPU seconds of a row (medians) and the goal, at least half the
speed of the bare pass. On AMD's CPUs with AVX-512 topwork sends products through oneDNN, for both sides.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from allocated import peak_bytes

from topwork import Units, accelerated
from topwork_analyses.attention_patterns.key_sets import key_sets
from topwork_analyses.attention_patterns.rows_of_weights import RowWeights
from topwork_analyses.attention_patterns.statistics_of_heads import Means, head_statistics
from topwork_lens.look import Look


def studied(model: Any, ids: torch.Tensor, units: Units, means: Means) -> None:
    look = Look(model)
    with torch.no_grad(), look.capture("weights") as captured:
        model(ids)
    item = RowWeights(0, units, captured)
    for layer in look.layers:
        for weights, valid in item.of(layer):
            sets = key_sets(units, layer, *weights.shape[1:], decoder_names=True, tokens=["."])
            means.add(layer.path, head_statistics(weights, valid, sets))


def bare(model: Any, ids: torch.Tensor) -> None:
    with torch.no_grad(), accelerated(torch.device("cpu")):
        model(ids)


def main() -> None:
    from transformers import BertConfig, BertModel

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layers", 12), ("width", 768), ("heads", 12), ("runs", 5), ("tokens", 512)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    config = BertConfig(
        hidden_size=options.width,
        num_attention_heads=options.heads,
        num_hidden_layers=options.layers,
        intermediate_size=4 * options.width,
        max_position_embeddings=options.tokens,
    )
    torch.manual_seed(0)
    model = BertModel(config, add_pooling_layer=False).eval()
    ids = torch.randint(0, 1000, (1, options.tokens))
    names = ["[CLS]", *(["word"] * (options.tokens - 3)), ".", "[SEP]"]
    units = Units("token", names, [0, options.tokens - 1])
    means = Means()
    times: dict[str, list[float]] = {"bare": [], "statistics": []}
    for _ in range(options.runs):
        for name in times:
            start = time.process_time()
            bare(model, ids) if name == "bare" else studied(model, ids, units, means)
            times[name].append(time.process_time() - start)
    spent = {name: statistics.median(values) for name, values in times.items()}
    memory = (peak_bytes(lambda: studied(model, ids, units, means)) - peak_bytes(lambda: bare(model, ids))) / 2**20
    share = spent["bare"] / spent["statistics"]
    print(f"{options.tokens} tokens: bare {spent['bare']:.2f} s, with statistics {spent['statistics']:.2f} s a row,")
    print(f"{share:.2f} of the speed ({'ok' if share >= 0.5 else 'MISSED'}), {memory:.0f} MiB more")


if __name__ == "__main__":
    main()
