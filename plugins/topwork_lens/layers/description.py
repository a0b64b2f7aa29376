"""From a pattern and a module to an `AttentionLayer`: where each attention head lies in the parameters.

Entry point: `describe`. Only shapes are read here. What a pruned layer looked like at the beginning stands in the
model's manifest (`state`). Patterns stand in `architectures`, names of projections in `name_matching`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import nn

from topwork import AttentionLayer, Size, Slices
from topwork_lens.layers import position_bias as adapters
from topwork_lens.layers.architectures import PATTERNS, UNPROJECTED, UNSEEN, Part, Pattern
from topwork_lens.layers.name_matching import (
    BACKBONE_WORDS,
    COUNTS,
    CROSS_WORDS,
    DECODER_WORDS,
    ENCODER_WORDS,
    GROUP_COUNTS,
    RATIOS,
    WIDTHS,
    match_names,
    weighs_points,
)
from topwork_lens.layers.projections import context_of, input_dim, shared_out, weight_shape
from topwork_lens.layers.projections import features as features
from topwork_lens.layers.projections import is_projection as is_projection
from topwork_lens.layers.projections import output_dim as output_dim
from topwork_lens.layers.state import noted
from topwork_lens.layers.torch_mha import for_good, is_folded


def resolve(module: nn.Module, path: str) -> Any | None:
    """Return what stands at a dotted path below a module: a module, a tensor, an attribute; None for nothing."""
    target: Any = module
    for name in path.split(".") if path else ():
        target = getattr(target, name, None)
        if target is None:
            return None
    return target


def describe(path: str, module: nn.Module, model: nn.Module) -> AttentionLayer | None:
    """Describe the attention layer that `module` is, by the first pattern that fits; None when none does."""
    if not module._modules:
        return None  # an attention layer has at least an output projection
    types = _model_types(module, model)
    for pattern in PATTERNS:
        if pattern.types and not types & set(pattern.types):
            continue
        if _fits(pattern, module):
            return _layer(pattern, path, module, model)
    matched = match_names(module)
    if matched is None and weighs_points(module):
        return _points_without_output(path, module)
    return None if matched is None else _layer(matched, path, module, model)


def _points_without_output(path: str, module: nn.Module) -> AttentionLayer | None:
    """Deformable attention whose attention heads go on without an output projection: to be seen, and nothing else."""
    heads = next((count for name in COUNTS if type(count := getattr(module, name, None)) is int and count > 0), None)
    if heads is None:
        return None
    why = "it has no output projection, at whose input attention heads could be told apart"
    width = next((size // heads for name in ("d_model", "embed_dim") if (size := getattr(module, name, 0))), 1)
    return AttentionLayer(
        path=path,
        output="",
        heads=heads,
        width=width,
        side=_side(path, module),
        kind=_kind(path),
        form="deformable",
        prunable="",
        why=why,
        mixed=why,
        pattern=UNPROJECTED,
    )


def _model_types(module: nn.Module, model: nn.Module) -> set[Any]:
    """Return model types that a module belongs to; a model without a config is known by the file of its class."""
    types = {getattr(getattr(owner, "config", None), "model_type", None) for owner in (module, model)}
    return types | {type(module).__module__.rpartition(".")[2]}


def _unseen(module: nn.Module, model: nn.Module) -> str:
    return next((why for name, why in UNSEEN.items() if name in _model_types(module, model)), "")


def _fits(pattern: Pattern, module: nn.Module) -> bool:
    if pattern.output.partition(".")[0] not in module._modules or not is_projection(resolve(module, pattern.output)):
        return False
    for part in pattern.parts:
        target = resolve(module, part.path)
        if target is None and part.optional:
            continue
        if not (isinstance(target, torch.Tensor) if part.dim is not None else is_projection(target)):
            return False
    if pattern.core and not pattern.types and match_names(cast(nn.Module, resolve(module, pattern.core))) is not None:
        # The core has an output projection of its own: what stands beside it is that of the feed-forward network.
        return False
    if not pattern.times:
        return True
    output: Any = resolve(module, pattern.output)
    return features(resolve(module, pattern.parts[0].path)) == pattern.times * weight_shape(output)[input_dim(output)]


def _layer(pattern: Pattern, path: str, module: nn.Module, model: nn.Module) -> AttentionLayer | None:
    manifest = manifest_entry(model, path)
    core = cast(nn.Module, resolve(module, pattern.core))
    output = cast(nn.Module, resolve(module, pattern.output))
    context = weight_shape(output)[input_dim(output)] * shared_out(output)
    if manifest:
        now, width, groups_left = len(manifest["kept"]), manifest["width"], list(manifest["groups_left"])
    else:
        count = getattr(core, pattern.count, None) if pattern.count else _count(core, context)
        if count is None and pattern.alone:
            count = 1
        if count is None:
            return None
        now, width = count, context // count
        groups_left = list(range(_groups(pattern, module, core, now, width)))
    heads = manifest["heads"] if manifest else now
    return AttentionLayer(
        path=path,
        output=pattern.output,
        heads=heads,
        width=width,
        kept=tuple(manifest["kept"]) if manifest else tuple(range(heads)),
        groups=manifest["groups"] if manifest else len(groups_left),
        groups_left=tuple(groups_left),
        side=_side(path, core),
        kind=_kind(path),
        form=pattern.form,
        slices=tuple(_slices(pattern, module, output, now, len(groups_left))),
        sizes=tuple(_sizes(pattern, core, now, width, len(groups_left))),
        adapter=_adapter(pattern, module),
        pattern=pattern.name,
        unseen=pattern.unseen or _unseen(module, model),
        **context_of(output, now, width, pattern.pieces or width),
        **_verdict(pattern, module),
    )


def _adapter(pattern: Pattern, module: nn.Module) -> Any:
    if is_folded(module):
        return for_good
    return getattr(adapters, pattern.adapter) if pattern.adapter else None


def manifest_entry(model: nn.Module, path: str) -> Mapping[str, Any] | None:
    """Return what the lens noted about a pruned layer; None when all of it is there."""
    return noted(model, "layers", path)


def _verdict(pattern: Pattern, module: nn.Module) -> dict[str, Any]:
    output = resolve(module, pattern.output)
    if shared_out(output) > 1:
        return {"prunable": "", "why": f"`{pattern.output}` has the same columns for attention heads of several groups"}
    for name in pattern.blockers:
        blocker = resolve(module, name)
        if blocker is not None and not isinstance(blocker, nn.Identity):
            why = f"`{name}` mixes the attention heads before the output projection"
            return {"prunable": "", "why": why, "mixed": why}
    return {}


def _count(core: nn.Module, context: int) -> int | None:
    """Return how many attention heads the module has now: counted, or the context's width over the width of one."""
    for name in COUNTS:
        value = getattr(core, name, None)
        if isinstance(value, int) and value > 0 and context % value == 0:
            return value
    for name in WIDTHS:
        value = getattr(core, name, None)
        if isinstance(value, int) and value > 0 and context % value == 0:
            return context // value
    count = getattr(getattr(core, "config", None), "num_attention_heads", None)
    return count if isinstance(count, int) and count > 0 and context % count == 0 else None


