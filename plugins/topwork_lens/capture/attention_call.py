"""One computation of attention, as it was seen: what was computed, and how its weights can be computed again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from topwork import AttentionLayer
from topwork_lens.capture.tensors import Mask

#: queries whose mask or weights exist at a time: few enough to stay in a processor's cache
BLOCK = 32
#: numbers of weights that exist at a time on a GPU, whose kernels want much work each: 256 MB
GPU_NUMBERS = 2**26


@dataclass(frozen=True)
class Formula:
    """Operands of softmax(scale * query @ key + mask).

    Args:
        query: [items, heads, queries, width].
        key: [items, heads or groups, keys, width].
        scale: factor on the scores.
        mask: which keys may be attended to.
    """

    query: torch.Tensor
    key: torch.Tensor
    scale: float
    mask: Mask


@dataclass
class AttentionCall:
    """One computation of attention.

    Args:
        layer: the attention layer that computed it.
        context: [items, queries, heads, width] as the model computed it; None when only weights were seen.
        weights: [items, heads, queries, keys] when the model made them itself.
        allowed: (first query, last query + 1) -> [items or 1, heads or 1, queries or 1, keys] booleans: the keys that
            those queries may attend to; None: all.
        block: (first query, last query + 1, values=None) -> context and weights of those queries, recomputed; with
            other values of the same form, when some are given.
        shape: (items, heads, queries, keys).
        dropped: True when dropout was at work: the context then differs from weights @ values.
        values: [items, heads or groups, keys, width], or None.
        scaled: True when the module's function gives less than weights @ values: a sink took its share afterwards.
        parts: [heads, numbers] in float64: weights @ values of the model's own weights, recomputed; or None.
        formula: operands of the weights, if they are made in the usual way; or None.
    """

    layer: AttentionLayer
    context: torch.Tensor | None
    weights: torch.Tensor | None
    allowed: Callable[[int, int], torch.Tensor] | None
    block: Callable[..., tuple[torch.Tensor, torch.Tensor]] | None
    shape: tuple[int, int, int, int]
    dropped: bool = False
    values: torch.Tensor | None = None
    scaled: bool = False
    parts: torch.Tensor | None = None
    formula: Formula | None = None

    @property
    def device(self) -> torch.device:
        """Device of the computation."""
        tensor = self.weights if self.context is None else self.context
        assert tensor is not None
        return tensor.device

    @property
    def block_size(self) -> int:
        """Number of queries whose weights may exist at a time."""
        items, heads, _, keys = self.shape
        return BLOCK if self.device.type == "cpu" else max(BLOCK, GPU_NUMBERS // max(1, items * heads * keys))

    def valid_rows(self, start: int, stop: int) -> torch.Tensor:
        """Return [items, queries]: True where one of those queries may attend to something."""
        items = self.shape[0]
        if self.allowed is None:
            return torch.ones(items, stop - start, dtype=torch.bool, device=self.device)
        return self.allowed(start, stop).any(-1).any(1).expand(items, stop - start)

    @cached_property
    def attending(self) -> torch.Tensor:
        """[items, queries]: True where a query may attend to something; made without the whole mask at once."""
        return torch.cat([self.valid_rows(start, stop) for start, stop in self._blocks()], 1)

    @cached_property
    def valid_queries(self) -> torch.Tensor:
        """[items, queries]: True where a query is no padding.

        In self-attention a position that no query may attend to is padding; elsewhere, a query without any key.
        """
        items, _, queries, keys = self.shape
        if self.allowed is None or self.layer.kind != "self" or queries != keys:
            return self.attending
        attended = [self.allowed(start, stop).any(1).any(1).expand(items, keys) for start, stop in self._blocks()]
        return torch.stack(attended).any(0)

    def _blocks(self) -> list[tuple[int, int]]:
        queries, size = self.shape[2], self.block_size
        return [(start, min(queries, start + size)) for start in range(0, queries, size)]

    @cached_property
    def largest(self) -> float:
        """Largest absolute number of the context."""
        if self.context is None or not self.context.numel():
            return 0.0
        lowest, highest = self.context.detach().aminmax()
        return float(torch.maximum(-lowest, highest))

    @cached_property
    def projected(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Values and context along one random direction; None when they are not float32.

        Weights explain the context only if they explain it along any direction, and what they leave unexplained shows
        along a random one (Freivalds 1977): a product with one number for each key instead of `width`.
        """
        values, context = self.values, self.context
        if values is None or context is None or values.dim() != 4 or values.dtype != torch.float32:
            return None
        if values.shape[-1] != context.shape[-1]:
            return None
        direction = torch.randn(values.shape[-1], generator=torch.Generator().manual_seed(0)).to(values)
        return values.detach() @ direction, context.detach() @ direction
