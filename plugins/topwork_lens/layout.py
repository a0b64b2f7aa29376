"""From a row of `architectures.py` and a module to an `AttentionLayer`: where each attention head lies.

Only shapes are read here. What a pruned layer looked like at the beginning stands in the model's manifest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import nn

from topwork import AttentionLayer, Size, Slices, alterations
from topwork_lens import adapters
from topwork_lens.architectures import (
    BACKBONE_WORDS,
    COUNTS,
    CROSS_WORDS,
    DECODER_WORDS,
    ENCODER_WORDS,
    GROUP_COUNTS,
    ROWS,
    WIDTHS,
    Part,
    Row,
)
from topwork_lens.guessing import guess
from topwork_lens.multihead import for_good, is_folded


def resolve(module: nn.Module, path: str) -> Any | None:
    """What stands at a dotted path below a module: a module, a tensor, an attribute; None when there is nothing."""
    found: Any = module
    for name in path.split(".") if path else ():
        found = getattr(found, name, None)
        if found is None:
            return None
    return found


def describe(path: str, module: nn.Module, model: nn.Module) -> AttentionLayer | None:
    """The attention layer that `module` is by the first row that fits, or None."""
    kind = getattr(getattr(module, "config", None), "model_type", None)
    outer = getattr(getattr(model, "config", None), "model_type", None)
    for row in ROWS:
        if row.types and not {kind, outer} & set(row.types):
            continue
        if _fits(row, module):
            return _layer(row, path, module, model)
    guessed = guess(module)
    return None if guessed is None else _layer(guessed, path, module, model)


def _fits(row: Row, module: nn.Module) -> bool:
    if not is_projection(resolve(module, row.output)):
        return False
    for part in row.parts:
        found = resolve(module, part.path)
        if found is None and part.optional:
            continue
        if not (isinstance(found, torch.Tensor) if part.dim is not None else is_projection(found)):
            return False
    return True


def is_projection(found: Any) -> bool:
    """True for a module with a two-dimensional weight: Linear, Conv1D and what behaves like them."""
    weight = getattr(found, "weight", None)
    return isinstance(found, nn.Module) and isinstance(weight, torch.Tensor) and weight.dim() == 2


def output_dim(projection: nn.Module) -> int:
    """The dimension of a projection's weight along which its output features lie: 0, or 1 for Conv1D."""
    return 1 if hasattr(projection, "nf") else 0


def _layer(row: Row, path: str, module: nn.Module, model: nn.Module) -> AttentionLayer | None:
    known = manifest_entry(model, path)
    core = cast(nn.Module, resolve(module, row.core))
    output = cast(nn.Module, resolve(module, row.output))
    context = cast(torch.Tensor, output.weight).shape[1 - output_dim(output)]
    if known:
        now, width, groups_left = len(known["kept"]), known["width"], list(known["groups_left"])
    else:
        found = _count(core, context)
        if found is None:
            return None
        now, width = found, context // found
        groups_left = list(range(_groups(row, module, core, now)))
    return AttentionLayer(
        path=path,
        output=row.output,
        heads=known["heads"] if known else now,
        width=width,
        kept=tuple(known["kept"]) if known else None,
        groups=known["groups"] if known else len(groups_left),
        side=_side(path, core),
        kind=_kind(path),
        form=row.form,
        slices=tuple(_slices(row, module, output, now, len(groups_left))),
        sizes=tuple(_sizes(row, core, now, width, len(groups_left))),
        adapter=_adapter(row, module),
        notes={"row": row.name, "groups_left": groups_left},
        **_verdict(row, module),
    )


def _adapter(row: Row, module: nn.Module) -> Any:
    if is_folded(module):
        return for_good
    return getattr(adapters, row.adapter) if row.adapter else None


def manifest_entry(model: nn.Module, path: str) -> Mapping[str, Any] | None:
    """What the lens noted about a pruned layer, or None when all of it is there."""
    return alterations(model).get("lens", {}).get("layers", {}).get(path)