def _groups(pattern: Pattern, module: nn.Module, core: nn.Module, heads: int, width: int) -> int:
    """Return the key/value groups: counted, or inferred from the width of the values, or of keys beside queries."""
    if not any(part.per == "group" for part in pattern.parts):
        return heads
    for name in GROUP_COUNTS:
        value = getattr(core, name, None)
        if isinstance(value, int) and 0 < value <= heads:
            return value
    value = next(part for part in reversed(pattern.parts) if part.per == "group")
    groups, odd = divmod(_owned(module, value), width) if width else (heads, 0)
    if not odd and 0 < groups <= heads:
        return groups
    query, key = (_owned(module, part) for part in pattern.parts[:2])
    return heads if query == 0 else heads * key // query


def _owned(module: nn.Module, part: Part) -> int:
    return features(cast(nn.Module, resolve(module, part.path))) // part.stack


def _slices(pattern: Pattern, module: nn.Module, output: nn.Module, heads: int, groups: int) -> list[Slices]:
    slices = []
    for part in pattern.parts:
        count = heads if part.per == "head" else groups
        target = resolve(module, part.path)
        if target is None:
            continue
        if part.dim is not None:
            slices.append(_cut(part, part.path, part.dim, target.shape[part.dim], count))
            continue
        dim, size = output_dim(target), features(target)
        slices.append(_cut(part, f"{part.path}.weight", dim, size, count))
        if getattr(target, "bias", None) is not None:
            slices.append(_cut(part, f"{part.path}.bias", 0, size, count))
    if shared_out(output) == 1:
        dim = input_dim(output)
        size = weight_shape(output)[dim]
        pieces = pattern.pieces or size // max(1, heads)
        slices.append(_cut(Part(pattern.output, stack=pieces), f"{pattern.output}.weight", dim, size, heads))
    return slices


def _cut(part: Part, parameter: str, dim: int, size: int, count: int) -> Slices:
    return Slices(parameter, dim, positions(size, count, part.stack, part.blocks), part.per)


def positions(size: int, count: int, stack: int = 1, blocks: int = 1) -> list[list[int]]:
    """Return the positions of each of `count` owners along a dimension of `size`.

    The dimension has equal blocks, each for as many owners, and each block `stack` equal pieces, in which what belongs
    to one owner is contiguous.

    Example:
        >>> positions(8, 2, stack=2)
        [[0, 1, 4, 5], [2, 3, 6, 7]]
    """
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


def _sizes(pattern: Pattern, core: nn.Module, heads: int, width: int, groups: int) -> list[Size]:
    prefix = f"{pattern.core}." if pattern.core else ""
    sizes = [Size(prefix + name) for name in COUNTS if _holds(core, name, heads)]
    sizes += [Size(prefix + name, 1, "groups") for name in GROUP_COUNTS if _holds(core, name, groups)]
    if groups and heads:
        sizes += [Size(prefix + name, 1, "ratio") for name in RATIOS if _holds(core, name, heads // groups)]
    return sizes + [Size(prefix + name, width) for name in pattern.full if _holds(core, name, heads * width)]


def _holds(core: nn.Module, name: str, value: int) -> bool:
    held = getattr(core, name, None)
    return isinstance(held, int) and not isinstance(held, bool) and held == value


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
