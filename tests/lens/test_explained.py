"""Captured weights explain the context, for modules of every making; what they cannot explain is refused or named."""

from __future__ import annotations

from typing import Any

import lens_models
import pytest
import torch
from tolerance import close
from torch import nn

from topwork import Refused
from topwork_lens.capture import fast_reductions as quick
from topwork_lens.capture.undescribed import observed
from topwork_lens.capture.verification import product_by_head, received
from topwork_lens.look import Look

make, without_labels = lens_models.make, lens_models.without_labels


class OwnAttention(nn.Module):
    """Attention with a softmax of its own, written in one of several ways."""

    def __init__(self, way: str = "matmul") -> None:
        super().__init__()
        self.num_heads, self.way = 4, way
        self.query, self.key, self.value, self.dense = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        split = [part(x).unflatten(-1, (4, 4)).transpose(1, 2) for part in (self.query, self.key, self.value)]
        query, key, value = split
        scores = query @ key.transpose(-1, -2) / 2
        if self.way == "exponential":
            weights = (scores - scores.logsumexp(-1, keepdim=True)).exp()
        else:
            weights = scores.softmax(-1)
        if self.way == "transposed":
            context = (value.transpose(-1, -2) @ weights.transpose(-1, -2)).transpose(-1, -2)
        elif self.way == "einsum":
            context = torch.einsum("bhqk,bhkd->bhqd", weights, value)
        elif self.way == "flat":
            context = torch.bmm(weights.flatten(0, 1), value.flatten(0, 1)).unflatten(0, (-1, 4))
        else:
            context = weights @ value
        context = context.transpose(1, 2).flatten(2)
        return self.dense(context.tanh() if self.way == "gated" else context)


