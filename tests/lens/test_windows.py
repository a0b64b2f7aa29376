"""Windows merged to the image, against the library's own cutting into windows; and torch's own layer, unfolded."""

from __future__ import annotations

from typing import Any

import lens_models
import pytest
import torch
from tolerance import close
from torch import nn

from topwork import Refused, UsageError
from topwork_lens.capture.undescribed import observed
from topwork_lens.capture.windows import merged, places
from topwork_lens.layers.torch_mha import stay_unfolded
from topwork_lens.look import Look


@pytest.mark.parametrize(("size", "window", "shift"), [((8, 8), 4, 0), ((8, 12), 4, 2), ((8, 8), 2, 1)])
def test_places_are_those_of_the_library(size: tuple[int, int], window: int, shift: int) -> None:
    from transformers.models.swin.modeling_swin import window_partition

    numbers = torch.arange(size[0] * size[1]).view(1, *size, 1)
    cut = window_partition(torch.roll(numbers, (-shift, -shift), (1, 2)), window)
    assert torch.equal(places(size, window, shift), cut.flatten(1))


def test_an_image_that_is_no_whole_number_of_windows_is_padded() -> None:
    found = places((3, 5), 4)
    assert found.shape == (2, 16)
    assert sorted(found[found >= 0].tolist()) == list(range(15))


@pytest.mark.parametrize("number", [0, 1])
def test_swin_on_the_image(number: int) -> None:
    model, batch = lens_models.make("swin", torch.float64)
    look = Look(model)
    with torch.no_grad(), look.capture("weights", "entropy") as seen:
        model(pixel_values=batch["pixel_values"])
    block = model.swin.encoder.layers[0].blocks[number]
    values = (16, 16), 4, block.shift_size
    weights, entropy = seen["weights", number], seen["entropy", number]
    image = merged(weights, *values)
    assert image.shape == (4, 2, 256, 256)
    close(image.sum(-1), torch.ones(4, 2, 256), dtype=torch.float32)  # its softmax is that of float32
    own = -(torch.xlogy(image, image)).sum(-1).view(4, 2, 16, 16)
    close(merged(entropy, *values), own, dtype=torch.float32)
    assert torch.equal(seen.image_map("entropy", number, *values), merged(entropy, *values))
    with pytest.raises(UsageError, match="do not make images"):
        merged(entropy, (12, 16), 4)


def test_a_layer_that_sees_the_whole_image_has_maps_without_windows() -> None:
    values = torch.rand(2, 3, 12)
    assert torch.equal(merged(values, (3, 4), None).flatten(2), values)
    model, batch = lens_models.make("vit")
    with torch.no_grad(), Look(model).capture("entropy") as seen:
        model(pixel_values=batch["pixel_values"])
    with pytest.raises(UsageError, match="17 positions do not make an image of 4 x 4; leave positions out"):
        seen.image_map("entropy", 0, (4, 4))


class Pool(nn.Module):
    """A model around torch's own layer."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 4, batch_first=True, **options)
        self.end = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.end(self.attention(x, x, x, key_padding_mask=mask)[0]).tanh()


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"add_bias_kv": True, "add_zero_attn": True}])
@pytest.mark.parametrize("masked", [False, True])
def test_torch_s_own_layer_unfolded_gives_the_same_numbers(options: dict[str, Any], masked: bool) -> None:
    torch.manual_seed(0)
    model = Pool(**options).double().eval()
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    mask = torch.arange(5)[None] >= torch.tensor([[5], [3]]) if masked else None
    whole, weights = model.attention(x, x, x, key_padding_mask=mask, average_attn_weights=False)
    fold = stay_unfolded(model.attention)
    own, seen = model.attention(x, x, x, key_padding_mask=mask, average_attn_weights=False)
    fold()
    close(own, whole)
    close(seen, weights)
    assert "forward" not in vars(model.attention)


def test_torch_s_own_layer_is_seen_gated_and_cut() -> None:
    torch.manual_seed(0)
    model = Pool().eval()
    x = torch.randn(2, 5, 12)
    _, expected = model.attention(x, x, x, average_attn_weights=False)
    look = Look(model)
    with torch.no_grad(), look.capture("weights", "context") as seen:
        plain = model(x)
    close(seen["weights", 0], expected)
    with torch.no_grad(), look.mask_heads({0: [1, 2]}):
        masked = model(x)
    assert (masked - plain).abs().max() > 1e-3
    result = look.prune_heads({0: [1, 2]}, check=lambda: model(x))
    assert result.layers[0]["form"] == "hard"
    close(model(x), masked)
    assert model.attention.in_proj_weight.shape == (18, 12)


def test_a_softmax_that_weighs_no_values_is_no_attention() -> None:
    """A router's softmax, and one whose scores are no product, are passed over; attention is seen."""

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router = nn.Linear(8, 4)
            self.inner = nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            shares = self.router(x).softmax(-1)
            mixed = shares @ torch.ones(2, 4, 8)
            weights = (x @ x.transpose(-1, -2)).softmax(-1)
            return mixed + torch.dropout(weights, 0.1, False) @ self.inner(x)

    model = Mixed()
    with observed(model) as found:
        model(torch.randn(2, 5, 8))
    assert found == {"": {"softmax"}}


def test_attention_heads_in_another_order_are_refused() -> None:
    """The output projection of this module gets what its attention heads computed alternating, channel by channel."""

    class Alternating(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_heads = 4
            self.qkv, self.proj = nn.Linear(12, 36), nn.Linear(12, 12)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            query, key, value = self.qkv(x).unflatten(-1, (3, 4, 3)).permute(2, 0, 3, 1, 4)
            found = nn.functional.scaled_dot_product_attention(query, key, value)
            return self.proj(found.permute(0, 2, 3, 1).flatten(2))

    torch.manual_seed(0)
    model = nn.Sequential(Alternating())
    with torch.no_grad(), pytest.raises(Refused) as refused, Look(model).capture("entropy"):
        model(torch.randn(2, 5, 12))
    assert refused.value.reason == "not_a_head"
