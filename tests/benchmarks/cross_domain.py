"""Michel's cross-domain correlation on two real data sets: do the same attention heads matter on the other one?

    python tests/benchmarks/cross_domain.py [--steps 200] [--rows 150]

A small network learns the roles of tokens (function, call, attribute, parameter ...) in Python's standard library. Each
attention head is removed by itself on held-out lines of that library, and on lines of NumPy: other people's code, of
another kind, which every installation of torch brings. Printed is how the effects on the two agree, beside .56 (news,
forums) and .68 (matched and mismatched genres) in the paper.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy
import torch

import topwork
from topwork_bases.samples import python_tokens

CONFIG = {
    "model_type": "bert",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "intermediate_size": 128,
    "max_position_embeddings": 128,
}


def lines_of_numpy(known: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of NumPy's modules in the layout of the sample, without lines that the standard library has too."""
    folder = Path(numpy.__file__).parent
    files = sorted((folder / "lib").glob("*.py")) + sorted((folder / "ma").glob("*.py"))
    sources = [(file.stem, file.read_text(encoding="utf-8")) for file in files]
    modules, python_tokens.module_sources = python_tokens.module_sources, lambda split: iter(sources)
    try:
        rows = python_tokens.python_tokens("train")
    finally:
        python_tokens.module_sources = modules
    seen = {tuple(row["words"]) for row in known}
    return [row for row in rows if tuple(row["words"]) not in seen]


def main() -> None:
    """Train, remove each attention head on both data sets, and print how the effects agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rows", type=int, default=150)
    options = parser.parse_args()
    begun = time.process_time()
    train, test = python_tokens.python_tokens("train"), python_tokens.python_tokens("test")
    elsewhere = lines_of_numpy(train + test)
    torch.manual_seed(0)
    work = topwork.build("token-classification", {"config": CONFIG}, rows=train)
    sides = {"evaluate": test[: options.rows], "calibrate": elsewhere[: options.rows]}
    settings = {"steps": options.steps, "batch_size": 16, "learning_rate": 2e-3, "checkpoint_every": "never"}
    work.apply("train", {"train": train, **sides}, **settings)
    print(f"{len(train)} lines to learn from; to test on {len(test)} of the library, {len(elsewhere)} of NumPy")
    result = work.apply("head_effects", sides, other_role="calibrate", tables=["one_removed"], draws=2000)
    for name, role in (("standard library", "evaluate"), ("NumPy", "calibrate")):
        metrics = work.apply("evaluate", sides, role=role)["metrics"]
        print(f"{name:18} {metrics}")
    for line in result["agreement"]:
        print(
            f"{line['measure']:8} {line['kind']:9} {line['estimate']:.2f} [{line['low']:.2f}, {line['high']:.2f}],"
            f" p {line['p']:.3f}, {line['pairs']} attention heads"
        )
    print(f"{time.process_time() - begun:.0f} s of CPU")


if __name__ == "__main__":
    main()