class Linear(nn.Module):
    """Attention without a softmax: keys and values are summed up once."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 4
        self.query, self.key, self.value, self.dense = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (part(x).unflatten(-1, (4, 4)) for part in (self.query, self.key, self.value))
        return self.dense(
            torch.einsum("bqhd,bhde->bqhe", query, torch.einsum("bkhd,bkhe->bhde", key, value)).flatten(2)
        )


def run(*modules: nn.Module) -> tuple[nn.Sequential, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(*modules).eval()
    return model, torch.randn(3, 7, 16)


def by_hand(attention: Any, x: torch.Tensor) -> torch.Tensor:
    query, key = (part(x).unflatten(-1, (4, 4)).transpose(1, 2) for part in (attention.query, attention.key))
    return (query @ key.transpose(-1, -2) / 2).softmax(-1)


@pytest.mark.parametrize("way", ["matmul", "transposed", "einsum", "flat", "exponential", "gated"])
def test_own_weights_are_seen_whichever_way_they_are_multiplied(way: str) -> None:
    model, x = run(OwnAttention(way))
    with torch.no_grad(), Look(model).capture("weights") as seen:
        model(x)
    close(seen["weights", 0], by_hand(model[0], x))
    assert seen.explained == {"0": "product" if way == "gated" else "context"}


def test_each_kind_of_model_says_how_far_it_is_explained() -> None:
    for name in ("bert", "gpt2", "deberta_v2", "swin", "timm_vit", "t5"):
        model, batch = make(name)
        look = Look(model)
        with torch.no_grad(), look.capture("entropy") as seen:
            model(**without_labels(batch, model))
        assert seen.explained == {layer.path: "context" for layer in look.layers}, name


def test_what_a_product_gives_each_attention_head_is_recomputed_in_float64() -> None:
    weights, values = torch.rand(2, 4, 5, 6).softmax(-1), torch.randn(2, 4, 6, 3)
    answer = weights @ values
    found = product_by_head(torch.matmul, (weights, values), {}, answer, weights, 4)
    assert found is not None
    assert found.dtype == torch.float64
    close(found.float(), answer.movedim(1, 0).flatten(1))
    assert received([found], answer.transpose(1, 2))
    assert received([found], answer.transpose(1, 2).flip(1)), "positions in another order are the same numbers"
    assert not received([found], answer.transpose(1, 2).flip(2)), "attention heads in another order are not"
    with pytest.raises(ValueError, match="difference"):
        product_by_head(torch.matmul, (weights, values), {}, answer * 1.001, weights, 4)
    # Values for all attention heads at once: a number of the answer is not that of one attention head.
    mixed = torch.einsum("bhqk,bhkd->bqd", weights, values)
    arguments = ("bhqk,bhkd->bqd", weights, values)
    assert product_by_head(torch.einsum, arguments, {}, mixed, weights, 4) is None


def test_a_layer_without_a_softmax_is_refused_by_name_and_the_others_are_captured_by_choice() -> None:
    model, x = run(OwnAttention(), Linear())
    look = Look(model)
    assert [layer.path for layer in look.layers] == ["0", "1"]
    with torch.no_grad(), look.capture("entropy") as seen:
        model(x)
    assert list(seen("entropy")) == ["0"]
    assert seen.missing("entropy").keys() == {"1"}
    with pytest.raises(Refused, match="without a softmax") as refused:
        seen["entropy", "1"]
    assert (refused.value.reason, refused.value.place) == ("no_weights", "1")
    with torch.no_grad(), pytest.raises(Refused, match="without a softmax"), look.capture("entropy", layers=["1"]):
        model(x)
    with torch.no_grad(), look.capture("entropy", layers=["0"]) as seen:
        model(x)
    assert seen["entropy", "0"].shape == (3, 4, 7)
    with torch.no_grad(), look.capture("context") as contexts:
        model(x)
    assert contexts["context", "1"].shape == (3, 7, 4, 4)


def test_attention_that_nobody_describes_is_refused_unless_layers_are_named() -> None:
    class Bare(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x @ x.transpose(-1, -2)).softmax(-1) @ x

    model, x = run(OwnAttention(), Bare())
    look = Look(model)
    with torch.no_grad(), pytest.raises(Refused) as refused, look.capture("entropy"):
        model(x)
    assert (refused.value.reason, refused.value.place) == ("unknown_layout", "1")
    with torch.no_grad(), look.capture("entropy", layers=[0]) as seen:
        model(x)
    assert seen.explained == {"0": "context"}


class Pixels(nn.Module):
    """Attention over the channels of an image, by convolutions of one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 4
        self.qkv, self.proj = nn.Conv2d(8, 24, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv(x).flatten(2).unflatten(1, (3, self.num_heads, -1)).transpose(-1, -2).unbind(1)
        weights = (query @ key.transpose(-1, -2)).softmax(-1)
        return self.proj((weights @ value).transpose(-1, -2).flatten(1, 2).unflatten(-1, x.shape[2:]))


class PixelAttention(Pixels):
    """A name by which it is known."""


def test_convolutions_of_one_pixel_are_projections() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(PixelAttention(), nn.ReLU()).eval()
    x = torch.randn(2, 8, 3, 5)
    look = Look(model)
    with torch.no_grad(), look.capture("weights", "context") as seen:
        plain = model(x)
    assert seen["weights", 0].shape == (2, 4, 15, 15)
    assert seen["context", 0].shape == (2, 3, 5, 4, 2)
    assert seen.explained == {"0": "context"}
    with torch.no_grad(), look.mask_heads({0: [1, 2]}):
        masked = model(x)
    assert (masked - plain).abs().max() > 1e-3
    done = look.prune_heads({0: [1, 2]}, check=lambda: model(x))
    assert done.layers[0]["form"] == "hard"
    assert model[0].qkv.weight.shape == (12, 8, 1, 1)
    close(model(x), masked)


def test_deformable_attention_says_that_its_weights_are_those_of_points() -> None:
    from transformers import DeformableDetrConfig
    from transformers.models.deformable_detr.modeling_deformable_detr import (
        DeformableDetrMultiscaleDeformableAttention as Points,
    )

    torch.manual_seed(0)
    config = DeformableDetrConfig(d_model=16, encoder_attention_heads=4, num_feature_levels=2)
    layer = Points(config, num_heads=4, n_points=3).eval()
    nn.init.normal_(layer.attention_weights.weight)
    model = nn.ModuleList([layer])
    shapes = [(4, 4), (2, 2)]
    arguments: dict[str, Any] = {
        "hidden_states": torch.randn(1, 20, 16),
        "encoder_hidden_states": torch.randn(1, 20, 16),
        "reference_points": torch.rand(1, 20, 2, 2),
        "spatial_shapes": torch.tensor(shapes),
        "spatial_shapes_list": shapes,
        "level_start_index": torch.tensor([0, 16]),
    }
    look = Look(model)
    assert [found.form for found in look.layers] == ["deformable"]
    with torch.no_grad(), look.capture("weights") as seen:
        layer(**arguments)
    assert seen["weights", 0].shape == (1, 4, 20, 6)
    assert seen.explained == {"0": "points"}


def test_cross_attention_of_a_decoder_is_seen_step_by_step() -> None:
    model, batch = make("bart")
    ids = batch["input_ids"][:1]
    with Look(model).capture("weights") as seen:
        model.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=False, num_beams=1)
    cross = [tuple(weights.shape[2:]) for weights in seen.calls("weights", ("cross", 0))]
    own = [tuple(weights.shape[2:]) for weights in seen.calls("weights", ("decoder", 0))]
    assert len(seen.calls("weights", ("encoder", 0))) == 1
    assert cross == [(1, ids.shape[1])] * len(cross)
    assert own == [(1, step + 1) for step in range(len(own))]
    assert len(own) == 4


def test_a_router_that_is_written_by_exponentials_is_no_attention() -> None:
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router, self.experts = nn.Linear(7, 4), nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = self.router(x @ x.transpose(-1, -2))
            shares = (logits - logits.logsumexp(-1, keepdim=True)).exp()
            return shares @ self.experts(x)[:, :4]

    model, x = run(OwnAttention("exponential"), Routed())
    with torch.no_grad(), observed(model) as found:
        model(x)
    assert found == {"0": {"softmax"}}


def test_the_quick_way_explains_every_query_or_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual formula holds for all queries but the first, which it does not compare weights of."""
    from transformers.integrations import sdpa_attention
    from transformers.modeling_utils import AttentionInterface

    def wrong(*args: Any, **options: Any) -> tuple:
        context = sdpa_attention.sdpa_attention_forward(*args, **options)[0].clone()
        context[:, 0] += 0.01
        return context, None

    model, batch = make("bert")
    monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", wrong)
    monkeypatch.setattr(quick, "LEAST", 1)
    with torch.no_grad(), pytest.raises(Refused, match="do not explain the context"), Look(model).capture("entropy"):
        model(**without_labels(batch, model))
