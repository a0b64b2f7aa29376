"""Makes the default config of any architecture tiny, by what its entries are called: sizes, counts, lists, token ids.

The rules know names of entries only. What they get wrong for single model types stands in `overrides.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEADS, HEAD_DIM, FFN, VOCABULARY, POSITIONS = 32, 4, 8, 64, 128, 128
#: of a stack; more where a model wants one of each kind
LAYERS = 2

_LAYERS = re.compile(r"^(.*_)?(n_layers?|num_.*layers|layers|depth|num_blocks|num_.*blocks|n_layer)$")
_NO_LAYERS = re.compile(
    r"num_encoder_blocks|feat_extract|adapter_layers|shared|upsampl|conv|postnet|per_|predictor|denois|random|feature_layer|pos_|kv_"
)
_HEADS = re.compile(r"^(.*_)?(n_heads?|heads|num_.*heads|n_head|nhead|num_heads|num_attn_heads)$")
_HEAD_DIM = re.compile(r"head_dim|head_size|d_kv|dim_head|d_head|key_value_proj_dim|kv_channels|qk_.*dim|v_head_dim")
_FFN = re.compile(r"intermediate|ffn|d_ff|d_inner|mlp_(hidden_)?dim|feedforward|feed_forward|linear_units|dff|ff_dim")
_WIDTH = re.compile(
    r"(_|^)(size|dim|dims|width|model|embd|channels?|rank|units|features?|latents?|inplanes|embedding|filters|queries)$"
    r"|hidden|n_embd|d_model|num_pos_feats|conv_dim|tdnn_dim"
)
_NO_WIDTH = re.compile(
    r"image_size|patch_size|vocab|kernel|window|bucket|chunk|crop|codebook_size|sample|hop|context|block_size|"
    r"mel_|num_channels|in_channels$|input_channels|in_chans|position|img_|batch|pool|min_|max_|stride|temperature|"
    r"background|input_feat|feature_size|unfold|spec_size|num_latent|bandwidth|token|group_size|grid|d_conv|d_state"
)
_TOKEN = re.compile(r"(token_id|token_index|_token|_idx|index|_id|_ids)$")
_INDICES = re.compile(r"indexes|indices|idxs|_layers$|_blocks$|extract_layers|layer_ids|layers_to")
_TWICE = [16, 32, 64, 128, 256, 256]


#: what a backbone works out from its layers
STAGES = ("stage_names", "out_features", "out_indices")


def nested(value: Mapping[str, Any]) -> bool:
    """True when every kind of layer has an entry of its own."""
    return bool(value) and all(isinstance(one, Mapping) for one in value.values())


class Shrinker:
    """Shrinks one config and the configs inside it; token ids that were equal stay equal.

    Args:
        overrides: entries to set, by path.
        level: 0 shrinks everything, 1 leaves lists of widths alone, 2 all widths.
        mrope: True when the model splits its rotary positions in three.
    """

    def __init__(self, overrides: Mapping[str, Any], level: int = 0, mrope: bool = False) -> None:
        self.overrides, self.ids = overrides, dict[int, int]()
        self.level, self.mrope = level, mrope

    def config(self, default: Any, path: str = "") -> Any:
        """A tiny config of the same class."""
        wanted = self.entries(default, path)
        if path and not isinstance(default, dict):
            wanted = {**self._own(default), **wanted}
        return type(default)(**wanted)

    def _own(self, default: Any) -> dict[str, Any]:
        """What the outer config set in an inner one, besides its class's own defaults."""
        from dataclasses import fields

        from transformers import PreTrainedConfig

        try:
            plain = vars(type(default)())
        except Exception:
            plain = {}
        names = {field.name for field in fields(default)} | {"model_args"}
        found = {}
        for name, value in vars(default).items():
            inner = isinstance(value, PreTrainedConfig) or name.startswith("_") or name in STAGES
            if name in names and value is not None and not inner and (name not in plain or plain[name] != value):
                found[name] = value
        return found

    def entries(self, default: Any, path: str = "") -> dict[str, Any]:
        """The entries to make it with."""
        from transformers import PreTrainedConfig

        found: dict[str, Any] = {}
        for name, value in vars(default).items():
            if isinstance(value, PreTrainedConfig) and f"{path}{name}" not in self.overrides:
                found[name] = self.config(value, f"{path}{name}.")
        layers, picks = self._layers(default)
        for name, value in vars(default).items():
            place = f"{path}{name}"
            if place in self.overrides:
                continue
            if isinstance(value, PreTrainedConfig):
                continue
            if name == "head_dim" and value is None:
                found[name] = HEAD_DIM
            elif name == "num_key_value_heads" and value is None:
                found[name] = HEADS
            elif name in ("image_token_id", "image_token_index", "audio_token_id") and value is None:
                found[name] = 45
            elif name == "prediction_length" and value is None:
                found[name] = 8
            elif name == "backbone" and isinstance(value, str) and value.startswith("resnet"):
                found[name] = "resnet18"
            elif name == "use_pretrained_backbone":
                found[name] = False
            elif name.startswith("_") or isinstance(value, bool | str | float) or value is None:
                continue
            elif isinstance(value, int):
                new = self._number(name, value, default, layers)
                if new != value:
                    found[name] = new
            elif isinstance(value, list | tuple) and value:
                new = self._list(name, value, layers, picks)
                if new is not None and list(new) != list(value):
                    found[name] = type(value)(new)
            elif name == "rope_parameters" and self.mrope and isinstance(value, Mapping) and value and self.level < 2:
                half = max(2, int(HEAD_DIM * value.get("partial_rotary_factor", 1.0)) // 2) if not nested(value) else 4
                section = [half - 2 * (half // 3), half // 3, half // 3]
                if nested(value):
                    found[name] = {key: {**one, "mrope_section": section} for key, one in value.items()}
                else:
                    found[name] = {**value, "mrope_section": section}
        stages = getattr(default, "_out_features", None)
        if path and stages and isinstance(getattr(default, "depths", None), list | tuple):
            found["out_features"] = list(stages)
        indices = getattr(default, "_out_indices", None)
        if indices and not isinstance(getattr(default, "depths", None), list | tuple) and layers:
            found["out_indices"] = [layers - len(indices) + 1 + i for i in range(len(indices))]
            found["out_features"] = None
        for place, value in self.overrides.items():
            head, _, name = place.rpartition(".")
            if (head and f"{head}." == path) or (not head and not path):
                if value == "drop":
                    found.pop(name, None)
                else:
                    found[name] = value
        return found

    def _layers(self, default: Any) -> tuple[int, list[int]]:
        """How many layers the tiny one has, and which of the old ones they stand for."""
        counts = [
            v for k, v in vars(default).items() if k in ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
        ]
        counts = [v for v in counts if isinstance(v, int)] or [0]
        self.old_layers = counts[0]
        kinds: dict[int, None] = {}
        for value in vars(default).values():
            if (
                isinstance(value, list | tuple)
                and value
                and len(value) == counts[0]
                and isinstance(value[0], str | bool)
            ):
                seen: set[Any] = set()
                for place, entry in enumerate(value):
                    if entry not in seen and not seen.add(entry):
                        kinds[place] = None
        picks = sorted(kinds)
        indices = getattr(default, "_out_indices", None) or ()
        wanted = max(LAYERS, len(indices), len(picks))
        wanted = min(wanted, counts[0]) if counts[0] else wanted
        for place in range(counts[0]):
            if len(picks) >= wanted:
                break
            if place not in picks:
                picks.append(place)
        return wanted, sorted(picks)[:wanted] if counts[0] else []

    def _number(self, name: str, value: int, default: Any, layers: int) -> int:
        if _TOKEN.search(name) and "size" not in name:
            return self._token(value)
        if "vocab" in name or name in ("codebook_size", "num_embeddings"):
            return min(value, VOCABULARY)
        if _HEADS.search(name):
            if value <= 1:
                return value
            grouped = re.search(r"key_value|kv_", name)
            if self.level == 2:
                return value
            return 2 if grouped and value < (vars(default).get("num_attention_heads", value) or value) else HEADS
        if _LAYERS.search(name) and not _NO_LAYERS.search(name):
            return min(value, layers if name in ("num_hidden_layers", "n_layer", "n_layers", "num_layers") else LAYERS)
        if "expert" in name and "size" not in name and "dim" not in name:
            return min(value, 2 if "per_tok" in name or "top" in name or "shared" in name else 4)
        if name in ("n_group", "topk_group", "n_groups", "num_expert_group", "num_groups_moe"):
            return 1
        if re.search(r"moe_k|moe_num_experts|moe_topk|top_k_experts|num_experts_per_token", name):
            return min(value, 2 if "num_experts" not in name or "per" in name else 4)
        if re.search(r"max_position|max_target_pos|max_seq|n_positions|n_ctx|max_2d", name):
            return min(value, POSITIONS)
        if re.search(r"max_source_positions", name):
            return min(value, 50)
        if re.search(r"(^|_)image_size$|img_size$|_image_size", name) or name == "input_size":
            pyramid = isinstance(getattr(default, "depths", None), list | tuple)
            patch = getattr(default, "patch_size", 8)
            fixed = "patch_size" in self.overrides or not isinstance(patch, int)
            return min(value, 64 if pyramid or fixed or not hasattr(default, "patch_size") else 32)
        if name == "patch_size" and value > 8:
            return 8
        if name == "window_size" and isinstance(getattr(default, "depths", None), list | tuple):
            return 2
        if self.level == 2:
            return value
        if name == "rotary_dim":
            return 4
        if name in ("mamba_d_head", "mamba_head_dim"):
            return 16
        if name in ("upsample_groups", "num_conv_pos_embedding_groups", "num_groups"):
            return min(value, 4)
        if _HEAD_DIM.search(name):
            return min(value, HEAD_DIM)
        if _FFN.search(name):
            return min(value, FFN)
        if _WIDTH.search(name) and not _NO_WIDTH.search(name):
            return min(value, WIDTH)
        return value

    def _token(self, value: int) -> int:
        if value < 20:
            return value
        return self.ids.setdefault(value, 30 + len(self.ids))

    def _list(self, name: str, value: Sequence[Any], layers: int, picks: Sequence[int]) -> Sequence[Any] | None:
        kind = type(value[0])
        if kind is int and _TOKEN.search(name):
            return [self._token(entry) for entry in value]
        if name in ("image_size", "img_size"):
            return [min(entry, 32) for entry in value]
        if name == "patch_size" and kind is int:
            return [min(entry, 8) for entry in value]
        if "depth" in name and kind is int:
            return [2, *[1] * (len(value) - 1)]
        if self.level and kind is int and not _INDICES.search(name):
            return None
        if (kind is int and _HEADS.search(name)) or name == "num_attention_heads_per_stage":
            return [2, 4, 8, 16, 16][: len(value)]
        if picks and kind in (str, bool, float) and len(value) == self.old_layers and "stage" not in name:
            return [value[place] for place in picks]
        if picks and kind is int and len(value) == self.old_layers > 4 and set(value) <= {0, 1}:
            return [value[place] for place in picks]
        if kind is int and _INDICES.search(name) and not re.search(r"^stage_|attn_blocks|num_", name):
            return list(range(min(len(value), max(1, layers))))
        if kind is int and re.search(r"hidden_sizes|embed_dims?|_dim_per_stage|^dims|neck_hidden", name):
            return _TWICE[: len(value)] if min(value) != max(value) else [WIDTH] * len(value)
        if kind is int and re.search(r"^(conv_dim|tdnn_dim)", name):
            return [WIDTH] * len(value)
        return None
