"""Entropy and distance of every attention head over long inputs, beside keeping all attention weights.

    python tests/benchmarks/lens_statistics.py --tokens 1024 2048 4096

The other side is what transformers offers: eager attention with `output_attentions=True`, which keeps the weights of
all layers, and the two figures computed from them afterwards. Both sides take turns on one model; printed are CPU
seconds (medians), the most that each side allocates, and that both find the same figures. Extra memory is what goes
beyond a bare forward pass. The default shape is MiniLM's: 6 layers, 12 attention heads, width 384; BERT-base has
`--width 768`. On AMD's CPUs with AVX-512 topwork sends products through oneDNN, so that its side may take less than the
bare pass; `--without-onednn` shows what is left of the ratio elsewhere.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from contextlib import nullcontext
from functools import partial
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from allocated import peak_bytes

from topwork_lens.capture import capture
from topwork_lens.capture import fast_reductions as quick
from topwork_lens.look import Look

#: of the other side's memory, by tokens
MEMORY = {1024: 0.12, 2048: 0.07, 4096: 0.06}


def kept(model: Any, ids: torch.Tensor) -> list[torch.Tensor]:
    """[2, heads] for each layer, from attention weights that were all kept."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = model(ids, output_attentions=True).attentions
        places = torch.arange(ids.shape[1], dtype=torch.float32)
        away = (places[:, None] - places[None]).abs()
        found = []
        for weights in attentions:
            entropy = -torch.xlogy(weights, weights).sum(-1)
            distance = (weights * away).sum(-1)
            found.append(torch.stack([entropy.mean((0, 2)), distance.mean((0, 2))]))
    model.set_attn_implementation("sdpa")
    return found


def streamed(model: Any, ids: torch.Tensor) -> list[torch.Tensor]:
    """The same by topwork."""
    look = Look(model)
    with torch.no_grad(), look.capture("entropy", "distance") as seen:
        model(ids)
    both = [(seen["entropy", layer.path], seen["distance", layer.path]) for layer in look.layers]
    return [torch.stack([entropy.mean((0, 2)), distance.mean((0, 2))]) for entropy, distance in both]


def bare(model: Any, ids: torch.Tensor) -> None:
    """The forward pass, nothing kept."""
    with torch.no_grad():
        model(ids)


def seconds(function: Any, *args: Any) -> float:
    start = time.process_time()
    function(*args)
    return time.process_time() - start


def main() -> None:
    from transformers import BertConfig, BertModel

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("layers", 6), ("width", 384), ("heads", 12), ("runs", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--tokens", type=int, nargs="+", default=list(MEMORY))
    parser.add_argument("--without-onednn", action="store_true")
    options = parser.parse_args()
    if options.without_onednn:
        for module in (capture, quick):
            setattr(module, "accelerated", lambda *_: nullcontext())  # noqa: B010
    sizes: dict[str, Any] = {"hidden_size": options.width, "num_attention_heads": options.heads}
    sizes["intermediate_size"] = 4 * options.width
    config = BertConfig(**sizes, num_hidden_layers=options.layers, max_position_embeddings=max(options.tokens))
    torch.manual_seed(0)
    model = BertModel(config, add_pooling_layer=False).eval()
    for tokens in options.tokens:
        ids = torch.randint(0, 1000, (1, tokens))
        sides = {"all kept": kept, "streamed": streamed, "bare": bare}
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(options.runs):
            for name, side in sides.items():
                times[name].append(seconds(side, model, ids))
        spent = {name: statistics.median(values) for name, values in times.items()}
        memory = {name: peak_bytes(partial(side, model, ids)) for name, side in sides.items()}
        differ = max(
            float(((one - other).abs() / other.abs()).max())
            for one, other in zip(streamed(model, ids), kept(model, ids), strict=True)
        )
        print(f"{tokens} tokens (the figures differ by {differ:.1g} at most)")
        for name in sides:
            print(f"  {name}: {spent[name]:.2f} s, {memory[name] / 2**20:.0f} MiB")
        wanted = MEMORY.get(tokens, 0.06)
        extra = {name: memory[name] - memory["bare"] for name in sides}
        share, faster = extra["streamed"] / extra["all kept"], spent["all kept"] / spent["streamed"]
        print(f"  extra memory {share:.3f} (at most {wanted}) {'ok' if share <= wanted else 'MISSED'}", end=", ")
        print(f"{faster:.2f} times faster (at least 2) {'ok' if faster >= 2 else 'MISSED'}")


if __name__ == "__main__":
    main()
