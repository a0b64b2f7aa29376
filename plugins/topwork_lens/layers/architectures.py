"""Patterns of attention modules: what each architecture calls the parts of an attention layer.

Entry point: `PATTERNS`. A pattern fits a module when the module has everything that the pattern names. Patterns are
tried in order; a pattern that names `types` is tried for those model types only. A new architecture is a new pattern.
No pattern is trusted: pruning compares the masked with the pruned layer before it keeps a change. This is the only file
in which a model type is named. From a pattern to an `AttentionLayer`: `description`; modules without a pattern:
`name_matching`.
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
class Pattern:
    """Construction of one family of attention modules.

    Args:
        name: of the pattern, for tables.
        parts: what is cut.
        output: path of the output projection, whose input is the context.
        core: path of the module that remembers the sizes ("" for the attention module itself).
        full: attributes of the core that hold heads * width and are used at run time.
        adapter: name of a function in `position_bias`.
        blockers: submodules that mix attention heads before the output projection, unless they are an identity.
        form: what the attention weights look like.
        types: model types that the pattern is meant for, or files of models without a config; empty for all.
        count: the attribute of the core that counts attention heads, where it is not one of `COUNTS`.
        alone: True when a core that counts nothing has one attention head.
        unseen: why attention weights cannot be captured; empty when they can.
        pieces: how many equal pieces the context has, each with something of every attention head; 0: as many as one
            attention head is wide, so that attention heads alternate from channel to channel.
        times: how many times as wide as the context the first part is, to tell patterns apart; 0: not compared.
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
    """Return separate projections for queries, keys and values."""
    return (Part(query), Part(key, "group"), Part(value, "group"), *more)


def beside(core: str, *names: str) -> tuple[Part, ...]:
    """Return projections that stand beside the module that computes the attention."""
    return tuple(Part(f"{core}_{name}_proj", optional=name == "query_pos") for name in names)


def normed(projection: str, norm: str) -> tuple[Part, ...]:
    """Return a projection with a batch norm behind it, whose statistics are kept by output feature."""
    names = ("weight", "bias", "running_mean", "running_var")
    return (Part(projection), *(Part(f"{norm}.{name}", dim=0, optional=True) for name in names))


#: classes that weigh by a softmax and have no attention heads: an average over earlier layers without any projection,
#: and a recurrent cell that reads the whole image once
WITHOUT_HEADS = ("Inkling2BlockAttentionResidual", "SLANeXtAttentionGRUCell", "SLANetAttentionGRUCell")
#: endings of class names of the modules that compute a loss: they compare masks at sampled points
WITHOUT_HEADS_ENDINGS = ("Matcher", "Loss")


#: name of the pattern of attention without an output projection: it can be captured, and is never gated or scored
UNPROJECTED = "points, without an output projection"

#: why the attention weights of some model types cannot be captured, where no pattern says it
UNSEEN = {
    "autoformer": "it weighs a few delays of the whole series, the same for all attention heads, and no positions",
    "coat": "keys are weighed over positions channel by channel and multiplied with the values: no query has weights",
    "mra": "weights are approximated in blocks by kernels of its own, without which it computes nothing but zeros",
    "yoso": "keys are weighed by how probably hashes of queries and keys agree, without a softmax",
}

