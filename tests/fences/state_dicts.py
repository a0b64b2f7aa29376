"""The state dict of every case as a tree that is short and can be read: `state_dicts.json`.

The names are split at their dots; siblings that are equal stand in one entry, their names joined by `|`; a leaf is the
dtype and the shape.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def described(model: nn.Module) -> dict[str, str]:
    """Name -> dtype and shape of every tensor of the state dict."""
    return {
        name: f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
        for name, tensor in model.state_dict().items()
        if isinstance(tensor, torch.Tensor)
    }


def folded(flat: dict[str, str]) -> Any:
    """The tree of a flat dict of names."""
    children: dict[str, dict[str, str]] = {}
    for name, leaf in flat.items():
        first, _, rest = name.partition(".")
        children.setdefault(first, {})[rest] = leaf
    merged: list[tuple[list[str], Any]] = []
    for name, below in children.items():
        tree = below[""] if "" in below else folded(below)
        equal = next((names for names, known in merged if known == tree), None)
        if equal is None:
            merged.append(([name], tree))
        else:
            equal.append(name)
    return {"|".join(names): tree for names, tree in merged}


def unfolded(tree: Any, prefix: str = "") -> dict[str, str]:
    """The inverse of `folded`, but for the order."""
    if isinstance(tree, str):
        return {prefix: tree}
    return {
        name: leaf
        for names, below in tree.items()
        for step in names.split("|")
        for name, leaf in unfolded(below, f"{prefix}.{step}" if prefix else step).items()
    }
