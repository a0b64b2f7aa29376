"""What architectures call the parts of an attention layer: data, and the only file in which a model type is named.

A row fits a module when the module has everything that the row names. Rows are tried in order; a row that names
`types` is tried for those model types only. A new architecture is a new row; what a row says is never trusted:
pruning compares the masked with the pruned layer before it keeps a change.
"""

from __future__ import annotations

from topwork_lens.layers.patterns import Part, Row, beside, normed, separate

#: classes that weigh by a softmax and have no attention heads: an average over earlier layers without any projection,
#: and a recurrent cell that looks once at the whole picture
WITHOUT_HEADS = ("Inkling2BlockAttentionResidual", "SLANeXtAttentionGRUCell", "SLANetAttentionGRUCell")


#: why the attention weights of some model types cannot be captured, where no row says it
UNSEEN = {
    "autoformer": "it weighs a few delays of the whole series, the same for all attention heads, and no positions",
    "coat": "keys are weighed over positions channel by channel and multiplied with the values: no query has weights",
    "mra": "weights are approximated in blocks by kernels of its own, without which it computes nothing but zeros",
    "yoso": "keys are weighed by how probably hashes of queries and keys agree, without a softmax",
}

ROWS = (
    Row(
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
    Row(
        "value inside `self`: queries and keys also serve the layout, whose output projection is another",
        (Part("self.value"),),
        output="output.dense",
        core="self",
        types=("lilt",),
    ),
    Row(
        "key, value inside `self`, convolutions beside them: the queries also make the kernels of all attention heads",
        (Part("self.key"), Part("self.value"), Part("self.conv_kernel_layer"), Part("self.conv_out_layer")),
        output="output.dense",
        core="self",
        pieces=2,
        types=("convbert",),
    ),
    Row(
        "query, key, value inside `self`, `output` beside it",
        separate("self.query", "self.key", "self.value"),
        output="output.dense",
        core="self",
        full=("all_head_size",),
    ),
    Row(
        "query, key, value inside `attention`, `output` beside it",
        separate("attention.query", "attention.key", "attention.value"),
        output="output.dense",
        core="attention",
        full=("all_head_size",),
    ),
    Row("query, key, value, dense", separate("query", "key", "value"), output="dense", full=("all_head_size",)),
    Row(
        "query_key in one inside `self_attention`, `output` beside it",
        (Part("self_attention.query_key"), Part("self_attention.value")),
        output="output.dense",
        core="self_attention",
        full=("all_head_size",),
    ),
    Row("q_lin ... out_lin", separate("q_lin", "k_lin", "v_lin"), output="out_lin"),
    Row(
        "q_proj ... o_proj in windows, with a bias table",
        separate("q_proj", "k_proj", "v_proj", Part("relative_position_bias.relative_position_bias_table", dim=1)),
        output="o_proj",
        form="windowed",
        types=("swin", "donut-swin", "maskformer-swin"),
    ),
    Row("q_proj ... o_proj", separate("q_proj", "k_proj", "v_proj"), output="o_proj"),
    Row(
        "q_proj ... out_proj, reshaped to the width that it remembers",
        separate("q_proj", "k_proj", "v_proj"),
        output="out_proj",
        full=("embed_dim",),
        types=("xglm",),
    ),
    Row("q_proj ... out_proj", separate("q_proj", "k_proj", "v_proj"), output="out_proj"),
    Row(
        "q, k, v, o with a position bias shared by all layers",
        separate("q", "k", "v"),
        output="o",
        full=("inner_dim",),
        adapter="shared_position_bias",
        types=("t5", "mt5", "longt5", "switch_transformers", "pop2piano", "udop"),
    ),
    Row(
        "query, key, value, output with a position bias shared by all layers",
        separate("query", "key", "value"),
        output="output",
        full=("inner_dim",),
        adapter="shared_position_bias",
        types=("pix2struct_text_model",),
    ),
    Row(
        "q_attn, fused keys and values c_attn, c_proj",
        (Part("q_attn"), Part("c_attn", stack=2)),
        output="c_proj",
        full=("split_size", "embed_dim"),
        types=("gpt2",),
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
        separate("attn.q", "attn.k", "attn.v"),
        output="attn.o",
        core="attn",
        full=("all_head_size",),
        types=("mpnet",),
    ),
    Row(
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
    Row("fused Wqkv, out_proj", (Part("Wqkv", stack=3),), output="out_proj", types=("mpt",)),
    Row("fused qkv inside `attention`", (Part("attention.qkv", stack=3),), output="output.dense", core="attention"),
    Row("fused att_proj, out_proj", (Part("att_proj", stack=3),), output="out_proj", full=("embed_dim",)),
    Row("Wq, Wk, Wv, dense", separate("Wq", "Wk", "Wv"), output="dense", types=("ctrl",)),
    Row("query, key, value, proj", separate("query", "key", "value"), output="proj", full=("all_head_size",)),
    Row("fused Wqkv, Wo", (Part("Wqkv", stack=3),), output="Wo", full=("all_head_size",)),
    Row("query_key_value head by head, dense", (Part("query_key_value"),), output="dense", types=("gpt_neox", "bloom")),
    Row(
        "query, key, value inside `attention` over channels, the output projection in the block beside it",
        separate("attention.query", "attention.key", "attention.value"),
        output="post_attention.conv1d",
        core="attention",
        full=("all_head_size",),
        types=("squeezebert",),
    ),
    Row(
        "experts that hold queries and the output projection, keys and values for all of them",
        (Part("experts.input_linear"), Part("kv_proj", stack=2)),
        output="experts.output_linear",
        count="num_key_value_heads",
        unseen="each token attends with the same attention heads of several experts at once",
        types=("jetmoe",),
    ),
    Row(
        "q_b_proj, one key and value for all, an output projection in groups",
        (Part("q_b_proj"), Part("sinks", dim=0)),
        output="o_a_proj",
        types=("deepseek_v4",),
    ),
    Row("fused qkv_proj in four blocks", (Part("qkv_proj", stack=3, blocks=4),), output="out_proj", types=("codegen",)),
    Row(
        "timm: fused key and value, queries from outside",
        (Part("qkv", stack=2),),
        output="proj",
        types=("gcvit",),
        times=2,
    ),
    Row("timm: qkv head by head", (Part("qkv"),), output="proj", types=("maxxvit",)),
    Row(
        "timm: fused qkv, a context of alternating attention heads",
        (Part("qkv", stack=3),),
        output="proj",
        pieces=0,
        types=("nest",),
    ),
    Row(
        "projections of contents and positions beside the self-attention",
        beside("self_attn", "query_content", "query_pos", "key_content", "key_pos", "value"),
        output="self_attn.output_proj",
        core="self_attn",
        full=("output_dim", "embed_dim"),
        types=("dab-detr",),
    ),
    Row(
        "projections of contents and positions beside the cross-attention",
        beside("cross_attn", "query_content", "query_pos", "query_pos_sine", "key_content", "key_pos", "value"),
        output="cross_attn.output_proj",
        core="cross_attn",
        full=("output_dim",),
        types=("dab-detr",),
    ),
    Row(
        "queries_keys_values head by head behind a norm, projection behind an activation",
        (
            *normed("queries_keys_values.linear", "queries_keys_values.batch_norm"),
            Part("attention_biases", dim=0),
        ),
        output="projection.linear",
        full=("out_dim_projection", "out_dim_keys_values"),
    ),
    Row(
        "queries, keys_values head by head behind norms, projection behind an activation",
        (
            *normed("queries.linear", "queries.batch_norm"),
            *normed("keys_values.linear", "keys_values.batch_norm"),
            Part("attention_biases", dim=0),
        ),
        output="projection.linear",
        full=("out_dim_projection",),
    ),
    Row(
        "timm: qkv head by head, proj behind an activation",
        (*normed("qkv.linear", "qkv.bn"), Part("attention_biases", dim=0)),
        output="proj.ln.linear",
        full=("val_attn_dim",),
    ),
    Row(
        "timm: q, kv head by head, proj behind an activation",
        (*normed("q.ln.linear", "q.ln.bn"), *normed("kv.linear", "kv.bn"), Part("attention_biases", dim=0)),
        output="proj.ln.linear",
        full=("val_attn_dim",),
    ),
    Row(
        "timm: qkv head by head behind a norm, with a bias for each distance",
        (Part("qkv"), Part("attention_biases", dim=0)),
        output="proj",
        full=("out_dim",),
    ),
    Row(
        "timm: q, k, v over channels with convolutions beside them",
        (Part("q.conv"), Part("k.conv"), Part("v.conv"), Part("attention_biases", dim=0)),
        output="proj.conv",
    ),
    Row(
        "timm: q, k, v over channels with convolutions beside them, fewer queries",
        (Part("q.proj.conv"), Part("k.conv"), Part("v.conv"), Part("attention_biases", dim=0)),
        output="proj.conv",
    ),
    Row(
        "timm: attention heads one after another, each on what the one before it gave",
        (Part("attention_biases", dim=0),),
        output="proj.1.conv",
        unseen="its attention heads run one after another, not side by side",
    ),
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
