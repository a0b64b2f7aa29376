"""`AttentionLayer`: the description of one attention layer of a model.

The description stands in the core so that a plugin can describe an attention module of its own (hook `attention_layer`)
without importing the lens. Indices of attention heads are always *original* indices: those before pruning.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Side = Literal["encoder", "decoder", "backbone"]
Kind = Literal["self", "cross"]
Form = Literal["dense", "windowed", "reduced", "deformable", "banded"]


@dataclass(frozen=True)
class Slices:
    """Indices of a parameter along one dimension, by the attention head that they belong to.

    Args:
        parameter: path of the parameter, relative to the attention module: "query.weight", "c_attn.bias" ...
        dim: the dimension that is cut.
        indices: for each attention head *as the module stands now*, its positions along `dim`. Fused and interleaved
            projections are nothing but other indices.
        per: "head", or "group" when a group of query heads shares it (keys and values under grouped-query attention):
            then `indices` has one list for each group.
    """

    parameter: str
    dim: int
    indices: Sequence[Sequence[int]]
    per: Literal["head", "group"] = "head"


@dataclass(frozen=True)
class Size:
    """An integer attribute that a module remembers of its size and that pruning corrects after slicing.

    Args:
        attribute: path relative to the attention module: "num_heads", "self.all_head_size" ...
        factor: the corrected value is `count * factor`.
        of: what is counted: kept attention heads, kept key/value groups, or ("ratio") attention heads of a group.
    """

    attribute: str
    factor: int = 1
    of: Literal["heads", "groups", "ratio"] = "heads"


@dataclass(repr=False)
class AttentionLayer:
    """One attention layer.

    Args:
        path: module path of the attention module in the model, such as "encoder.layer.0.attention".
        output: path, relative to the attention module, of its output projection: the input of that module is the
            context, and a factor on a slice of it is a gate. Empty when `split` says otherwise.
        heads: attention heads at the beginning (original count).
        width: width of one attention head's context.
        kept: original indices of the attention heads that the module still has, ascending; None means all of them.
        groups: key/value groups at the beginning; equal to `heads` without grouped-query attention.
        groups_left: original indices of the key/value groups that the module still has; None means all of them.
        callers: module paths that share this very module (albert names one module for all layers).
        side: part of the model in which the layer stands.
        kind: "self", or "cross" when the keys come from another sequence.
        form: form of the attention weights.
        slices: what pruning cuts.
        sizes: what pruning corrects.
        adapter: a named function that corrects what neither slices nor sizes can say; called as
            `adapter(module, kept_positions)` after slicing, positions counted before it; what it changes besides
            attributes of modules it takes back in the callable that it may return.
        split: context -> [rows, ..., heads, width]; None means: the last dimension is heads * width, in that order.
        merge: the inverse of `split`.
        prunable: "hard" (slices), "soft" (compact parameters, full width at run time) or "" (refused).
        why: the reason of a refusal or of softness, one sentence.
        notes: deprecated: a mapping with any of "row" (now `pattern`), "unseen" and "variant".
        pattern: name of the lens's pattern by which the layer was described; empty for a layer that a plugin describes.
        unseen: why the attention weights cannot be captured; empty when they can.
        variant: changes to the description with which the layer was pruned, as the manifest keeps them; None for none.
        mixed: why a slice of the context is not the output of one attention head, so that nothing can be masked, scored
            or pruned by slices; empty when nothing says so.

    Example:
        >>> layer = AttentionLayer("encoder.layer.0.attention", "out", heads=4, width=8, kept=(0, 2, 3))
        >>> layer.removed
        (1,)
    """

    path: str
    output: str
    heads: int
    width: int
    kept: tuple[int, ...] = None  # type: ignore[assignment]  # filled by `__post_init__`
    groups: int = 0
    groups_left: tuple[int, ...] = None  # type: ignore[assignment]
    callers: tuple[str, ...] = ()
    side: Side = "encoder"
    kind: Kind = "self"
    form: Form = "dense"
    slices: tuple[Slices, ...] = ()
    sizes: tuple[Size, ...] = ()
    adapter: Callable[[Any, Sequence[int]], Callable[[], None] | None] | None = None
    split: Callable[[torch.Tensor], torch.Tensor] | None = None
    merge: Callable[[torch.Tensor], torch.Tensor] | None = None
    prunable: Literal["hard", "soft", ""] = "hard"
    why: str = ""
    notes: InitVar[Mapping[str, Any] | None] = None
    pattern: str = ""
    unseen: str = ""
    variant: Mapping[str, Any] | None = None
    mixed: str = ""

    def __post_init__(self, notes: Mapping[str, Any] | None) -> None:
        if notes:
            warnings.warn("`notes` are now `pattern`, `unseen` and `variant`", DeprecationWarning, stacklevel=3)
            self.pattern, self.unseen = notes.get("row", self.pattern), notes.get("unseen", self.unseen)
            self.variant = notes.get("variant", self.variant)
        self.kept = tuple(range(self.heads)) if self.kept is None else tuple(self.kept)
        self.groups = self.groups or self.heads
        self.groups_left = tuple(range(self.groups)) if self.groups_left is None else tuple(self.groups_left)
        self.callers = tuple(self.callers) or (self.path,)

    def __repr__(self) -> str:
        heads = f"{self.heads}" if len(self.kept) == self.heads else f"{len(self.kept)} of {self.heads}"
        groups = f", {self.groups} key/value groups" if self.groups != self.heads else ""
        where = f"{self.side}, {self.kind}" + (f", {self.form}" if self.form != "dense" else "")
        forms = self.prunable or "not prunable"
        return f"AttentionLayer({self.path!r}, {where}, {heads} heads of width {self.width}{groups}, {forms})"

    @property
    def count(self) -> int:
        """Attention heads at the beginning."""
        return self.heads

    @property
    def inside(self) -> str:
        """Path of the module that `slices` are relative to: the attention module itself."""
        return self.path

    @property
    def removed(self) -> tuple[int, ...]:
        """Original indices of the attention heads that are pruned."""
        kept = set(self.kept)
        return tuple(index for index in range(self.heads) if index not in kept)