PATTERNS = (
    Pattern(
        "query, key, value inside `self` in windows, with a network that makes the position bias",
        separate(
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
    Pattern(
        "value inside `self`: queries and keys also serve the layout, whose output projection is another",
        (Part("self.value"),),
        output="output.dense",
        core="self",
        types=("lilt",),
    ),
    Pattern(
        "key, value inside `self`, convolutions beside them: the queries also make the kernels of all attention heads",
        (Part("self.key"), Part("self.value"), Part("self.conv_kernel_layer"), Part("self.conv_out_layer")),
        output="output.dense",
        core="self",
        pieces=2,
        types=("convbert",),
    ),
    Pattern(
        "query, key, value inside `self`, `output` beside it",
        separate("self.query", "self.key", "self.value"),
        output="output.dense",
        core="self",
        full=("all_head_size",),
    ),
    Pattern(
        "query, key, value inside `attention`, `output` beside it",
        separate("attention.query", "attention.key", "attention.value"),
        output="output.dense",
        core="attention",
        full=("all_head_size",),
    ),
    Pattern("query, key, value, dense", separate("query", "key", "value"), output="dense", full=("all_head_size",)),
    Pattern(
        "query_key in one inside `self_attention`, `output` beside it",
        (Part("self_attention.query_key"), Part("self_attention.value")),
        output="output.dense",
        core="self_attention",
        full=("all_head_size",),
    ),
    Pattern("q_lin ... out_lin", separate("q_lin", "k_lin", "v_lin"), output="out_lin"),
    Pattern(
        "q_proj ... o_proj in windows, with a bias table",
        separate("q_proj", "k_proj", "v_proj", Part("relative_position_bias.relative_position_bias_table", dim=1)),
        output="o_proj",
        form="windowed",
        types=("swin", "donut-swin", "maskformer-swin"),
    ),
    Pattern("q_proj ... o_proj", separate("q_proj", "k_proj", "v_proj"), output="o_proj"),
    Pattern(
        "q_proj ... out_proj, reshaped to the width that it remembers",
        separate("q_proj", "k_proj", "v_proj"),
        output="out_proj",
        full=("embed_dim",),
        types=("xglm",),
    ),
    Pattern("q_proj ... out_proj", separate("q_proj", "k_proj", "v_proj"), output="out_proj"),
    Pattern(
        "q, k, v, o with a position bias shared by all layers",
        separate("q", "k", "v"),
        output="o",
        full=("inner_dim",),
        adapter="shared_position_bias",
        types=("t5", "mt5", "longt5", "switch_transformers", "pop2piano", "udop"),
    ),
    Pattern(
        "query, key, value, output with a position bias shared by all layers",
        separate("query", "key", "value"),
        output="output",
        full=("inner_dim",),
        adapter="shared_position_bias",
        types=("pix2struct_text_model",),
    ),
    Pattern(
        "q_attn, fused keys and values c_attn, c_proj",
        (Part("q_attn"), Part("c_attn", stack=2)),
        output="c_proj",
        full=("split_size", "embed_dim"),
        types=("gpt2",),
    ),
    Pattern(
        "fused Conv1D c_attn, c_proj",
        (Part("c_attn", stack=3),),
        output="c_proj",
        full=("split_size", "embed_dim"),
        types=("gpt2", "openai-gpt"),
    ),
    Pattern(
        "query_proj ... inside `self`, with projections of relative positions",
        separate(
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
    Pattern(
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
    Pattern(
        "q, k, v, o inside `attn`",
        separate("attn.q", "attn.k", "attn.v"),
        output="attn.o",
        core="attn",
        full=("all_head_size",),
        types=("mpnet",),
    ),
    Pattern(
        "linear_q ... linear_out, with relative positions",
        separate(
            "linear_q",
            "linear_k",
            "linear_v",
            Part("linear_pos", optional=True),
            Part("pos_bias_u", dim=0, optional=True),
            Part("pos_bias_v", dim=0, optional=True),
        ),
        output="linear_out",
    ),
    Pattern("fused Wqkv, out_proj", (Part("Wqkv", stack=3),), output="out_proj", types=("mpt",)),
    Pattern("fused qkv inside `attention`", (Part("attention.qkv", stack=3),), output="output.dense", core="attention"),
    Pattern("fused att_proj, out_proj", (Part("att_proj", stack=3),), output="out_proj", full=("embed_dim",)),
    Pattern("Wq, Wk, Wv, dense", separate("Wq", "Wk", "Wv"), output="dense", types=("ctrl",)),
    Pattern("query, key, value, proj", separate("query", "key", "value"), output="proj", full=("all_head_size",)),
    Pattern("fused Wqkv, Wo", (Part("Wqkv", stack=3),), output="Wo", full=("all_head_size",)),
    Pattern(
        "query_key_value head by head, dense", (Part("query_key_value"),), output="dense", types=("gpt_neox", "bloom")
    ),
    Pattern(
        "query, key, value inside `attention` over channels, the output projection in the block beside it",
        separate("attention.query", "attention.key", "attention.value"),
        output="post_attention.conv1d",
        core="attention",
        full=("all_head_size",),
        types=("squeezebert",),
    ),
    Pattern(
        "experts that hold queries and the output projection, keys and values for all of them",
        (Part("experts.input_linear"), Part("kv_proj", stack=2)),
        output="experts.output_linear",
        count="num_key_value_heads",
        unseen="each token attends with the same attention heads of several experts at once",
        types=("jetmoe",),
    ),
    Pattern(
        "q_b_proj, one key and value for all, an output projection in groups",
        (Part("q_b_proj"), Part("sinks", dim=0)),
        output="o_a_proj",
        types=("deepseek_v4",),
    ),
    Pattern(
        "fused qkv_proj in four blocks", (Part("qkv_proj", stack=3, blocks=4),), output="out_proj", types=("codegen",)
    ),
    Pattern(
        "timm: fused key and value, queries from outside",
        (Part("qkv", stack=2),),
        output="proj",
        types=("gcvit",),
        times=2,
    ),
    Pattern("timm: qkv head by head", (Part("qkv"),), output="proj", types=("maxxvit",)),
    Pattern(
        "timm: fused qkv, a context of alternating attention heads",
        (Part("qkv", stack=3),),
        output="proj",
        pieces=0,
        types=("nest",),
    ),
    Pattern(
        "projections of contents and positions beside the self-attention",
        beside("self_attn", "query_content", "query_pos", "key_content", "key_pos", "value"),
        output="self_attn.output_proj",
        core="self_attn",
        full=("output_dim", "embed_dim"),
        types=("dab-detr",),
    ),
    Pattern(
        "projections of contents and positions beside the cross-attention",
        beside("cross_attn", "query_content", "query_pos", "query_pos_sine", "key_content", "key_pos", "value"),
        output="cross_attn.output_proj",
        core="cross_attn",
        full=("output_dim",),
        types=("dab-detr",),
    ),
    Pattern(
        "queries_keys_values head by head behind a norm, projection behind an activation",
        (
            *normed("queries_keys_values.linear", "queries_keys_values.batch_norm"),
            Part("attention_biases", dim=0),
        ),
        output="projection.linear",
        full=("out_dim_projection", "out_dim_keys_values"),
    ),
    Pattern(
        "queries, keys_values head by head behind norms, projection behind an activation",
        (
            *normed("queries.linear", "queries.batch_norm"),
            *normed("keys_values.linear", "keys_values.batch_norm"),
            Part("attention_biases", dim=0),
        ),
        output="projection.linear",
        full=("out_dim_projection",),
    ),
    Pattern(
        "timm: qkv head by head, proj behind an activation",
        (*normed("qkv.linear", "qkv.bn"), Part("attention_biases", dim=0)),
        output="proj.ln.linear",
        full=("val_attn_dim",),
    ),
    Pattern(
        "timm: q, kv head by head, proj behind an activation",
        (*normed("q.ln.linear", "q.ln.bn"), *normed("kv.linear", "kv.bn"), Part("attention_biases", dim=0)),
        output="proj.ln.linear",
        full=("val_attn_dim",),
    ),
    Pattern(
        "timm: qkv head by head behind a norm, with a bias for each distance",
        (Part("qkv"), Part("attention_biases", dim=0)),
        output="proj",
        full=("out_dim",),
    ),
    Pattern(
        "timm: q, k, v over channels with convolutions beside them",
        (Part("q.conv"), Part("k.conv"), Part("v.conv"), Part("attention_biases", dim=0)),
        output="proj.conv",
    ),
    Pattern(
        "timm: q, k, v over channels with convolutions beside them, fewer queries",
        (Part("q.proj.conv"), Part("k.conv"), Part("v.conv"), Part("attention_biases", dim=0)),
        output="proj.conv",
    ),
    Pattern(
        "timm: attention heads one after another, each on what the one before it gave",
        (Part("attention_biases", dim=0),),
        output="proj.1.conv",
        unseen="its attention heads run one after another, not side by side",
    ),
    Pattern(
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
