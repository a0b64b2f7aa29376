"""image-classification against plain transformers (loss, predictions, pipeline), and what it does with bad rows."""

from __future__ import annotations

import io

import datasets
import numpy as np
import pytest
import torch
import vision_tasks
from PIL import Image
from tolerance import about, close
from vision_tasks import base, predictions

from topwork import DataError, State, TopworkError, UsageError
from topwork_tasks.image_classification.task import ImageClassification

VIT = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 16,
    "patch_size": 4,
}
RESNET = {"model_type": "timm_wrapper", "architecture": "test_resnet", "model_args": {}, "image_size": 32}


def make(source=VIT, rows=None, **options):
    return vision_tasks.make(ImageClassification, source, rows, **options)


def metric_of(task, model, rows):
    metric = task.metric()
    for row, prediction in zip(rows, predictions(task, model, rows), strict=True):
        metric.update(row, prediction)
    return metric.result()


@pytest.mark.parametrize("config", [VIT, RESNET], ids=["vit", "timm"])
def test_a_folder_of_plain_transformers_gives_plain_transformers_numbers(tmp_path, config) -> None:
    from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

    task, model, rows = make(base(config))
    model.save_pretrained(tmp_path)
    task.processor.save_pretrained(tmp_path)
    task, model, _ = make(base(tmp_path))
    plain = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    asked = pipeline("image-classification", model=plain, image_processor=processor, device="cpu")

    expected = asked([row["image"] for row in rows])
    for ours, theirs in zip(predictions(task, model, rows), expected, strict=True):
        assert [entry["label"] for entry in ours] == [entry["label"] for entry in theirs]
        assert [entry["score"] for entry in ours] == about([entry["score"] for entry in theirs])

    inputs = processor([row["image"] for row in rows], return_tensors="pt")
    labels = torch.tensor([plain.config.label2id[row["label"]] for row in rows])
    batch = task.collate(task.encode(rows, "loss", 0), "loss")
    with torch.no_grad():
        loss = plain(**inputs, labels=labels).loss
        close(task.loss(model, batch), loss)
        close(task.row_losses(model, batch).mean(), loss)
        alone = super(ImageClassification, task).row_losses(model, batch)
        close(task.row_losses(model, batch), alone)


def test_several_labels_a_row_equal_the_pipeline(tmp_path) -> None:
    from transformers import pipeline

    rows = [
        {**row, "label": [row["label"], "light"] if number % 2 else []}
        for number, row in enumerate(ImageClassification.example_rows())
    ]
    task, model, _ = make(rows=rows, multi_label=True)
    assert model.config.problem_type == "multi_label_classification"
    asked = pipeline("image-classification", model=model, image_processor=task.processor, device="cpu")
    for row, ours in zip(rows, predictions(task, model, rows), strict=True):
        theirs = asked(row["image"])
        assert [entry["label"] for entry in ours] == [entry["label"] for entry in theirs]
        assert [entry["score"] for entry in ours] == about([entry["score"] for entry in theirs])
    batch = task.collate(task.encode(rows, "loss", 0), "loss")
    with torch.no_grad():
        plain = model(**batch.inputs).loss
        close(task.loss(model, batch), plain)
    assert set(task.metric().keys) <= set(metric_of(task, model, rows))


def test_it_learns_and_comes_back(tmp_path) -> None:
    task, model, rows = make(label_smoothing=0.05, class_weights="balanced")
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    batch = task.collate(task.encode(rows, "train", 0), "train")
    model.train()
    for _ in range(100):
        optimizer.zero_grad()
        task.loss(model, batch).backward()
        optimizer.step()
    model.eval()
    result = metric_of(task, model, rows)
    assert result["accuracy"] == 1
    model.save_pretrained(tmp_path)
    task.processor.save_pretrained(tmp_path)
    found = base(tmp_path)
    state = State(task.state.values, {"image_processor": found.processor("image_processor")})
    again = ImageClassification({"base": found}, task.options, state)
    assert predictions(again, again.build().eval(), rows) == predictions(task, model, rows)


