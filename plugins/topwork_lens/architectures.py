"""What architectures call the parts of an attention layer: data, and the only file in which a model type is named.

A row fits a module when the module has everything that the row names. Rows are tried in order; a row that names
`types` is tried for those model types only. A new architecture is a new row; what a row says is never trusted:
pruning compares the masked with the pruned layer before it keeps a change.
"""

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
        optional: True when some modules do without it.
    """

    path: str
    per: Literal["head", "group"] = "head"
    stack: int = 1
    dim: int | None = None
    optional: bool = False


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
        types: model types that the row is meant for; empty for all.
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

#: how projections are spelled where no row names them; the first that is there is taken
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
    ),
)
KEYS = (
    *("k_proj", "key", "k", "key_proj", "k_lin", "linear_k", "to_k", "wk", "w_k", "Wk", "k_linear", "key_layer"),
    *("project_k", "proj_k", "keys", "kv_b_proj", "key_projection", "kv_proj", "kv", "to_kv", "k_net", "key_value"),
    *("k_content_proj", "k_head", "linear_kv", "k_proj.linear", "projection_key"),
)
VALUES = (
    *("v_proj", "value", "v", "value_proj", "v_lin", "linear_v", "to_v", "wv", "w_v", "Wv", "v_linear", "value_layer"),
    *("project_v", "proj_v", "values", "kv_b_proj", "value_projection", "kv_proj", "kv", "to_kv", "v_net"),
    *("key_value", "linear_kv", "v_head", "v_proj.linear", "projection_value"),
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
    ),
)

#: attributes that hold the number of key/value groups
GROUP_COUNTS = ("num_key_value_heads", "num_kv_heads", "num_key_value_heads_per_layer")

#: words in a module path by which a cross attention, a decoder, a backbone is known
CROSS_WORDS = ("crossattention", "cross_attention", "cross_attn", "encoder_attn", "encdecattention", "crossattn")
DECODER_WORDS = ("decoder",)
ENCODER_WORDS = ("encoder",)
BACKBONE_WORDS = ("backbone", "conv_encoder")


def _separate(query: str, key: str, value: str, *more: Part) -> tuple[Part, ...]:
    return (Part(query), Part(key, "group"), Part(value, "group"), *more)


_TABLE = Part("relative_position_bias.relative_position_bias_table", dim=1)

ROWS = (
    Row(
        "query, key, value inside `self` in windows, with a network that makes the position bias",
        _separate(
            "self.query",
            "self.key",
            "self.value",
            Part("self.logit_scale", dim=0),
            Part("self.continuous_position_bias_mlp.2"),
        ),
        output="output.dense",
        core="self",
        full=("all_head_size",),
        form="windowed",
        types=("swinv2",),
    ),
    Row(
        "query, key, value inside `self`, `output` beside it",
        _separate("self.query", "self.key", "self.value"),
        output="output.dense",
        core="self",
        full=("all_head_size",),
    ),
    Row(
        "query, key, value inside `attention`, `output` beside it",
        _separate("attention.query", "attention.key", "attention.value"),
        output="output.dense",
        core="attention",
        full=("all_head_size",),
    ),
    Row("query, key, value, dense", _separate("query", "key", "value"), output="dense", full=("all_head_size",)),
    Row("q_lin ... out_lin", _separate("q_lin", "k_lin", "v_lin"), output="out_lin"),
    Row(
        "q_proj ... o_proj in windows, with a bias table",
        _separate("q_proj", "k_proj", "v_proj", _TABLE),
        output="o_proj",
        form="windowed",
        types=("swin", "donut-swin", "maskformer-swin"),
    ),
    Row("q_proj ... o_proj", _separate("q_proj", "k_proj", "v_proj"), output="o_proj", adapter="regroup"),
    Row(
        "q_proj ... out_proj, reshaped to the width that it remembers",
        _separate("q_proj", "k_proj", "v_proj"),
        output="out_proj",
        full=("embed_dim",),
        types=("xglm",),
    ),
    Row("q_proj ... out_proj", _separate("q_proj", "k_proj", "v_proj"), output="out_proj", adapter="regroup"),
    Row(
        "q, k, v, o with a position bias shared by all layers",
        _separate("q", "k", "v"),
        output="o",
        full=("inner_dim",),
        adapter="shared_position_bias",
        types=("t5", "mt5", "umt5", "longt5", "switch_transformers", "pop2piano"),
    ),
    Row(
        "fused Conv1D c_attn, c_proj",
        (Part("c_attn", stack=3),),
        output="c_proj",
        full=("split_size", "embed_dim"),
        types=("gpt2", "openai-gpt"),
    ),
    Row(
        "query_proj ... inside `self`, with projections of relative positions",
        _separate(
            "self.query_proj",
            "self.key_proj",
            "self.value_proj",
            Part("self.pos_key_proj", optional=True),
            Part("self.pos_query_proj", optional=True),
        ),
        output="output.dense",
        core="self",
        full=("all_head_size",),
    ),
    Row(
        "in_proj head by head inside `self`, with projections of relative positions",
        (
            Part("self.in_proj"),
            Part("self.q_bias", dim=0),
            Part("self.v_bias", dim=0),
            Part("self.pos_proj", optional=True),
            Part("self.pos_q_proj", optional=True),
        ),
        output="output.dense",
        core="self",
        full=("all_head_size",),
        types=("deberta",),
    ),
    Row(
        "q, k, v, o inside `attn`",
        _separate("attn.q", "attn.k", "attn.v"),
        output="attn.o",
        core="attn",
        full=("all_head_size",),
        types=("mpnet",),
    ),
    Row(
        "linear_q ... linear_out, with relative positions",
        _separate(
            "linear_q",
            "linear_k",
            "linear_v",
            Part("linear_pos", optional=True),
            Part("pos_bias_u", dim=0, optional=True),
            Part("pos_bias_v", dim=0, optional=True),
        ),
        output="linear_out",
    ),
    Row("fused Wqkv, out_proj", (Part("Wqkv", stack=3),), output="out_proj", types=("mpt",)),
    Row("fused qkv inside `attention`", (Part("attention.qkv", stack=3),), output="output.dense", core="attention"),
    Row("fused att_proj, out_proj", (Part("att_proj", stack=3),), output="out_proj", full=("embed_dim",)),
    Row("Wq, Wk, Wv, dense", _separate("Wq", "Wk", "Wv"), output="dense", types=("ctrl",)),
    Row("query, key, value, proj", _separate("query", "key", "value"), output="proj", full=("all_head_size",)),
    Row("fused Wqkv, Wo", (Part("Wqkv", stack=3),), output="Wo", full=("all_head_size",)),
    Row("query_key_value head by head, dense", (Part("query_key_value"),), output="dense", types=("gpt_neox", "bloom")),
    Row(
        "timm: fused qkv, proj",
        (
            Part("qkv", stack=3),
            Part("gate", optional=True),
            Part("q_bias", dim=0, optional=True),
            Part("v_bias", dim=0, optional=True),
            Part("relative_position_bias_table", dim=1, optional=True),
        ),
        output="proj",
        full=("attn_dim",),
        blockers=("norm",),
    ),
)
