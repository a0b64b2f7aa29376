"""Mask2Former's decoders on any backbone: the same numbers as transformers' Mask2Former over the same maps, and
instances and panoptic segments learned on backbones that transformers' own class cannot take."""

from __future__ import annotations

import pytest
import torch
from dense_models import MASK2FORMER, MASK_HEAD, RESNET, SWIN, TIMM, VIT
from tolerance import close

from topwork import BaseOptions, UsageError
from topwork.testing import check_task
from topwork_bases.timm import base as timm_bases
from topwork_bases.transformers import base as transformers_bases
from topwork_tasks._vision import dense_heads as _dense
from topwork_tasks.image_segmentation.mask_head import MaskHead
from topwork_tasks.image_segmentation.options import MaskHeadOptions
from topwork_tasks.image_segmentation.task import ImageSegmentation

ANY = {
    "vit": {"config": VIT},
    "resnet, two maps": {"config": {**RESNET, "hidden_sizes": [8, 16], "depths": [1, 1]}},
    **{f"timm {name}": options for name, options in TIMM.items()},
}


def head_on(value, **size):
    options = BaseOptions.model_validate(value)
    name = options.model or f"config:{options.config['model_type']}"
    base = timm_bases.load_base(name, options) or transformers_bases.load_base(name, options)
    torch.manual_seed(0)
    chosen = MaskHeadOptions(**{**MASK_HEAD, **size})
    return base, MaskHead(_dense.backbone_with_maps(base, True), chosen, 3)


def truth(size):
    masks = torch.zeros(2, 2, size, size)
    masks[:, 0, : size // 2], masks[:, 1, :, size // 2 :] = 1, 1
    return {"mask_labels": list(masks), "class_labels": [torch.tensor([0, 2]), torch.tensor([1, 1])]}


def test_it_is_transformers_mask2former_on_the_same_maps() -> None:
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    _, ours = head_on({"config": SWIN})
    small = {key: value for key, value in MASK2FORMER.items() if key != "model_type"}
    config = Mask2FormerConfig(**{**small, "dim_feedforward": 32})
    config.num_labels = 3
    theirs = Mask2FormerForUniversalSegmentation(config).eval()
    encoder = "model.pixel_level_module.encoder."
    tensors = {
        f"backbone.backbone.{name.removeprefix(encoder)}" if name.startswith(encoder) else f"head.{name}": value
        for name, value in theirs.state_dict().items()
    }
    ours.load_state_dict(tensors)
    ours.eval()
    pixels = torch.rand(2, 3, 64, 64)
    results = []
    with torch.no_grad():
        for model in (ours, theirs):
            torch.manual_seed(1)
            results.append(model(pixel_values=pixels, **truth(64)))
    for name in ("class_queries_logits", "masks_queries_logits", "loss"):
        close(getattr(results[0], name), getattr(results[1], name))


@pytest.mark.parametrize("name", ANY)
def test_any_backbone_gets_masks_and_gradients(name) -> None:
    base, model = head_on(ANY[name])
    size = getattr(base.config, "image_size", None)
    size = size if isinstance(size, int) and size <= 64 else 64
    output = model(pixel_values=torch.rand(2, getattr(base.config, "num_channels", 3), size, size), **truth(size))
    assert output.class_queries_logits.shape == (2, 8, 4)
    assert output.masks_queries_logits.shape[:2] == (2, 8)
    assert size // output.masks_queries_logits.shape[-1] <= 4
    output.loss.backward()
    own = {key: parameter for key, parameter in model.named_parameters() if not key.startswith("backbone.")}
    assert [key for key, parameter in own.items() if parameter.grad is None] == []
    assert all(layer.weight.grad.any() for layer in model.levels.modules() if isinstance(layer, torch.nn.Conv2d))
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in model.backbone.parameters())


@pytest.mark.parametrize(("name", "kind"), [("vit", "instance"), ("timm test_convnext", "panoptic")])
def test_the_contract_holds_on_a_base_without_a_segmenter(name, kind, tmp_path, plugins) -> None:
    options = {"kind": kind, "mask_head": MASK_HEAD, "threshold": 0.1}
    work = check_task(ImageSegmentation, ANY[name], tmp_path, plugins=plugins, options=options)
    assert work.form == "generic"
    assert type(work.task.processor).__name__.startswith("Mask2Former")


def test_it_learns_the_instances_of_a_picture(plugins) -> None:
    import topwork

    rows = ImageSegmentation.example_rows()[:2]
    work = topwork.build(
        "image-segmentation",
        TIMM["test_convnext"],
        rows=rows,
        plugins=plugins,
        kind="instance",
        mask_head={**MASK_HEAD, "decoder_layers": 2, "points": 256},
    )
    before = work.evaluate(rows)["map50"]
    work.train(rows, steps=80, learning_rate=4e-3, batch_size=2)
    after = work.evaluate(rows)["map50"]
    assert before < 0.3 < 0.7 < after


def test_the_lens_prunes_backbone_and_head(tmp_path, plugins) -> None:
    import topwork

    rows = ImageSegmentation.example_rows()[:2]
    options = {"kind": "instance", "mask_head": MASK_HEAD, "threshold": 0.0}
    work = topwork.build("image-segmentation", ANY["vit"], rows=rows, plugins=plugins, **options)
    inner = "head.model.transformer_module.decoder.layers.0"
    paths = ["backbone.backbone.layers.0.attention", f"{inner}.self_attn", f"{inner}.cross_attn"]
    assert set(paths) <= {layer.path for layer in work.look().layers}
    before = repr(work.predict(rows))
    work.look().prune_heads({path: [1] for path in paths})  # checks that masked and pruned outputs are the same
    work.save(tmp_path / "model")
    after = repr(work.predict(rows))
    assert repr(topwork.load(tmp_path / "model", plugins=plugins).predict(rows)) == after != before


def test_the_size_belongs_to_bases_without_such_a_head(plugins) -> None:
    import topwork

    rows = ImageSegmentation.example_rows()
    with pytest.raises(UsageError, match="`mask2former` has a head for masks of its own"):
        topwork.build("image-segmentation", {"config": MASK2FORMER}, rows=rows, plugins=plugins, mask_head=MASK_HEAD)
    with pytest.raises(ValueError, match="no multiple of 32"):
        MaskHeadOptions(width=48)
    work = topwork.build("image-segmentation", {"config": VIT}, rows=rows, plugins=plugins, mask_head=MASK_HEAD)
    assert isinstance(work.model, MaskHead)  # semantic masks by it, when it is asked for
    assert len(work.predict(rows[:1])) == 1
