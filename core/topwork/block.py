"""`Block`: the description of feed-forward neurons of a model.

The description stands in the core so that a plugin can describe a block of its own (hook `block`) without importing the
lens. Indices of neurons are always *original* indices: those before pruning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from topwork.attention_layer import Size, Slices

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Producer:
    """A projection whose output becomes the neurons of a block.

    Args:
        path: its path, relative to the module that the block lies inside of.
        form: which of its output features make neuron j of n: "rows" (j), "halves" (j and n + j, a fused gate) or
            "pairs" (2 j and 2 j + 1).
    """

    path: str
    form: Literal["rows", "halves", "pairs"] = "rows"


@dataclass(repr=False)
class Block:
    """Feed-forward neurons: input features of one projection, each made by rows of its own in the projections before.

    Args:
        path: module path of the consumer, the projection that reads the neurons: a factor on a feature of its input is
            a gate.
        inside: module path of the smallest module that runs both producers and consumer.
        width: neurons at the beginning (original count).
        kept: original indices of the neurons that the block still has, ascending; None means all of them.
        producers: what makes the neurons; two when the block is gated.
        between: paths, relative to `inside`, of modules between them that have parameters for each neuron: depthwise
            convolutions, batch norms.
        channels: dimension of the consumer's input along which the neurons lie: -1, or 1 for convolutions.
        callers: module paths that share the consumer.
        slices: what pruning cuts; parameters are relative to `inside`.
        sizes: what pruning corrects.
        adapter: as of `AttentionLayer`.
        split: input of the consumer -> [..., neurons, 1].
        merge: the inverse of `split`.
        prunable: "hard" (slices) or "" (refused).
        why: the reason of a refusal, one sentence.
        pattern: how it was found; empty for a block that a plugin describes.
        gate: where a factor acts: on the input of the consumer, or on the parameter of its first slices, which reads
            the neurons: experts whose weights are 3-D parameters, where `producers` are parameters too.

    Example:
        >>> block = Block("mlp.down", inside="mlp", width=4, kept=(0, 2, 3))
        >>> block.removed
        (1,)
    """

    path: str
    inside: str
    width: int
    kept: tuple[int, ...] = None  # type: ignore[assignment]  # filled by `__post_init__`
    producers: tuple[Producer, ...] = ()
    between: tuple[str, ...] = ()
    channels: int = -1
    callers: tuple[str, ...] = ()
    slices: tuple[Slices, ...] = ()
    sizes: tuple[Size, ...] = ()
    adapter: Callable[[Any, Sequence[int]], Callable[[], None] | None] | None = None
    split: Callable[[torch.Tensor], torch.Tensor] | None = None
    merge: Callable[[torch.Tensor], torch.Tensor] | None = None
    prunable: Literal["hard", ""] = "hard"
    why: str = ""
    pattern: str = ""
    gate: Literal["input", "weight"] = "input"

    def __post_init__(self) -> None:
        self.kept = tuple(range(self.width)) if self.kept is None else tuple(self.kept)
        self.callers = tuple(self.callers) or (self.path,)

    def __repr__(self) -> str:
        neurons = f"{self.width}" if len(self.kept) == self.width else f"{len(self.kept)} of {self.width}"
        made = " and ".join(f"{producer.path} ({producer.form})" for producer in self.producers)
        return f"Block({self.path!r}, {neurons} neurons of {made}, {self.prunable or 'not prunable'})"

    @property
    def consumer(self) -> str:
        """Path of the consumer, relative to `inside`."""
        return self.path[len(self.inside) :].lstrip(".")

    @property
    def removed(self) -> tuple[int, ...]:
        """Original indices of the neurons that are pruned."""
        kept = set(self.kept)
        return tuple(index for index in range(self.width) if index not in kept)

    # ------------------------------------------------------------------ what blocks and attention layers share

    @property
    def count(self) -> int:
        """Neurons at the beginning."""
        return self.width

    @property
    def output(self) -> str:
        """Path of the module whose input is gated, relative to `path`: the consumer itself."""
        return ""

    @property
    def groups(self) -> int:
        """Units that share parameters: none."""
        return 0

    @property
    def groups_left(self) -> tuple[int, ...]:
        """Groups that are left: none."""
        return ()

    @property
    def variant(self) -> Mapping[str, Any] | None:
        """Changes to the description with which the block was pruned: none."""
        return None

    @property
    def mixed(self) -> str:
        """Why a feature is not one neuron: such blocks are not listed."""
        return ""
