"""The noun under everything that looks at attention: one attention layer of a model, described.

It stands in the core so that a plugin can describe an attention module of its own (hook `attention_layer`) without
importing the lens. Numbers of attention heads are always *original* numbers: those before anything was pruned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Side = Literal["encoder", "decoder", "backbone"]
Kind = Literal["self", "cross"]
Form = Literal["dense", "windowed", "reduced", "deformable", "banded"]


@dataclass(frozen=True)
class Slices:
    """Where a parameter holds what belongs to each attention head.

    Args:
        parameter: path of the parameter, relative to the attention module: "query.weight", "c_attn.bias" ...
        dim: the dimension that is cut.
        indices: for each attention head *as the module stands now*, the positions along `dim` that are its own.
            Fused and interleaved projections are nothing but other indices.
        per: "head", or "group" when one entry serves a group of query heads (keys and values under GQA): then
            `indices` has one entry per group.
    """

    parameter: str
    dim: int
    indices: Sequence[Sequence[int]]
    per: Literal["head", "group"] = "head"


@dataclass(frozen=True)
class Size:
    """An integer attribute that a module remembers of its size and that must be corrected after slicing.

    `attribute` is a path relative to the attention module ("num_heads", "self.all_head_size"). The corrected value is
    `count * factor`, where `of` says what is counted: attention heads kept, key/value groups kept, or ("ratio") the
    attention heads of a group.
    """

    attribute: str
    factor: int = 1
    of: Literal["heads", "groups", "ratio"] = "heads"


@dataclass
class AttentionLayer:
    """One attention layer.

    Args:
        path: module path of the attention module in the model, such as "encoder.layer.0.attention".
        output: path, relative to the attention module, of its output projection: the input of that module is the
            context, and a factor on a slice of it is a gate. Empty when `split` says otherwise.
        heads: attention heads at the beginning (original count).
        width: width of one attention head's context.
        kept: original numbers of the attention heads that the module still has, ascending; None means all of them.
        groups: key/value groups at the beginning; equal to `heads` without grouped-query attention.
        groups_left: original numbers of the key/value groups that the module still has; None means all of them.
        callers: module paths that share this very module (albert names one module for all layers).
        side, kind, form: where it stands, what it attends to, and what its weights look like.
        slices: what pruning cuts.
        sizes: what pruning corrects.
        adapter: a named function that corrects what neither slices nor sizes can say; called as
            `adapter(module, kept_positions)` after slicing, positions counted before it; what it changes besides
            attributes of modules it takes back in the callable that it may answer.
        split: context -> [rows, ..., heads, width]; None means: the last dimension is heads * width, in that order.
        merge: the inverse of `split`.
        prunable: "hard" (slices), "soft" (compact parameters, full width at run time) or "" (refused).
        why: the reason of a refusal or of softness, one sentence.
    """

    path: str
    output: str
    heads: int
    width: int
    kept: tuple[int, ...] | None = None
    groups: int = 0
    groups_left: tuple[int, ...] | None = None
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
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.kept = tuple(range(self.heads)) if self.kept is None else tuple(self.kept)
        self.groups = self.groups or self.heads
        self.groups_left = tuple(range(self.groups)) if self.groups_left is None else tuple(self.groups_left)
        self.callers = tuple(self.callers) or (self.path,)

    @property
    def removed(self) -> tuple[int, ...]:
        """Original numbers of the attention heads that are gone."""
        kept = set(self.kept or ())
        return tuple(number for number in range(self.heads) if number not in kept)
