"""Attention modules that no pattern names, recognised by the names of their projections.

Entry point: `match_names`. Authors of attention modules call the projections by one of a few dozen names. For a module
with an output projection and with queries, keys and values under such names a pattern is made. It is trusted no more
than any other: captured weights must explain the context, and a pruned layer must equal the masked one.

The word lists below are those that many architectures share; what single architectures need stands in `architectures`.
"""

from __future__ import annotations

import functools
from typing import Any

from torch import nn

from topwork_lens.layers.architectures import Part, Pattern
from topwork_lens.layers.projections import features, input_dim, is_projection, shared_out, weight_shape

#: attributes that hold the width of one attention head, and the number of attention heads, in the order of trust
WIDTHS = ("attention_head_size", "head_dim", "head_size", "key_value_proj_dim", "d_kv", "dim_head")
COUNTS = (
    "num_attention_heads",
    "num_heads",
    "n_heads",
    "n_head",
    "num_attn_heads",
    "nhead",
    "heads",
    "groups",
    "attention_heads",
)

#: how projections are spelled where no pattern names them; the first that is there is taken
QUERIES = (
    *("q_proj", "query", "q", "query_proj", "q_lin", "linear_q", "to_q", "wq", "w_q", "Wq", "q_linear", "query_layer"),
    *(
        "project_q",
        "proj_q",
        "queries",
        "q_b_proj",
        "query_projection",
        "q_content_proj",
        "q_net",
        "q_head",
        "q_proj.linear",
        "query.proj",
        "q_gate_proj",
    ),
)
KEYS = (
    *("k_proj", "key", "k", "key_proj", "k_lin", "linear_k", "to_k", "wk", "w_k", "Wk", "k_linear", "key_layer"),
    *("project_k", "proj_k", "keys", "kv_b_proj", "key_projection", "kv_proj", "kv", "to_kv", "k_net", "key_value"),
    *("k_content_proj", "k_head", "linear_kv", "k_proj.linear", "projection_key", "key.proj"),
)
VALUES = (
    *("v_proj", "value", "v", "value_proj", "v_lin", "linear_v", "to_v", "wv", "w_v", "Wv", "v_linear", "value_layer"),
    *("project_v", "proj_v", "values", "kv_b_proj", "value_projection", "kv_proj", "kv", "to_kv", "v_net"),
    *("key_value", "linear_kv", "v_head", "v_proj.linear", "projection_value", "value.proj"),
)
FUSED = (
    *("qkv", "qkv_proj", "query_key_value", "c_attn", "Wqkv", "in_proj", "to_qkv", "qkv_linear", "att_proj"),
    *("in_proj_linear", "qkv_projection", "wqkv", "linear_qkv", "proj_qkv", "queries_keys_values", "qkv_net"),
    *("fused_qkv", "qkvz_proj", "queries_keys_values.linear", "linear_q_k_v", "self_attn_qkv", "W_pack"),
)
OUTPUTS = (
    *("o_proj", "out_proj", "output_proj", "out_lin", "linear_out", "attention_out", "projection", "proj", "o", "wo"),
    *("w_o", "Wo", "to_out", "to_out.0", "c_proj", "dense", "out_linear", "output.dense", "out", "output", "proj_out"),
    *("fc_out", "o_net", "final_linear", "out_projection", "output_projection", "dense.dense", "fc", "output_linear"),
    *(
        "out_fc",
        "post_proj",
        "post",
        "projection_layer",
        "post.linear",
        "o_proj.linear",
        "projection.linear",
        "linear",
        "lin_out",
        "project_out",
        "output.proj",
        "output_projection.o_proj",
    ),
)

#: words in the name of an integer that may be a size of an attention module, and words by which it is something else
SIZE_WORDS = (
    *("head", "dim", "size", "hidden", "embed", "embd", "inner", "channel", "width", "d_model", "feature", "group"),
    *("rep", "d_attn"),
)
NOT_SIZES = (
    *("window", "layer", "idx", "index", "block", "chunk", "patch", "position", "length", "context", "rotary", "rope"),
    *("vocab", "token", "stride", "kernel", "bucket", "max", "intermediate", "ffn", "mlp", "expert", "batch", "cache"),
    *("linear_", "subsampling"),
)

