"""Attention modules that no row of `architectures.py` names, known by the spelling of their projections.

Who writes an attention module calls its projections by one of a few dozen names. Where a module has an output
projection and queries, keys and values under such names, a row is made for it. What it says is no more trusted than any
other row: captured weights must explain the context, and a pruned layer must equal the masked one.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from topwork_lens.layers.patterns import Part, Row
from topwork_lens.layers.projections import features, input_dim, is_projection, shared_out
from topwork_lens.layers.spelling import COUNTS, FUSED, KEYS, OUTPUTS, QUERIES, VALUES

#: torch's own layer
_TORCH = Row(
    "nn.MultiheadAttention",
    (
        Part("in_proj_weight", stack=3, dim=0, optional=True),
        Part("q_proj_weight", dim=0, optional=True),
        Part("k_proj_weight", dim=0, optional=True),
        Part("v_proj_weight", dim=0, optional=True),
        Part("in_proj_bias", stack=3, dim=0, optional=True),
        Part("bias_k", dim=2, optional=True),
        Part("bias_v", dim=2, optional=True),
    ),
    output="out_proj",
)


def _points(module: nn.Module) -> Row | None:
    """Deformable attention: each attention head looks at a few points, whose places and weights are projections."""
    value, output = _first(module, VALUES), _first(module, OUTPUTS)
    if not output:
        return None
    parts = [Part("sampling_offsets"), Part("attention_weights"), *([Part(value)] if value else [])]
    return Row(f"points, {output}", tuple(parts), output=output, full=("d_model",), form="deformable")


def guess(module: nn.Module) -> Row | None:
    """A row for a module that looks like attention, or None."""
    if isinstance(module, nn.MultiheadAttention):
        return _TORCH
    if all(_is_linear(module, name) for name in ("sampling_offsets", "attention_weights")):
        return _points(module)
    if any(isinstance(child, nn.MultiheadAttention) for child in module.children()):
        return None
    found = _inside(module, "")
    if found is not None:
        return found
    for name, child in module.named_children():
        # The projections stand in a child, the output projection beside it.
        if len(list(child.children())) > 1 and _inside(child, "") is None:
            found = _inside(child, f"{name}.", module)
            if found is not None:
                return found
    return None


def _inside(core: nn.Module, prefix: str, outer: nn.Module | None = None) -> Row | None:
    """A row when `core` has queries, keys and values, and `outer` (or `core` itself) an output projection."""
    parts, width = _parts(core, prefix)
    counted = any(isinstance(getattr(core, name, None), int) for name in COUNTS)
    named = counted and "ttention" in type(core).__name__
    if not width and (outer is not None or not (named or parts)):
        return None
    owner = outer or core
    taken = {part.path for part in parts}
    for name in OUTPUTS:
        if name in taken or not _is_linear(owner, name):
            continue
        context = _in(owner, name)
        if not width:
            pass
        elif len(parts) == 1 and width != 3 * context:
            if not _says_so(core) and not (outer is not None and _says_so(outer)):
                return None
            parts = []
        elif parts and not _fits(core, parts, prefix, context):
            continue
        label = ", ".join(part.path for part in parts) or f"{prefix}?"
        # What is called attention and has all of its parts, but counts nothing, has one attention head.
        alone = len(parts) == 3 and _says_so(core)
        return Row(f"by name: {label}, {name}", tuple(parts), output=name, core=prefix.rstrip("."), alone=alone)
    return None


def _parts(core: nn.Module, prefix: str) -> tuple[list[Part], int]:
    """What holds queries, keys and values, and the output features of the last of them."""
    query, key, value = (_first(core, names) for names in (QUERIES, KEYS, VALUES))
    fused = _first(core, FUSED)
    if key and key == value:
        # Keys and values in one: of one attention head after the other when they are spread out of a narrow state.
        spread = "_b_" in key
        both = Part(prefix + key, "head" if spread else "group", stack=1 if spread else 2)
        if query:
            return [Part(prefix + query), both], _out(core, key)
    elif query and key and value:
        return [Part(prefix + query), Part(prefix + key, "group"), Part(prefix + value, "group")], _out(core, value)
    pair = _is_linear(core, "qk") and value
    if pair:
        return [Part(prefix + "qk", stack=2), Part(prefix + value)], _out(core, value)
    # State space models have an `in_proj` as well, and heads of another kind.
    if fused and (_says_so(core) if fused == "in_proj" else _is_attention(core)):
        # Under this name queries, keys and values alternate from one attention head to the next.
        stack = 1 if fused == "query_key_value" else 3
        return [Part(prefix + fused, stack=stack)], _out(core, fused)
    if key and value and key != value:
        # The queries are parameters, or come from outside.
        return [Part(prefix + key), Part(prefix + value)], _out(core, value)
    if query and _is_attention(core):
        # Keys and values come from another layer.
        return [Part(prefix + query)], 0
    return [], 0


def _is_attention(core: nn.Module) -> bool:
    """True when a module's class says so, or it counts attention heads: one projection alone is no sign of it."""
    return _says_so(core) or any(isinstance(getattr(core, name, None), int) for name in COUNTS if name != "groups")


def _says_so(core: nn.Module) -> bool:
    return "ttention" in type(core).__name__ or "ttn" in type(core).__name__


def _fits(core: nn.Module, parts: list[Part], prefix: str, context: int) -> bool:
    if parts[-1].per == "head":
        return True
    width = _out(core, parts[-1].path.removeprefix(prefix)) // parts[-1].stack
    return width > 0 and context % width == 0


def _at(module: nn.Module, path: str) -> Any:
    found: Any = module
    for name in path.split("."):
        found = getattr(found, "_modules", {}).get(name)
        if found is None:
            return None
    return found


def _is_linear(module: nn.Module, path: str) -> bool:
    found = _at(module, path)
    return is_projection(found) and not isinstance(found, nn.Embedding)


def _first(module: nn.Module, names: Any) -> str:
    return next((name for name in names if _is_linear(module, name)), "")


def _out(module: nn.Module, path: str) -> int:
    return features(_at(module, path))


def _in(module: nn.Module, path: str) -> int:
    found = _at(module, path)
    return found.weight.shape[input_dim(found)] * shared_out(found)
