"""DPT's decoder as a depth head on any backbone: the same numbers as transformers' DPT where that can be built, and
every parameter learns where it cannot."""

from __future__ import annotations

import pytest
import torch
from dense_models import RESNET, SWIN, TIMM, VIT
from tolerance import close

from topwork import BaseOptions
from topwork.testing import build_example
from topwork_bases.timm import base as timm_bases
from topwork_bases.transformers import base as transformers_bases
from topwork_tasks._vision import dense_heads as _dense
from topwork_tasks.depth_estimation.task import DepthEstimation

DINO = {
    "model_type": "dinov2",
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 16,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
SWIN2 = {**SWIN, "model_type": "swinv2", "embed_dim": 16, "window_size": 4}
CONVNEXT = {"model_type": "convnext", "hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1], "num_stages": 4}
ANY = {
    "vit": {"config": VIT},
    "swin": {"config": SWIN},
    "resnet": {"config": RESNET},
    "resnet, two maps": {"config": {**RESNET, "hidden_sizes": [8, 16], "depths": [1, 1]}},
    "convnext": {"config": CONVNEXT},
    **{f"timm {name}": options for name, options in TIMM.items()},
}


def head_on(value):
    options = BaseOptions.model_validate(value)
    name = options.model or f"config:{options.config['model_type']}"
    base = timm_bases.load_base(name, options) or transformers_bases.load_base(name, options)
    return base, _dense.DepthHead(_dense.backbone_with_maps(base, True), "dpt", typical=2.0)


def renamed(name):
    """The name of our parameter for one of `DPTForDepthEstimation`."""
    pairs = {
        "backbone.": "backbone.backbone.",
        "neck.reassemble_stage.layers.": "decoder.reassemble.",
        "neck.convs.": "decoder.convs.",
        "neck.fusion_stage.": "decoder.fusion.",
        "head.head.0.": "decoder.first.",
        "head.head.2.": "decoder.second.",
        "head.head.4.": "head.",
    }
    return next((new + name.removeprefix(old) for old, new in pairs.items() if name.startswith(old)), name)


@pytest.mark.parametrize("config", [DINO, SWIN2], ids=["dinov2", "swinv2"])
def test_it_is_transformers_dpt_on_the_same_backbone(config) -> None:
    from transformers import DPTConfig, DPTForDepthEstimation

    torch.manual_seed(0)
    _, ours = head_on({"config": config})
    widths = [layer.in_channels for layer in ours.decoder.convs]
    told = {**config, "reshape_hidden_states": False} if config is DINO else config
    plain = DPTConfig(
        backbone_config=told, readout_type="ignore", neck_hidden_sizes=widths, fusion_hidden_size=32, is_hybrid=False
    )
    theirs = DPTForDepthEstimation(plain).eval()
    tensors = {renamed(name): value for name, value in theirs.state_dict().items()}
    found = ours.load_state_dict(tensors, strict=False)
    assert not found.missing_keys
    assert all("fusion.layers.0.residual_layer1" in name for name in found.unexpected_keys)
    ours.eval()
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.nn.init.constant_(theirs.head.head[4].bias, 0.3)
        torch.nn.init.constant_(ours.head.bias, 0.3)
        expected = theirs(pixels).predicted_depth
        output = ours.outputs(pixels)[:, 0]
        assert expected.shape == (2, 64, 64)
        assert expected.std() > 0
        close(output.relu(), expected)
        close(ours(pixels).predicted_depth, torch.nn.functional.softplus(output))


@pytest.mark.parametrize("name", ANY)
def test_any_backbone_learns_with_every_parameter_of_the_head(name) -> None:
    torch.manual_seed(0)
    base, head = head_on(ANY[name])
    size = getattr(base.config, "image_size", None)
    size = size if isinstance(size, int) and size <= 64 else 64
    depth = head(pixel_values=torch.rand(2, getattr(base.config, "num_channels", 3), size, size)).predicted_depth
    assert depth.shape[-1] >= size
    (depth - 1).square().mean().backward()
    own = {key: parameter for key, parameter in head.named_parameters() if not key.startswith("backbone.")}
    assert [key for key, parameter in own.items() if parameter.grad is None or not parameter.grad.any()] == []


@pytest.mark.parametrize("name", ["vit", "timm test_convnext"])
def test_a_task_with_it_learns_and_comes_back(name, tmp_path, plugins) -> None:
    import topwork

    work = build_example(DepthEstimation, ANY[name], plugins, options={"decoder": "dpt"})
    rows = DepthEstimation.example_rows()[:4]
    before = work.evaluate(rows)["abs_rel"]
    work.train(rows, steps=30, learning_rate=2e-3, batch_size=4)
    assert work.evaluate(rows)["abs_rel"] < 0.7 * before
    work.save(tmp_path / "model")
    assert repr(topwork.load(tmp_path / "model", plugins=plugins).predict(rows)) == repr(work.predict(rows))
