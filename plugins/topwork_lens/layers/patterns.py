"""The form of what `architectures.py` says: a row for a family of attention modules, and the parts that it names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Part:
    """A projection, or a single parameter, that holds something for each attention head.

    Args:
        path: of the projection (its output features are cut) or of a parameter, relative to the attention module.
        per: "head", or "group" for keys and values, which a group of attention heads may share.
        stack: how many equal pieces stand one after another in it (3 for fused query, key and value). Pieces that
            alternate head by head need no mention: what one attention head owns is then contiguous.
        dim: the dimension that is cut when `path` names a parameter.
        blocks: into how many equal blocks it is divided first, each for as many attention heads.
        optional: True when some modules do without it.
    """

    path: str
    per: Literal["head", "group"] = "head"
    stack: int = 1
    dim: int | None = None
    optional: bool = False
    blocks: int = 1


@dataclass(frozen=True)
class Row:
    """How one family of attention modules is built.

    Args:
        name: of the row, for tables.
        parts: what is cut.
        output: path of the output projection, whose input is the context.
        core: path of the module that remembers the sizes ("" for the attention module itself).
        full: attributes of the core that hold heads * width and are used at run time.
        adapter: name of a function in `adapters.py`.
        blockers: submodules that mix attention heads before the output projection, unless they are an identity.
        form: what the attention weights look like.
        types: model types that the row is meant for, or files of models without a config; empty for all.
        count: the attribute of the core that counts attention heads, where it is not one of `COUNTS`.
        alone: True when a core that counts nothing has one attention head.
        unseen: why attention weights cannot be captured; empty when they can.
        pieces: how many equal pieces the context has, each with something of every attention head; 0: as many as one
            attention head is wide, so that attention heads alternate from channel to channel.
        times: how many times as wide as the context the first part is, where that tells rows apart; 0: not looked at.
    """

    name: str
    parts: tuple[Part, ...]
    output: str
    core: str = ""
    full: tuple[str, ...] = ()
    adapter: str = ""
    blockers: tuple[str, ...] = ()
    form: Literal["dense", "windowed", "reduced", "deformable", "banded"] = "dense"
    types: tuple[str, ...] = ()
    count: str = ""
    alone: bool = False
    unseen: str = ""
    pieces: int = 1
    times: int = 0


def separate(query: str, key: str, value: str, *more: Part) -> tuple[Part, ...]:
    """Projections of their own for queries, keys and values."""
    return (Part(query), Part(key, "group"), Part(value, "group"), *more)


def beside(core: str, *names: str) -> tuple[Part, ...]:
    """Projections that stand beside the module that computes the attention."""
    return tuple(Part(f"{core}_{name}_proj", optional=name == "query_pos") for name in names)


def normed(projection: str, norm: str) -> tuple[Part, ...]:
    """A projection with a batch norm behind it, whose statistics are kept by output feature."""
    names = ("weight", "bias", "running_mean", "running_var")
    return (Part(projection), *(Part(f"{norm}.{name}", dim=0, optional=True) for name in names))