def test_a_backbone_without_a_class_of_its_own_gets_a_generic_head() -> None:
    task, model, rows = make(base({**VIT, "model_type": "vit_mae"}), pooling="mean")
    assert type(model).__name__ == "PooledHead"
    batch = task.collate(task.encode(rows, "loss", 0), "loss")
    with torch.no_grad():  # nothing is hidden from it
        close(task.row_losses(model, batch), task.row_losses(model, batch))
    task.loss(model, task.collate(task.encode(rows, "train", 0), "train")).backward()
    assert {len(entry) for entry in predictions(task, model, rows)} == {3}


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_images_have_the_size_of_the_tower_that_reads_them(name: str) -> None:
    """The config of a model of images and texts says the size in the part about images."""
    tower = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    vision = {**tower, "image_size": 48, "patch_size": 16}
    source = base({"model_type": name, "text_config": {**tower, "vocab_size": 60}, "vision_config": vision})
    task, model, rows = make(source)
    batch = task.collate(task.encode(rows, "predict", 0), "predict")
    assert batch.inputs["pixel_values"].shape[-2:] == (48, 48)
    assert {len(entry) for entry in predictions(task, model, rows)} == {3}
    assert task.inputs.units(task.base, batch.inputs["pixel_values"][0]).grid == (3, 3)
    with pytest.raises(UsageError, match=r"`vision_config.image_size` of the base"):
        make(source, image_size=32)


def test_statistics_are_those_of_the_rows() -> None:
    arrays = [np.random.default_rng(number).integers(0, 256, (6, 8), dtype=np.uint8) for number in range(4)]
    rows = [{"image": array, "label": str(number % 2)} for number, array in enumerate(arrays)]
    for channels in (1, 3):
        task, model, _ = make(base({**VIT, "num_channels": channels}), rows)
        pixels = np.stack(arrays) / 255
        assert task.processor.image_mean == about([pixels.mean()] * channels)
        assert task.processor.image_std == about([pixels.std()] * channels)
        assert task.encode(rows, "predict", 0)[0].inputs["pixel_values"].shape == (channels, 16, 16)
        assert len(predictions(task, model, rows)) == 4
    assert task.costs(rows) == [[256]] * 4


