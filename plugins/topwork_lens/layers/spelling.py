"""How attention modules spell their parts: names of projections, of sizes and of places in a model.

Words that many architectures share; what single architectures need stands in `architectures.py`.
"""

from __future__ import annotations

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
