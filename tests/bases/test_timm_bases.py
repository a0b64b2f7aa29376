"""timm bases against timm itself and against plain transformers, offline and without downloads."""

from __future__ import annotations

import pytest
import timm
import torch
from PIL import Image
from tolerance import close

from topwork import BaseOptions, CheckpointError, UsageError
from topwork_bases.timm import base as timm_bases

NAMES = {0: "a", 1: "b", 2: "c"}
LABELS = {"id2label": NAMES, "label2id": {name: number for number, name in NAMES.items()}}


def base(value, **more):
    options = BaseOptions.model_validate(
        {"model": value, **more} if isinstance(value, str) else {"config": value, **more}
    )
    return timm_bases.load_base(options.model or "config:timm_wrapper", options)


def test_architecture_without_weights_needs_no_network() -> None:
    found = base("timm/test_vit.r160_in1k", weights=False)
    assert found.scratch
    assert found.config.image_size == 160
    assert found.processor("image_processor") is None
    model = found.native("AutoModelForImageClassification", **LABELS)
    assert model.config.id2label == NAMES
    assert model(torch.zeros(2, 3, 160, 160)).logits.shape == (2, 3)
    assert found.native("AutoModelForObjectDetection") is None


def test_input_size_and_channels_can_be_changed() -> None:
    found = base(
        "timm/test_vit", weights=False, changes={"model_args": {"img_size": 32, "in_chans": 1, "patch_size": 8}}
    )
    assert (found.config.image_size, found.config.num_channels) == (32, 1)
    model = found.native("AutoModelForImageClassification", **LABELS)
    assert model(torch.zeros(1, 1, 32, 32)).logits.shape == (1, 3)


@pytest.mark.parametrize(
    "name", ["test_vit", "test_convnext", "test_resnet", "test_efficientnet", "swinv2_cr_tiny_224"]
)
def test_backbone_answers_what_timm_answers(name) -> None:
    arguments = {"img_size": 64} if name.startswith("swin") else {}
    found = base({"model_type": "timm_wrapper", "architecture": name, "model_args": arguments})
    size = found.config.image_size
    images = torch.rand(2, 3, size, size)
    module = found.backbone().eval()
    network = module.backbone.timm_model
    with torch.no_grad():
        features = module(images)
        expected = network.forward_features(images)
        pooled = network(images)
    assert features.tokens.shape[::2] == (2, module.width)
    if expected.dim() == 3:
        assert torch.equal(features.tokens, expected)
    else:
        close(features.maps[0].double().mean(), expected.double().mean())
        assert features.tokens.shape[1] == features.maps[0].shape[2] * features.maps[0].shape[3]
    if features.pooled is not None:
        assert torch.equal(features.pooled, pooled)

    pyramid = found.backbone(maps=(0, 1, 2, 3)).eval()
    pyramid.backbone.load_state_dict(module.backbone.state_dict())  # the same names, with maps and without
    with torch.no_grad():
        maps = pyramid(images).maps
    assert [entry.shape[1] for entry in maps] == pyramid.map_widths
    assert [size // entry.shape[2] for entry in maps] == pyramid.map_strides
    assert pyramid.map_strides == sorted(pyramid.map_strides)
    reference = timm.create_model(name, features_only=True, out_indices=(-1,), **arguments)
    assert pyramid.map_widths[-1] == reference.feature_info.channels()[-1]


def test_folder_of_plain_transformers_comes_back_bit_by_bit(tmp_path) -> None:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    source = base("timm/test_resnet", weights=False)
    model = source.native("AutoModelForImageClassification", **LABELS)
    model.save_pretrained(tmp_path)
    found = base(str(tmp_path))
    assert not found.scratch
    assert found.trained_labels("AutoModelForImageClassification") == list(NAMES.values())
    again = found.native("AutoModelForImageClassification", **LABELS)
    plain = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    picture = Image.effect_noise((50, 40), 60).convert("RGB")
    inputs = AutoImageProcessor.from_pretrained(tmp_path)(picture)
    ours = found.processor("image_processor")(picture)
    assert torch.equal(inputs["pixel_values"], ours["pixel_values"])
    with torch.no_grad():
        expected = plain(**inputs).logits
        assert torch.equal(again(**ours).logits, expected)
        assert torch.equal(
            found.backbone().eval()(**ours).pooled,
            plain.timm_model.forward_head(plain.timm_model.forward_features(ours["pixel_values"]), pre_logits=True),
        )


def test_a_trained_classifier_is_replaced_only_on_request(tmp_path) -> None:
    base("timm/test_resnet", weights=False).native("AutoModelForImageClassification", **LABELS).save_pretrained(
        tmp_path
    )
    other = {"id2label": {0: "x", 1: "y", 2: "z"}, "label2id": {"x": 0, "y": 1, "z": 2}}
    with pytest.raises(CheckpointError, match="head: new"):
        base(str(tmp_path)).native("AutoModelForImageClassification", **other)
    old = base(str(tmp_path)).native("AutoModelForImageClassification", **LABELS).state_dict()
    new = base(str(tmp_path), head="new").native("AutoModelForImageClassification", **other)
    assert new.config.id2label == other["id2label"]
    for name, value in new.state_dict().items():
        assert torch.equal(value, old[name]) == ("fc.weight" not in name), name
    wider = {"id2label": dict(enumerate("vwxyz")), "label2id": {name: number for number, name in enumerate("vwxyz")}}
    assert base(str(tmp_path), head="new").native("AutoModelForImageClassification", **wider).num_labels == 5


def test_origin_makes_the_base_again_without_weights() -> None:
    import json

    found = base("timm/test_vit", weights=False, changes={"model_args": {"img_size": 64}})
    origin = json.loads(json.dumps(found.origin))
    again = base(origin["config"])
    assert again.config.to_dict() == found.config.to_dict()
    first, second = (
        entry.native("AutoModelForImageClassification", weights=False, **LABELS) for entry in (found, again)
    )
    assert {k: v.shape for k, v in first.state_dict().items()} == {k: v.shape for k, v in second.state_dict().items()}


def test_names_that_are_not_timms(tmp_path) -> None:
    assert timm_bases.load_base("bert-base-uncased", BaseOptions(model="bert-base-uncased")) is None
    assert timm_bases.load_base("config:bert", BaseOptions(config={"model_type": "bert"})) is None
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    assert timm_bases.load_base(str(tmp_path), BaseOptions(model=str(tmp_path))) is None
    with pytest.raises(UsageError, match="did you mean `resnet18`"):
        base("timm/resnett18", weights=False)
    with pytest.raises(UsageError, match=r"resnet18\.a1_in1k"):
        base("timm/resnet18.nothing", weights=False)
    with pytest.raises(UsageError, match="did you mean `model_args`"):
        base({"model_type": "timm_wrapper", "architecture": "resnet18", "model_arg": {}})
    with pytest.raises(UsageError, match="architecture"):
        base({"model_type": "timm_wrapper"})


def test_hub_weights_offline_are_a_clear_error() -> None:
    with pytest.raises(Exception, match="timm/resnet18") as caught:
        base("timm/resnet18")
    assert isinstance(caught.value, UsageError | CheckpointError)
