"""Tiny random models for the tests of the lens, one for each way of building attention, and a batch for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.3,
}
_TEXT: dict[str, Any] = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def bert() -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(**_SIZES, vocab_size=50, pad_token_id=0, num_labels=3))


def distilbert() -> Any:
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    config = DistilBertConfig(
        vocab_size=50, dim=32, n_layers=3, n_heads=4, hidden_dim=40, initializer_range=0.3, num_labels=3
    )
    return DistilBertForSequenceClassification(config)


def albert() -> Any:
    from transformers import AlbertConfig, AlbertForSequenceClassification

    return AlbertForSequenceClassification(AlbertConfig(**_SIZES, vocab_size=50, embedding_size=16, num_labels=3))


def vit() -> Any:
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(ViTConfig(**_SIZES, image_size=32, patch_size=8, num_labels=3))


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    ids = {"bos_token_id": 1, "eos_token_id": 2}
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=3, n_head=4, initializer_range=0.3, **ids))


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**_SIZES, **_TEXT, num_key_value_heads=2))


def bart() -> Any:
    from transformers import BartConfig, BartForConditionalGeneration

    layers = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in _BART.items()}
    config = BartConfig(**_TEXT, **layers, d_model=32, init_std=0.3, decoder_start_token_id=2)
    return BartForConditionalGeneration(config)


_BART = {"layers": 2, "attention_heads": 4, "ffn_dim": 40}


def t5() -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=40, num_layers=2, num_heads=4, decoder_start_token_id=0)
    return T5ForConditionalGeneration(config)


_SOUND: dict[str, Any] = {
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 3, 3),
    "conv_stride": (5, 4, 4),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "feat_extract_norm": "layer",
    "num_labels": 3,
}


def wav2vec2() -> Any:
    from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification

    return Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**_SIZES, **_SOUND))


def wavlm() -> Any:
    from transformers import WavLMConfig, WavLMForSequenceClassification

    return WavLMForSequenceClassification(WavLMConfig(**_SIZES, **_SOUND))


def swin() -> Any:
    from transformers import SwinConfig, SwinForImageClassification

    sizes: dict[str, Any] = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
    return SwinForImageClassification(
        SwinConfig(image_size=32, patch_size=2, initializer_range=0.3, num_labels=3, **sizes)
    )


def modernbert() -> Any:
    from transformers import ModernBertConfig, ModernBertForSequenceClassification

    config = ModernBertConfig(**_SIZES, **_TEXT, cls_token_id=1, sep_token_id=2, num_labels=3)
    return ModernBertForSequenceClassification(config)


def gpt_neox() -> Any:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    return GPTNeoXForCausalLM(GPTNeoXConfig(**_SIZES, **_TEXT))


def deberta() -> Any:
    from transformers import DebertaConfig, DebertaForSequenceClassification

    relative = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 16}
    return DebertaForSequenceClassification(DebertaConfig(**_SIZES, **relative, vocab_size=50, num_labels=3))


def deberta_v2() -> Any:
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

    relative = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 16}
    return DebertaV2ForSequenceClassification(DebertaV2Config(**_SIZES, **relative, vocab_size=50, num_labels=3))


def timm_vit() -> Any:
    import timm

    return timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=3, embed_dim=48, num_classes=3)


_TEXTS = (bert, distilbert, albert, modernbert, deberta, deberta_v2, gpt2, gpt_neox, llama, bart, t5)
TRANSFORMERS: dict[str, Callable[[], Any]] = {build.__name__: build for build in (*_TEXTS, vit, swin, wav2vec2)}
ALL = {**TRANSFORMERS, "timm_vit": timm_vit}
FOLDED = {"wavlm": wavlm}  # all of its attention is one call of torch
ITEMS, TOKENS = 4, 9


def make(name: str, dtype: torch.dtype = torch.float32) -> tuple[Any, dict[str, torch.Tensor]]:
    """A model in evaluation mode and a batch with labels; texts and sounds are padded, each item differently."""
    torch.manual_seed(0)
    model = {**ALL, **FOLDED}[name]().to(dtype).eval()
    generator = torch.Generator().manual_seed(1)
    main = getattr(model, "main_input_name", "x")
    labels = torch.randint(0, 3, (ITEMS,), generator=generator)
    if main == "input_ids":
        ids = torch.randint(3, 50, (ITEMS, TOKENS), generator=generator)
        mask = torch.ones_like(ids)
        for item in range(ITEMS):
            mask[item, TOKENS - item :] = 0
        batch = {"input_ids": ids * mask, "attention_mask": mask, "labels": labels}
        if model.config.is_encoder_decoder or not hasattr(model, "num_labels") or "CausalLM" in type(model).__name__:
            batch["labels"] = ids.masked_fill(mask == 0, -100)
        if "LMHead" in type(model).__name__:
            batch["labels"] = ids.masked_fill(mask == 0, -100)
        return model, batch
    if main == "input_values":
        mask = torch.ones(ITEMS, 1600, dtype=torch.long)
        for item in range(ITEMS):
            mask[item, 1600 - 200 * item :] = 0
        sound = torch.randn(ITEMS, 1600, generator=generator).to(dtype) * mask
        return model, {main: sound, "attention_mask": mask, "labels": labels}
    image = torch.randn(ITEMS, 3, 32, 32, generator=generator).to(dtype)
    return model, ({main: image, "labels": labels} if main == "pixel_values" else {main: image})


def without_labels(batch: dict[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
    """The inputs alone (decoders get their labels as inputs instead)."""
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = batch["labels"].clamp(min=0)
    return inputs


def first_output(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits."""
    with torch.no_grad():
        output = model(**inputs)
    return output if isinstance(output, torch.Tensor) else output.logits
