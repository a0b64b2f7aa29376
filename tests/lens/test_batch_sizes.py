"""A pruned model computes what the masked one computes on every batch: sizes that collide with its attention heads,
padding that the check did not have, and code that the check did not run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import torch

from topwork import Refused, alterations
from topwork_lens.look import Look
from topwork_lens.pruning import equivalence, reshapes

TEXT: dict[str, Any] = {"vocab_size": 60, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def led() -> Any:
    from transformers import LEDConfig, LEDModel

    sizes: dict[str, Any] = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "attention_window": 4}
    heads: dict[str, Any] = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    feed: dict[str, Any] = {"encoder_ffn_dim": 40, "decoder_ffn_dim": 40, "max_encoder_position_embeddings": 64}
    return LEDModel(LEDConfig(**TEXT, **sizes, **heads, **feed, max_decoder_position_embeddings=64))


def prophetnet() -> Any:
    from transformers import ProphetNetConfig, ProphetNetModel

    sizes: dict[str, Any] = {"hidden_size": 32, "num_encoder_layers": 1, "num_decoder_layers": 1, "ngram": 2}
    heads: dict[str, Any] = {"num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4}
    feed: dict[str, Any] = {"encoder_ffn_dim": 40, "decoder_ffn_dim": 40, "max_position_embeddings": 64}
    return ProphetNetModel(ProphetNetConfig(**TEXT, **sizes, **heads, **feed))


def bloom() -> Any:
    from transformers import BloomConfig, BloomModel

    return BloomModel(BloomConfig(hidden_size=32, n_layer=2, n_head=4, **TEXT))


def blip() -> Any:
    from transformers import BlipVisionConfig, BlipVisionModel

    sizes: dict[str, Any] = {"num_hidden_layers": 2, "intermediate_size": 40, "image_size": 16, "patch_size": 8}
    return BlipVisionModel(BlipVisionConfig(hidden_size=32, num_attention_heads=4, **sizes))


def bert() -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(
        BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40, **TEXT)
    )


MODELS: dict[str, Callable[[], Any]] = {
    "led": led,
    "prophetnet": prophetnet,
    "bloom": bloom,
    "blip": blip,
    "bert": bert,
}


def make(name: str) -> Any:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def batch(name: str, rows: int, length: int, padded: bool = False) -> dict[str, Any]:
    torch.manual_seed(rows * 100 + length)
    if name == "blip":
        return {"pixel_values": torch.randn(rows, 3, 16, 16)}
    ids = torch.randint(3, 60, (rows, length))
    inputs: dict[str, Any] = {"input_ids": ids}
    if name in ("led", "prophetnet"):
        inputs["decoder_input_ids"] = ids[:, : max(1, length - 1)]
    if padded:
        mask = torch.ones_like(ids)
        mask[-1, length // 2 :] = 0
        inputs["attention_mask"] = mask
    return inputs


def output(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    cache = {} if "pixel_values" in inputs else {"use_cache": False}
    with torch.no_grad():
        result: torch.Tensor = model(**inputs, **cache)[0]
    return result


@pytest.mark.parametrize("left", [[2], [0, 3], [0, 1, 2]], ids=["4 to 1", "4 to 2", "4 to 3"])
@pytest.mark.parametrize("name", list(MODELS))
def test_pruned_is_masked_at_sizes_that_equal_numbers_of_heads(name: str, left: list[int]) -> None:
    model = make(name)
    whole = copy.deepcopy(model)
    heads = {layer.path: [head for head in range(4) if head not in left] for layer in Look(model).layers}
    Look(model).prune_heads(heads, check=batch(name, 3, 10))
    with Look(whole).mask_heads(heads):
        for rows, length in ((1, 4), (2, 4), (3, 4), (4, 1), (4, 2), (4, 3), (4, 4), (9, 8), (1, 1), (7, 5), (8, 3)):
            for padded in (False, True) if length > 3 else (False,):
                other = batch(name, rows, length, padded)
                expected = output(whole, other)
                difference = (expected - output(model, other)).abs().max() / expected.abs().max()
                assert difference < 1e-5, (rows, length, padded)


def test_decisions_on_reshapes_are_kept_with_the_model() -> None:
    model = make("blip")
    Look(model).prune_heads({0: [1]}, check=batch("blip", 3, 0))
    variant = alterations(model)["lens"]["layers"]["encoder.layers.0.self_attn"]["variant"]
    assert any(changes for changes in variant["sites"].values())
    again = copy.deepcopy(model)
    Look(again).prune_heads({0: [2]}, check=batch("blip", 3, 0))
    assert alterations(again)["lens"]["layers"]["encoder.layers.0.self_attn"]["variant"]["sites"] == variant["sites"]


def test_a_reshape_that_did_not_run_when_it_was_pruned_is_refused() -> None:
    class Reshapes(torch.nn.Module):
        def forward(self, x: torch.Tensor, folded: bool = False) -> torch.Tensor:
            if folded:
                return x.view(2, 4, -1)
            return x.view(-1, 4, 8)

    module = Reshapes()
    reshapes.fit(module, [reshapes.Counts(4, 3, 8)])
    with module.forward.recording() as sites:
        assert module(torch.zeros(5, 24)).shape == (5, 3, 8)
    assert list(sites.values()) == [[[1, 0]]]
    assert module(torch.zeros(4, 24)).shape == (4, 3, 8)
    with pytest.raises(Refused, match="did not run when the layer was pruned"):
        module(torch.zeros(2, 3, 8), folded=True)


def test_rounding_is_told_from_an_error_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32 that rounds as badly as in a deep model: every comparison fails at first, no layer becomes soft."""
    right, runs = equivalence.tensors, count()

    def noisy(value: Any) -> list[torch.Tensor]:
        noise = 1 + 1e-4 * (next(runs) % 7)
        return [one * noise if one.dtype == torch.float32 else one for one in right(value)]

    monkeypatch.setattr(equivalence, "tensors", noisy)
    model = make("bert")
    result = Look(model).prune_heads({0: [1], 1: [0, 2]}, check=batch("bert", 3, 10))
    assert [line["form"] for line in result.layers] == ["hard", "hard"]
    assert result.check is not None and result.check.tolerance == 1e-10 and result.check.proves
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_an_error_as_small_as_rounding_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cut that is wrong by 1e-4 fails in float64 as well."""
    from topwork_lens.pruning import slicing

    right = slicing.put

    def wrong(owner: Any, name: str, value: torch.Tensor) -> None:
        right(owner, name, value * (1 + 1e-4) if name == "weight" and value.shape[0] != value.shape[1] else value)

    model = make("bert")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    monkeypatch.setattr(slicing, "put", wrong)
    monkeypatch.setattr("topwork_lens.pruning.strategies.soften", lambda *_, **__: 1 / 0)
    with pytest.raises(Refused, match="differ by"):
        Look(model).prune_heads({0: [1]}, check=batch("bert", 3, 10))
    assert before.keys() == dict(model.named_parameters()).keys()
