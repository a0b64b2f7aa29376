"""Deformable attention without an output projection: listed with its reason, captured, and never masked or scored."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from architectures import build
from topwork import Batch, Item, Refused
from topwork_lens.look import Look

#: model type -> layers without an output projection
WITHOUT_OUTPUT = {
    name: ["decoder.layers.0.encoder_attn", "decoder.layers.1.encoder_attn"] for name in ("d_fine", "deimv2")
}
#: other models with deformable attention, all of it with an output projection
WITH_OUTPUT = ("deformable_detr", "rt_detr", "rt_detr_v2")


def losses(model: Any, batch: Batch) -> torch.Tensor:
    return model(**copy.deepcopy(dict(batch.inputs)))[0].float().square().mean().reshape(1)


@pytest.mark.parametrize("name", WITHOUT_OUTPUT)
def test_layers_without_an_output_projection_are_listed_and_captured(name: str) -> None:
    model, inputs = build.tiny(name)
    look = Look(model)
    lines = {line["path"]: line for line in look.table(lambda: model(**copy.deepcopy(dict(inputs))))}
    with torch.no_grad(), look.capture("entropy", "weights") as seen:
        model(**copy.deepcopy(dict(inputs)))
    for path in WITHOUT_OUTPUT[name]:
        assert (lines[path]["maskable"], lines[path]["prunable"], lines[path]["capturable"]) == (False, "", True)
        assert "no output projection" in lines[path]["why"]
        weights = seen["weights", path]
        assert torch.allclose(weights.sum(-1), torch.ones(weights.shape[:-1]), atol=1e-5)
        with pytest.raises(Refused) as refused, look.mask_heads({path: [0]}):
            pass
        assert refused.value.reason == "not_a_head"
    with torch.no_grad(), look.capture("context") as contexts:
        model(**copy.deepcopy(dict(inputs)))
    assert contexts.missing("context").keys() == set(WITHOUT_OUTPUT[name])


@pytest.mark.parametrize("name", WITHOUT_OUTPUT)
def test_scores_leave_them_out_and_pruning_of_the_others_goes_on(name: str) -> None:
    model, inputs = build.tiny(name)
    look = Look(model)
    scores = {
        layer.path: layer.scores for layer in look.importance([Batch(inputs, [Item(0, {})])], row_losses=losses).layers
    }
    assert {path for path, values in scores.items() if None in values} == set(WITHOUT_OUTPUT[name])
    assert not {layer.path for layer in look.active_layers()} & set(WITHOUT_OUTPUT[name])
    path = next(path for path in scores if path not in WITHOUT_OUTPUT[name])
    done = look.prune_heads({path: [0]}, check=lambda: model(**copy.deepcopy(dict(inputs))))
    assert done.removed == {path: [0]}


@pytest.mark.parametrize("name", WITH_OUTPUT)
def test_other_deformable_attention_is_described_as_before(name: str) -> None:
    model, inputs = build.tiny(name)
    look = Look(model)
    assert any(layer.form == "deformable" for layer in look.layers)
    with torch.no_grad(), look.capture("entropy"):
        model(**copy.deepcopy(dict(inputs)))
    assert look.active_layers() == look.layers


class Points(nn.Module):
    """Attention to points by names that nobody knows."""

    def __init__(self) -> None:
        super().__init__()
        self.where, self.how_much = nn.Linear(8, 4 * 3 * 2), nn.Linear(8, 4 * 3)

    def forward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        grid = self.where(x).view(len(x), -1, 3, 2).tanh()
        shares = self.how_much(x).view(len(x), 1, -1, 3).softmax(-1)
        return (functional.grid_sample(image, grid, align_corners=False) * shares).sum(-1)


def test_attention_to_points_that_nothing_describes_is_refused() -> None:
    model = nn.Module()
    model.points, model.attention = Points(), nn.MultiheadAttention(8, 2, batch_first=True)
    model.forward = lambda x, image: (model.attention(x, x, x)[0], model.points(x, image))
    x, image = torch.randn(2, 5, 8), torch.randn(2, 3, 6, 6)
    with torch.no_grad(), pytest.raises(Refused) as refused, Look(model).capture("entropy"):
        model(x, image)
    assert (refused.value.reason, refused.value.place) == ("unknown_layout", "points")