def test_the_same_seed_gives_the_same_augmentation_and_leaves_torch_alone() -> None:
    task, _, rows = make(augment="strong")
    state = torch.get_rng_state()
    first, again, other = (task.encode(rows, "train", seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(
        torch.equal(a.inputs["pixel_values"], b.inputs["pixel_values"]) for a, b in zip(first, again, strict=True)
    )
    assert any(
        not torch.equal(a.inputs["pixel_values"], b.inputs["pixel_values"]) for a, b in zip(first, other, strict=True)
    )
    assert [item.cost for item in first] == [item.cost for item in other]


def test_mixup_blends_pictures_and_labels_alike() -> None:
    """Pictures of one colour each, so that the share can be read off a pixel."""
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    rows = [{"image": Image.new("RGB", (8, 8), colour), "label": str(n)} for n, colour in enumerate(colours)]
    task, _, _ = make(rows=rows, mixup=1.0)
    task.processor.do_normalize = False
    mixed = [task.collate(task.encode(rows, "train", seed), "train").inputs for seed in range(5)]
    plain = task.collate(task.encode(rows, "loss", 0), "loss").inputs["pixel_values"][:, :, 0, 0]
    for inputs in mixed:
        shares = torch.linalg.solve(plain.T.double(), inputs["pixel_values"][:, :, 0, 0].T.double()).T
        close(shares.float(), inputs["labels"])
    assert any(0.05 < inputs["labels"].max(1).values.min() < 0.95 for inputs in mixed)


def test_cutmix_pastes_a_box_and_blends_labels_by_its_area() -> None:
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    rows = [{"image": Image.new("RGB", (8, 8), colour), "label": str(n)} for n, colour in enumerate(colours)]
    task, _, _ = make(rows=rows, cutmix=1.0)
    task.processor.do_normalize = False
    shares = []
    for seed in range(8):
        inputs = task.collate(task.encode(rows, "train", seed), "train").inputs
        whose = inputs["pixel_values"].argmax(1)  # every pixel is of one picture, and its colour tells of which
        for own, (picture, label) in enumerate(zip(whose, inputs["labels"], strict=True)):
            expected = torch.stack([(picture == number).float().mean() for number in range(3)])
            close(label, expected)
            place = (picture != own).nonzero()
            if len(place):  # one box
                height, width = (place.amax(0) - place.amin(0) + 1).tolist()
                assert height * width == len(place)
        shares += inputs["labels"].max(1).values.tolist()
    assert len({round(share, 3) for share in shares}) > 3
    both, _, _ = make(rows=rows, cutmix=1.0, mixup=1.0)
    both.processor.do_normalize = False
    seen = [both.collate(both.encode(rows, "train", seed), "train").inputs["pixel_values"] for seed in range(12)]
    flat = [bool((pixels == pixels[:, :, :1, :1]).all()) for pixels in seen]
    assert any(flat) and not all(flat)


def test_units_are_the_patches_of_the_picture_that_the_model_saw() -> None:
    task, model, rows = make()
    item = task.encode(rows, "loss", 0)[0]
    units = task.units(item)
    assert units.grid == (4, 4)
    assert list(units.special) == [0]
    attention = model.vit(item.inputs["pixel_values"][None], output_attentions=True).attentions
    assert not attention or attention[0].shape[-1] == 17
    expected = np.asarray(rows[0]["image"].resize((16, 16), Image.Resampling.BILINEAR), dtype=float)
    assert np.abs(np.asarray(units.image, dtype=float) - expected).mean() < 3
    timm_task, timm_model, _ = make(
        base({"model_type": "timm_wrapper", "architecture": "test_vit", "model_args": {"img_size": 32}})
    )
    units = timm_task.units(timm_task.encode(rows, "loss", 0)[0])
    assert units.grid == (2, 2)
    assert len(units.special) == timm_model.timm_model.num_prefix_tokens


def broken(kind: str):
    file = io.BytesIO()
    Image.effect_noise((20, 20), 50).save(file, "PNG")
    return {
        "none": None,
        "text": b"no image",
        "cut": {"bytes": file.getvalue()[:150], "path": None},
        "path": "missing.png",
        "number": 3.5,
    }[kind]


@pytest.mark.parametrize("kind", ["none", "text", "cut", "path", "number"])
def test_bad_images_name_row_and_column(kind) -> None:
    task, _, rows = make()
    with pytest.raises(DataError, match=r"row 2, column 'image'"):
        task.encode([rows[0], rows[1], {**rows[2], "image": broken(kind)}], "predict", 0)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK", "LA", "I;16"])
def test_every_kind_of_picture_is_converted(mode) -> None:
    task, model, _ = make(pixel_range=(0, 65535))
    image = Image.effect_noise((20, 12), 50)
    image = image.point(lambda value: value * 256).convert("I;16") if mode == "I;16" else image.convert(mode)
    assert len(predictions(task, model, [{"image": image}])[0]) == 3


def test_bad_labels_and_options() -> None:
    task, _, rows = make()
    with pytest.raises(DataError, match=r"row 0, column 'label'.*did you mean `cross`"):
        task.encode([{**rows[0], "label": "cros"}], "loss", 0)
    with pytest.raises(DataError, match=r"row 0, column 'label'"):
        task.encode([{**rows[0], "label": None}], "loss", 0)
    with pytest.raises(UsageError, match="mixup"):
        make(rows=[{**row, "label": [row["label"]]} for row in rows], multi_label=True, mixup=0.1)
    with pytest.raises(TopworkError, match="label names"):
        ImageClassification.learn(None, {"base": base(VIT)}, ImageClassification.Options())


def test_saved_label_names_win_over_the_order_of_the_data(tmp_path) -> None:
    task, model, rows = make()
    model.save_pretrained(tmp_path)
    task.processor.save_pretrained(tmp_path)
    names = ["square", "cross", "circle"]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    numbered = datasets.Dataset.from_dict(
        {"image": [row["image"] for row in rows], "label": [names.index(row["label"]) for row in rows]},
        features=features,
    )
    other, _, _ = make(base(tmp_path), numbered)
    assert other.label_names == task.label_names
    items, expected = other.encode(list(numbered), "loss", 0), task.encode(rows, "loss", 0)
    assert [item.inputs["label"] for item in items] == [item.inputs["label"] for item in expected]


def test_pictures_show_the_worst_first() -> None:
    task, model, rows = make()
    for row, prediction in zip(rows, predictions(task, model, rows), strict=True):
        picture = task.draw(row, prediction)
        assert row["label"] in picture.caption
        assert min(picture.image.size) >= 160
        score = next(entry["score"] for entry in prediction if entry["label"] == row["label"])
        assert picture.badness == about(1 - score)