def _verdict(row: Row, module: nn.Module) -> dict[str, Any]:
    for name in row.blockers:
        found = resolve(module, name)
        if found is not None and not isinstance(found, nn.Identity):
            return {"prunable": "", "why": f"`{name}` mixes the attention heads before the output projection"}
    return {}


def _count(core: nn.Module, context: int) -> int | None:
    """Attention heads that the module has now: counted, or the context's width over the width of one."""
    for name in COUNTS:
        value = getattr(core, name, None)
        if isinstance(value, int) and value > 0 and context % value == 0:
            return value
    for name in WIDTHS:
        value = getattr(core, name, None)
        if isinstance(value, int) and value > 0 and context % value == 0:
            return context // value
    told = getattr(getattr(core, "config", None), "num_attention_heads", None)
    return told if isinstance(told, int) and told > 0 and context % told == 0 else None


def _groups(row: Row, module: nn.Module, core: nn.Module, heads: int) -> int:
    """Key/value groups: counted, or told by how much narrower the keys are than the queries."""
    if not any(part.per == "group" for part in row.parts):
        return heads
    for name in GROUP_COUNTS:
        value = getattr(core, name, None)
        if isinstance(value, int) and 0 < value <= heads:
            return value
    query, key = (features(cast(nn.Module, resolve(module, part.path))) // part.stack for part in row.parts[:2])
    return heads if query == 0 else heads * key // query


def features(projection: nn.Module) -> int:
    """Output features of a projection."""
    return cast(torch.Tensor, projection.weight).shape[output_dim(projection)]


def _slices(row: Row, module: nn.Module, output: nn.Module, heads: int, groups: int) -> list[Slices]:
    found = []
    for part in row.parts:
        count = heads if part.per == "head" else groups
        target = resolve(module, part.path)
        if target is None:
            continue
        if part.dim is not None:
            found.append(_cut(part, part.path, part.dim, target.shape[part.dim], count))
            continue
        dim, size = output_dim(target), features(target)
        found.append(_cut(part, f"{part.path}.weight", dim, size, count))
        if getattr(target, "bias", None) is not None:
            found.append(_cut(part, f"{part.path}.bias", 0, size, count))
    dim = 1 - output_dim(output)
    size = cast(torch.Tensor, output.weight).shape[dim]
    found.append(_cut(Part(row.output), f"{row.output}.weight", dim, size, heads))
    return found


def _cut(part: Part, parameter: str, dim: int, size: int, count: int) -> Slices:
    return Slices(parameter, dim, positions(size, count, part.stack), part.per)


def positions(size: int, count: int, stack: int = 1) -> list[list[int]]:
    """Positions of each of `count` owners along a dimension of `size` that holds `stack` equal pieces."""
    if count == 0:
        return []
    piece = size // stack
    width = piece // count
    return [[s * piece + owner * width + i for s in range(stack) for i in range(width)] for owner in range(count)]


def _sizes(row: Row, core: nn.Module, heads: int, width: int, groups: int) -> list[Size]:
    prefix = f"{row.core}." if row.core else ""
    found = [Size(prefix + name) for name in COUNTS if _holds(core, name, heads)]
    found += [Size(prefix + name, 1, "groups") for name in GROUP_COUNTS if _holds(core, name, groups)]
    return found + [Size(prefix + name, width) for name in row.full if _holds(core, name, heads * width)]


def _holds(core: nn.Module, name: str, value: int) -> bool:
    found = getattr(core, name, None)
    return isinstance(found, int) and not isinstance(found, bool) and found == value


def _words(path: str) -> Sequence[str]:
    return re.split(r"[./]", path.lower())


def _kind(path: str) -> Literal["self", "cross"]:
    return "cross" if any(word in CROSS_WORDS for word in _words(path)) else "self"


def _side(path: str, core: nn.Module) -> Literal["encoder", "decoder", "backbone"]:
    words = _words(path)
    if any(word in BACKBONE_WORDS for word in words):
        return "backbone"
    for word in words:
        if any(known in word for known in DECODER_WORDS):
            return "decoder"
        if any(known == word for known in ENCODER_WORDS):
            return "encoder" if not getattr(core, "is_decoder", False) else "decoder"
    return "decoder" if getattr(core, "is_causal", False) else "encoder"