#: attributes that hold the number of key/value groups
GROUP_COUNTS = ("num_key_value_heads", "num_kv_heads", "num_key_value_heads_per_layer")

#: attributes that hold how many attention heads share one of them
RATIOS = ("num_key_value_groups", "n_rep")

#: words in a module path by which a cross attention, a decoder, a backbone is known
#: the last one: torch's own decoder, and what is written after it, call it so, beside `self_attn`
CROSS_WORDS = (
    *("crossattention", "cross_attention", "cross_attn", "encoder_attn", "encdecattention", "crossattn"),
    "multihead_attn",
)
DECODER_WORDS = ("decoder",)
ENCODER_WORDS = ("encoder",)
BACKBONE_WORDS = ("backbone", "conv_encoder")

#: torch's own layer
_TORCH = Pattern(
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


def weighs_points(module: nn.Module) -> bool:
    """Return True for deformable attention: its attention heads weigh a few points, which are projections."""
    return all(_is_linear(module, name) for name in ("sampling_offsets", "attention_weights"))


def _points(module: nn.Module) -> Pattern | None:
    """Deformable attention: each attention head looks at a few points, whose places and weights are projections."""
    value, output = _first(module, VALUES), _first(module, OUTPUTS)
    if not output:
        return None
    parts = [Part("sampling_offsets"), Part("attention_weights"), *([Part(value)] if value else [])]
    return Pattern(f"points, {output}", tuple(parts), output=output, full=("d_model",), form="deformable")


def match_names(module: nn.Module) -> Pattern | None:
    """Make a pattern for a module whose names look like attention; None when they do not."""
    if not module._modules:
        return None
    if isinstance(module, nn.MultiheadAttention):
        return _TORCH
    if weighs_points(module):
        return _points(module)
    if any(isinstance(child, nn.MultiheadAttention) for child in module.children()):
        return None
    pattern = _inside(module, "")
    if pattern is not None or not _first(module, OUTPUTS):
        return pattern
    for name, child in module.named_children():
        # The projections stand in a child, the output projection beside it.
        if len(child._modules) > 1 and _inside(child, "") is None:
            pattern = _inside(child, f"{name}.", module)
            if pattern is not None:
                return pattern
    return None


def _inside(core: nn.Module, prefix: str, outer: nn.Module | None = None) -> Pattern | None:
    """Return a pattern if `core` has queries, keys and values, and `outer` or `core` an output projection."""
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
        return Pattern(f"by name: {label}, {name}", tuple(parts), output=name, core=prefix.rstrip("."), alone=alone)
    return None


def _parts(core: nn.Module, prefix: str) -> tuple[list[Part], int]:
    """Return the holder of queries, keys and values, and the output features of the last of them."""
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
    """Return whether a module's class says so, or it counts attention heads: one projection alone is no sign of it."""
    return _says_so(core) or any(isinstance(getattr(core, name, None), int) for name in COUNTS if name != "groups")


def _says_so(core: nn.Module) -> bool:
    return "ttention" in type(core).__name__ or "ttn" in type(core).__name__


def _fits(core: nn.Module, parts: list[Part], prefix: str, context: int) -> bool:
    if parts[-1].per == "head":
        return True
    width = _out(core, parts[-1].path.removeprefix(prefix)) // parts[-1].stack
    return width > 0 and context % width == 0


def _at(module: nn.Module, path: str) -> Any:
    target: Any = module
    for name in path.split("."):
        target = getattr(target, "_modules", {}).get(name)
        if target is None:
            return None
    return target


def _is_linear(module: nn.Module, path: str) -> bool:
    if path.partition(".")[0] not in module._modules:
        return False
    target = _at(module, path)
    return is_projection(target) and not isinstance(target, nn.Embedding)


def _first(module: nn.Module, names: tuple[str, ...]) -> str:
    children = module._modules
    # Nearly no name fits: this function runs for every list of names and every module.
    return next((name for child, name in _with_child(names) if child in children and _is_linear(module, name)), "")


@functools.cache
def _with_child(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Return dotted names, each with the name of the child that it begins with."""
    return tuple((name.partition(".")[0], name) for name in names)


def _out(module: nn.Module, path: str) -> int:
    return features(_at(module, path))


def _in(module: nn.Module, path: str) -> int:
    projection = _at(module, path)
    return weight_shape(projection)[input_dim(projection)] * shared_out(projection)
