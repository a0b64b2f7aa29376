"""From a row of `architectures.py` and a module to an `AttentionLayer`: where each attention head lies.

Only shapes are read here. What a pruned layer looked like at the beginning stands in the model's manifest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import nn

from topwork import AttentionLayer, Size, Slices
from topwork_lens.layers import position_bias as adapters
from topwork_lens.layers.architectures import ROWS, UNSEEN
from topwork_lens.layers.name_matching import guess
from topwork_lens.layers.patterns import Part, Row
from topwork_lens.layers.projections import context_of, input_dim, shared_out
from topwork_lens.layers.projections import features as features
from topwork_lens.layers.projections import is_projection as is_projection
from topwork_lens.layers.projections import output_dim as output_dim
from topwork_lens.layers.spelling import (
    BACKBONE_WORDS,
    COUNTS,
    CROSS_WORDS,
    DECODER_WORDS,
    ENCODER_WORDS,
    GROUP_COUNTS,
    RATIOS,
    WIDTHS,
)
from topwork_lens.layers.state import noted
from topwork_lens.layers.torch_mha import for_good, is_folded


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
    names = _names(module, model)
    for row in ROWS:
        if row.types and not names & set(row.types):
            continue
        if _fits(row, module):
            return _layer(row, path, module, model)
    guessed = guess(module)
    return None if guessed is None else _layer(guessed, path, module, model)


def _names(module: nn.Module, model: nn.Module) -> set[Any]:
    """Model types that a module belongs to; models without a config are known by the file that they stand in."""
    kinds = {getattr(getattr(one, "config", None), "model_type", None) for one in (module, model)}
    return kinds | {type(module).__module__.rpartition(".")[2]}


def _unseen(module: nn.Module, model: nn.Module) -> str:
    return next((why for name, why in UNSEEN.items() if name in _names(module, model)), "")


def _fits(row: Row, module: nn.Module) -> bool:
    if not is_projection(resolve(module, row.output)):
        return False
    for part in row.parts:
        found = resolve(module, part.path)
        if found is None and part.optional:
            continue
        if not (isinstance(found, torch.Tensor) if part.dim is not None else is_projection(found)):
            return False
    if row.core and not row.types and guess(cast(nn.Module, resolve(module, row.core))) is not None:
        # The core has an output projection of its own: what stands beside it is that of the feed-forward network.
        return False
    if not row.times:
        return True
    output: Any = resolve(module, row.output)
    return features(resolve(module, row.parts[0].path)) == row.times * output.weight.shape[input_dim(output)]


def _layer(row: Row, path: str, module: nn.Module, model: nn.Module) -> AttentionLayer | None:
    known = manifest_entry(model, path)
    core = cast(nn.Module, resolve(module, row.core))
    output = cast(nn.Module, resolve(module, row.output))
    context = cast(torch.Tensor, output.weight).shape[input_dim(output)] * shared_out(output)
    if known:
        now, width, groups_left = len(known["kept"]), known["width"], list(known["groups_left"])
    else:
        found = getattr(core, row.count, None) if row.count else _count(core, context)
        if found is None and row.alone:
            found = 1
        if found is None:
            return None
        now, width = found, context // found
        groups_left = list(range(_groups(row, module, core, now, width)))
    return AttentionLayer(
        path=path,
        output=row.output,
        heads=known["heads"] if known else now,
        width=width,
        kept=tuple(known["kept"]) if known else None,
        groups=known["groups"] if known else len(groups_left),
        groups_left=tuple(groups_left),
        side=_side(path, core),
        kind=_kind(path),
        form=row.form,
        slices=tuple(_slices(row, module, output, now, len(groups_left))),
        sizes=tuple(_sizes(row, core, now, width, len(groups_left))),
        adapter=_adapter(row, module),
        notes={"row": row.name, "unseen": row.unseen or _unseen(module, model)},
        **context_of(output, now, width, row.pieces or width),
        **_verdict(row, module),
    )


def _adapter(row: Row, module: nn.Module) -> Any:
    if is_folded(module):
        return for_good
    return getattr(adapters, row.adapter) if row.adapter else None


def manifest_entry(model: nn.Module, path: str) -> Mapping[str, Any] | None:
    """What the lens noted about a pruned layer, or None when all of it is there."""
    return noted(model, "layers", path)


def _verdict(row: Row, module: nn.Module) -> dict[str, Any]:
    output = resolve(module, row.output)
    if shared_out(output) > 1:
        return {"prunable": "", "why": f"`{row.output}` has the same columns for attention heads of several groups"}
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


def _groups(row: Row, module: nn.Module, core: nn.Module, heads: int, width: int) -> int:
    """Key/value groups: counted, or told by how wide the values are, or how much narrower than the queries the keys."""
    if not any(part.per == "group" for part in row.parts):
        return heads
    for name in GROUP_COUNTS:
        value = getattr(core, name, None)
        if isinstance(value, int) and 0 < value <= heads:
            return value
    value = next(part for part in reversed(row.parts) if part.per == "group")
    groups, odd = divmod(_owned(module, value), width) if width else (heads, 0)
    if not odd and 0 < groups <= heads:
        return groups
    query, key = (_owned(module, part) for part in row.parts[:2])
    return heads if query == 0 else heads * key // query


def _owned(module: nn.Module, part: Part) -> int:
    return features(cast(nn.Module, resolve(module, part.path))) // part.stack


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
    if shared_out(output) == 1:
        dim = input_dim(output)
        size = cast(torch.Tensor, output.weight).shape[dim]
        pieces = row.pieces or size // max(1, heads)
        found.append(_cut(Part(row.output, stack=pieces), f"{row.output}.weight", dim, size, heads))
    return found


def _cut(part: Part, parameter: str, dim: int, size: int, count: int) -> Slices:
    return Slices(parameter, dim, positions(size, count, part.stack, part.blocks), part.per)


def positions(size: int, count: int, stack: int = 1, blocks: int = 1) -> list[list[int]]:
    """Positions of each of `count` owners along a dimension of `size`: as many equal blocks, each for as many owners,
    and in each of them `stack` equal pieces, in which what belongs to one owner is contiguous."""
    if count == 0:
        return []
    if count % blocks:
        blocks = 1
    block, each = size // blocks, count // blocks
    piece = block // stack
    width = piece // each
    return [
        [owner // each * block + s * piece + owner % each * width + i for s in range(stack) for i in range(width)]
        for owner in range(count)
    ]


def _sizes(row: Row, core: nn.Module, heads: int, width: int, groups: int) -> list[Size]:
    prefix = f"{row.core}." if row.core else ""
    found = [Size(prefix + name) for name in COUNTS if _holds(core, name, heads)]
    found += [Size(prefix + name, 1, "groups") for name in GROUP_COUNTS if _holds(core, name, groups)]
    if groups and heads:
        found += [Size(prefix + name, 1, "ratio") for name in RATIOS if _holds(core, name, heads // groups)]
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
