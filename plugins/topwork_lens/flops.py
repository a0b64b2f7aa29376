"""Floating-point operations of a model, per attention layer and whole, and the speed limit that they set.

Entry point: `count_flops`.

Removing a share p of the attention's operations makes a model at most 1 / (1 - p * a) times faster, when attention is
the share a of its operations. For a transformer of width d with a feed-forward part of 4 d, at S positions,
a = (2 d + S) / (6 d + S), whatever the number of attention heads (from 4 S d^2 multiply-adds for the projections,
2 S^2 d for scores and contexts, 8 S d^2 for the feed-forward part).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from topwork import AttentionLayer, Block, Json
from topwork_lens.layers.context import module_at
from topwork_lens.layers.projections import features
from topwork_lens.model_state import quiet


def attention_share(width: int, positions: int) -> float:
    """Return a = (2 d + S) / (6 d + S), the share of attention in a transformer layer's operations (see above)."""
    return (2 * width + positions) / (6 * width + positions)


def speed_limit(pruned: float, share: float) -> float:
    """Return 1 / (1 - p a), the most by which pruning can make a model faster.

    Args:
        pruned: p, the share of the attention's operations that is removed.
        share: a, the share of attention in all operations.

    Example:
        >>> speed_limit(0.5, 0.4)
        1.25
    """
    return 1 / (1 - pruned * share) if pruned * share < 1 else float("inf")


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one run of a model; a multiply-add counts two.

    Args:
        total: of the whole model.
        by_layer: of each attention layer, its projections included, by path; 0 for a layer that did not run.
        shared: of those, what makes the keys and values of groups that several attention heads share.
        by_block: of each block of neurons that was asked about: what makes and what reads them.
    """

    total: int
    by_layer: dict[str, int]
    shared: dict[str, int] = field(default_factory=dict)
    by_block: dict[str, int] = field(default_factory=dict)

    @property
    def attention(self) -> int:
        """Operations of all attention layers."""
        return sum(self.by_layer.values())

    @property
    def share(self) -> float:
        """Share of the attention layers in the total: a."""
        return self.attention / self.total if self.total else 0.0

    def limit(self, after: Flops) -> float:
        """Return 1 / (1 - p a), p the share of the attention's operations that `after` no longer has."""
        removed = 1 - after.attention / self.attention if self.attention else 0.0
        return speed_limit(removed, self.share)

    def without(self, layers: Sequence[AttentionLayer], pruned: Mapping[str, Sequence[int]]) -> int:
        """Return what would be left of the total if attention heads were pruned.

        Each has an equal part of its layer's operations, except shared keys and values, which go when the whole group
        does, or are copied for what is left of it. A layer that can only be pruned softly loses nothing.
        """
        left = self.total
        for layer in layers:
            now = len(layer.kept)
            if not now or not pruned.get(layer.path) or layer.prunable == "soft":
                continue
            shared = self.shared.get(layer.path, 0)
            kept, groups = _left_of(layer, pruned[layer.path])
            after = (self.by_layer[layer.path] - shared) * kept // now
            left += after + shared * groups // max(1, len(layer.groups_left)) - self.by_layer[layer.path]
        return left

    def json(self) -> dict[str, Json]:
        """Return the counts for a stage's result."""
        return {"total": self.total, "attention": self.attention, "layers": dict(self.by_layer)}


def _left_of(layer: AttentionLayer, pruned: Sequence[int]) -> tuple[int, int]:
    """Count attention heads, and key/value groups with copies, that a layer would have (see `strategies.plan`)."""
    kept = [index for index in layer.kept if index not in set(pruned)]
    counts = Counter(index * layer.groups // layer.heads for index in kept)
    copied = len(layer.groups_left) > len(set(layer.groups_left))
    return len(kept), len(kept) if copied or len(set(counts.values())) > 1 else len(counts)


class _Counter(TorchDispatchMode):
    """Mode that adds up torch's own formulas for every operation that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        output = function(*args, **kwargs)
        packet = function._overloadpacket
        if packet in flop_registry:
            self.total += flop_registry[packet](*args, **kwargs, out_val=output)
        elif str(packet) in _GROUPED:
            self.total += _grouped_flops(args[0], args[1], output)
        return output


#: products of tokens with the weights of their experts, for which torch has no formula
_GROUPED = ("aten._grouped_mm", "transformers.grouped_mm_fallback")


def _grouped_flops(a: torch.Tensor, b: torch.Tensor, output: torch.Tensor) -> int:
    """Return the operations of a grouped product: every row meets the matrix of its own group alone."""
    if a.dim() == b.dim() == 2:  # groups lie along the sum
        return 2 * a.shape[0] * a.shape[1] * b.shape[1]
    return 2 * output.numel() * a.shape[-1]


def count_flops(
    model: nn.Module, layers: Sequence[AttentionLayer], call: Callable[[], Any], blocks: Sequence[Block] = ()
) -> Flops:
    """Count the operations of matrix products, convolutions and attention kernels while `call` runs the model.

    Args:
        model: the model.
        layers: attention layers that are counted each.
        call: runs the model.
        blocks: blocks of neurons that are counted each.
    """
    counter = _Counter()
    by_layer = dict.fromkeys((layer.path for layer in layers), 0)
    shared = dict.fromkeys(by_layer, 0.0)
    by_block = dict.fromkeys((block.path for block in blocks), 0)
    begun: list[int] = []

    def enter(*_: Any) -> None:
        begun.append(counter.total)

    def leave(counts: dict[str, Any], path: str, share: float) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            ran = counter.total - begun.pop()
            counts[path] += ran if share == 1 else ran * share

        return hook

    with ExitStack() as stack:
        for layer in layers:
            module = module_at(model, layer.path)
            watched: list[tuple[nn.Module, Any, float]] = [(module, by_layer, 1.0)]
            watched += [(part, shared, share) for part, share in _sharing(module, layer)]
            for part, counts, share in watched:
                stack.callback(part.register_forward_pre_hook(enter).remove)
                stack.callback(part.register_forward_hook(leave(counts, layer.path, share)).remove)
        for block in blocks:
            around = module_at(model, block.inside)
            # the products of experts are all of one module, and all of them run along neurons
            makers = () if block.gate == "weight" else [producer.path for producer in block.producers]
            for path in (block.consumer, *makers, *block.between):
                part = around.get_submodule(path)
                stack.callback(part.register_forward_pre_hook(enter).remove)
                stack.callback(part.register_forward_hook(leave(by_block, block.path, 1.0)).remove)
        stack.enter_context(quiet(model))
        stack.enter_context(counter)
        call()
    return Flops(counter.total, by_layer, {path: round(count) for path, count in shared.items()}, by_block)


def _sharing(module: nn.Module, layer: AttentionLayer) -> list[tuple[nn.Module, float]]:
    """Return the projections that make shared keys and values, with the share of their output that those are."""
    features_of_groups: dict[str, int] = {}
    if layer.groups < layer.heads:
        for piece in layer.slices:
            path, _, name = piece.parameter.rpartition(".")
            if piece.per == "group" and name == "weight":
                features_of_groups[path] = features_of_groups.get(path, 0) + sum(map(len, piece.indices))
    projections = [(module.get_submodule(path), count) for path, count in features_of_groups.items()]
    return [(projection, count / max(1, features(projection))) for projection, count in projections]
