"""Dense task heads on the maps of any backbone: shapes, gradients, independence of rows, and their loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dense_models import RESNET, SWIN, TIMM, VIT
from tolerance import about, close

from topwork import BaseOptions, CheckpointError
from topwork_bases.timm import base as timm_bases
from topwork_bases.transformers import base as transformers_bases
from topwork_tasks._vision import dense_heads as _dense
from topwork_tasks.depth_estimation.task import DepthEstimation
from topwork_tasks.image_segmentation.task import ImageSegmentation

CONVNEXT = {"model_type": "convnext", "hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1], "num_stages": 4}
DINO = {**{key: value for key, value in VIT.items() if key != "intermediate_size"}, "model_type": "dinov2"}
BASES = {
    "vit": {"config": VIT},
    "deit": {"config": {**VIT, "model_type": "deit"}},
    "dinov2": {"config": DINO},
    "swin": {"config": SWIN},
    "resnet": {"config": RESNET},
    "resnet, two maps": {"config": {**RESNET, "hidden_sizes": [8, 16], "depths": [1, 1]}},
    "convnext": {"config": CONVNEXT},
    **{f"timm {name}": options for name, options in TIMM.items()},
}


def base(value):
    options = BaseOptions.model_validate(value)
    name = options.model or f"config:{options.config['model_type']}"
    return timm_bases.load_base(name, options) or transformers_bases.load_base(name, options)


@pytest.mark.parametrize("decoder", ["pyramid", "linear"])
@pytest.mark.parametrize("name", BASES)
def test_any_backbone_gets_outputs_gradients_and_rows_of_their_own(name, decoder) -> None:
    torch.manual_seed(0)
    found = base(BASES[name])
    size = getattr(found.config, "image_size", None)
    size = size if isinstance(size, int) and size <= 64 else 64
    head = _dense.DenseHead(_dense.backbone_with_maps(found, True), 5, decoder).eval()
    pixels = torch.rand(3, getattr(found.config, "num_channels", 3), size, size)
    logits = head(pixel_values=pixels).logits
    assert logits.shape[:2] == (3, 5)
    if decoder == "pyramid":
        assert size // logits.shape[-1] <= 4
    labels = torch.randint(0, 5, (3, size, size))
    losses = _dense.row_losses(logits, labels, 255, 1.0)
    losses.mean().backward()
    own = [parameter for key, parameter in head.named_parameters() if not key.startswith("backbone.")]
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in own)
    reached = [p.grad is not None and bool(p.grad.any()) for p in head.backbone.parameters()]
    assert np.mean(reached) > 0.6
    with torch.no_grad():
        alone = head(pixel_values=pixels[1:2]).logits
    close(alone, logits[1:2])


@pytest.mark.parametrize("task", [ImageSegmentation, DepthEstimation])
@pytest.mark.parametrize("name", ["deit", "convnext", "timm test_vit", "timm test_convnext"])
def test_models_on_any_base_come_back_the_same(task, name, tmp_path, plugins) -> None:
    import topwork
    from topwork.testing import build_example

    work = build_example(task, BASES[name], plugins)
    rows = task.example_rows()[:3]
    work.save(tmp_path / "model")
    assert work.form == "generic"
    assert (tmp_path / "model" / "topwork.safetensors").is_file()
    assert repr(topwork.load(tmp_path / "model", plugins=plugins).predict(rows)) == repr(work.predict(rows))


def test_the_loss_is_cross_entropy_and_dice_over_pixels_that_count() -> None:
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(2, 4, 6, 7)), random.integers(0, 3, (2, 6, 7))
    labels[0, :2] = 255
    found = _dense.row_losses(torch.from_numpy(logits), torch.from_numpy(labels), 255, 0.5)
    for number in range(2):
        valid = labels[number] != 255
        shares = np.exp(logits[number]) / np.exp(logits[number]).sum(0)
        entropy, dice = [], []
        for row, column in zip(*np.nonzero(valid), strict=True):
            entropy.append(-np.log(shares[labels[number][row, column], row, column]))
        for label in np.unique(labels[number][valid]):
            truth = (labels[number] == label)[valid]
            share = shares[label][valid]
            dice.append(1 - (2 * share[truth].sum() + 1) / (share.sum() + truth.sum() + 1))
        assert found[number].item() == about(np.mean(entropy) + 0.5 * np.mean(dice))
    nothing = torch.full((2, 6, 7), 255)
    assert _dense.row_losses(torch.from_numpy(logits), nothing, 255, 1.0).tolist() == [0, 0]


@pytest.mark.parametrize("most", [None, 8.0])
def test_depth_begins_where_it_is_told_and_stays_in_its_range(most) -> None:
    torch.manual_seed(0)
    head = _dense.DepthHead(_dense.backbone_with_maps(base(BASES["swin"]), True), max_depth=most, typical=3.0).eval()
    with torch.no_grad():
        start = head(pixel_values=torch.zeros(1, 3, 64, 64)).predicted_depth
        head.head.bias.fill_(50.0)
        far = head(pixel_values=torch.rand(1, 3, 64, 64)).predicted_depth
        head.head.bias.fill_(-50.0)
        near = head(pixel_values=torch.rand(1, 3, 64, 64)).predicted_depth
    assert start.mean().item() == pytest.approx(3.0, rel=0.15)
    assert (near >= 0).all()
    assert near.max() < 1e-3
    assert (far.max() <= 8.0) if most else (far.min() > 40)


def test_a_backbone_without_maps_is_refused() -> None:
    bert = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    with pytest.raises(CheckpointError, match="`bert` is no network for images"):
        _dense.backbone_with_maps(base({"config": bert}), True)
