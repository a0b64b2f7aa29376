"""Attention over a band: captured also where its sizes collide with the number of attention heads (Longformer, LED)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tolerance import close

from topwork_lens.look import Look

SIZES = [(4, 8), (2, 4), (4, 4), (12, 16), (3, 8)]


def longformer(heads: int, window: int) -> Any:
    from transformers import LongformerConfig, LongformerModel

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 8 * heads, "num_hidden_layers": 2, "num_attention_heads": heads}
    sizes |= {"intermediate_size": 48, "attention_window": [window, window], "max_position_embeddings": 70}
    return LongformerModel(LongformerConfig(**sizes, vocab_size=50, pad_token_id=1, initializer_range=0.3)).eval()


def led(heads: int, window: int) -> Any:
    from transformers import LEDConfig, LEDModel

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"d_model": 8 * heads, "encoder_layers": 2, "decoder_layers": 1, "init_std": 0.3}
    sizes |= {"encoder_attention_heads": heads, "decoder_attention_heads": heads, "attention_window": [window, window]}
    sizes |= {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_encoder_position_embeddings": 70, "vocab_size": 50}
    return LEDModel(LEDConfig(**sizes, pad_token_id=1)).eval()


@pytest.mark.parametrize("with_global", [False, True])
@pytest.mark.parametrize(("heads", "window"), SIZES)
@pytest.mark.parametrize("build", [longformer, led])
def test_weights_of_a_band_are_the_library_s_own(build: Any, heads: int, window: int, with_global: bool) -> None:
    model = build(heads, window)
    ids = torch.randint(3, 50, (2, 32), generator=torch.Generator().manual_seed(1))
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if with_global:
        inputs["global_attention_mask"] = torch.zeros_like(ids).index_fill(1, torch.tensor([0]), 1)
    look = Look(model)
    banded = [layer for layer in look.layers if "self" in layer.kind and layer.side == "encoder"]
    with torch.no_grad():
        output = model(**inputs, output_attentions=True)
        with look.capture("weights", "entropy", layers=[layer.path for layer in banded]) as seen:
            model(**inputs)
    expected = output.get("attentions") or output.encoder_attentions
    for layer, weights in zip(banded, expected, strict=True):
        own, *others = seen.calls("weights", layer.path)
        assert len(others) == with_global
        entropy = seen.calls("entropy", layer.path)[0]
        close(entropy, -(own * (own + 1e-30).log()).sum(-1))
        # What the library returns for a global query is that of its second computation.
        rows = slice(1, None) if with_global else slice(None)
        close(own[:, :, rows], weights[:, :, rows])
        assert torch.allclose(own[:, :, rows].sum(-1), torch.ones(()))
