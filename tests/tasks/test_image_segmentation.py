"""image-segmentation against plain transformers (pipeline, loss), pycocotools, and oracles written down by hand."""

from __future__ import annotations

import contextlib
import io
import json
import pickle

import numpy as np
import pytest
import torch
import vision_tasks
from dense_models import BEIT, DPT, MASK2FORMER, MASKFORMER, SEGFORMER, SWIN, UPERNET, VIT
from PIL import Image
from tolerance import about, close
from vision_tasks import predictions

from topwork import CheckpointError, DataError, UsageError
from topwork.testing import check_task
from topwork_tasks._vision import coco_metric as _coco_averages
from topwork_tasks.image_segmentation import masks as _masks
from topwork_tasks.image_segmentation import metrics, outputs
from topwork_tasks.image_segmentation.metrics import encoded
from topwork_tasks.image_segmentation.task import ImageSegmentation

SEMANTIC = {"segformer": SEGFORMER, "upernet": UPERNET, "beit": BEIT, "dpt": DPT}
UNIVERSAL = {"mask2former": MASK2FORMER, "maskformer": MASKFORMER}


def make(source=SEGFORMER, rows=None, **options):
    return vision_tasks.make(ImageSegmentation, source, rows, **options)


def measured(task, found, rows):
    first, second = task.metric(), task.metric()
    for number, (row, prediction) in enumerate(zip(rows, found, strict=True)):
        (first if number % 2 else second).update(row, prediction)
    first.merge(pickle.loads(pickle.dumps(second)))
    return first.result()


CONTRACTS = {
    "segformer": (SEGFORMER, {"augment": "light"}),
    "dense head": (VIT, {"augment": "strong"}),
    "instances": (MASK2FORMER, {"kind": "instance"}),
    "panoptic": (MASKFORMER, {"kind": "panoptic", "threshold": 0.1, "augment": "standard"}),
}


@pytest.mark.parametrize("case", CONTRACTS)
def test_the_contract_holds(case, tmp_path, plugins) -> None:
    config, options = CONTRACTS[case]
    check_task(ImageSegmentation, {"config": config}, tmp_path, plugins=plugins, options=options)


def saved(tmp_path, config, **options):
    """A folder as plain transformers writes it, and our task on it."""
    task, model, _ = make(config, **options)
    if options.get("kind") == "panoptic":  # random classes are too unsure of themselves for any segment to survive
        model.class_predictor.weight.data.mul_(60)
    model.save_pretrained(tmp_path)
    task.processor.save_pretrained(tmp_path)
    return make(tmp_path, **options)


@pytest.mark.parametrize("family", [*SEMANTIC, *UNIVERSAL])
def test_semantic_predictions_equal_the_pipeline_and_losses_the_model(family, tmp_path) -> None:
    import transformers

    universal = family in UNIVERSAL
    task, model, rows = saved(tmp_path, {**SEMANTIC, **UNIVERSAL}[family])
    auto = "AutoModelForUniversalSegmentation" if universal else "AutoModelForSemanticSegmentation"
    plain = getattr(transformers, auto).from_pretrained(tmp_path).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    asked = transformers.pipeline("image-segmentation", model=plain, image_processor=processor, device="cpu")
    for row, ours in zip(rows, predictions(task, model, rows), strict=True):
        theirs = asked(row["image"], subtask="semantic")
        assert [(entry["score"], entry["label"]) for entry in ours] == [
            (entry["score"], entry["label"]) for entry in theirs
        ]
        for mine, other in zip(ours, theirs, strict=True):
            assert mine["mask"].mode == "L"
            assert np.mean(np.asarray(mine["mask"]) != np.asarray(other["mask"])) < 0.002
    for row in rows[1:4]:
        batch = task.collate(task.encode([row], "loss", 0), "loss")
        kinds = {"ignore_index": 255} if universal else {}
        inputs = processor(row["image"], np.asarray(row["mask"]), return_tensors="pt", **kinds)
        with torch.no_grad():
            if universal:  # its points are drawn at random
                torch.manual_seed(batch.items[0].extra["seed"])
            expected = plain(**inputs).loss
            close(task.loss(model, batch), expected)
            close(task.row_losses(model, batch)[0], expected)


@pytest.mark.parametrize("family", UNIVERSAL)
@pytest.mark.parametrize("kind", ["instance", "panoptic"])
def test_universal_predictions_equal_the_pipeline(family, kind, tmp_path) -> None:
    from transformers import AutoImageProcessor, AutoModelForUniversalSegmentation, pipeline

    threshold = 0.2 if kind == "panoptic" else 0.1
    task, model, rows = saved(tmp_path, UNIVERSAL[family], kind=kind, threshold=threshold, overlap_threshold=0.1)
    plain = AutoModelForUniversalSegmentation.from_pretrained(tmp_path).eval()
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    asked = pipeline("image-segmentation", model=plain, image_processor=processor, device="cpu")
    compared = 0
    for row in rows:  # alone, as the pipeline has them: random queries are so alike that rounding chooses among them
        ours = predictions(task, model, [row])[0]
        theirs = asked(row["image"], subtask=kind, threshold=threshold, overlap_mask_area_threshold=0.1)
        assert [entry["label"] for entry in ours] == [entry["label"] for entry in theirs]
        assert [entry["score"] for entry in ours] == about([entry["score"] for entry in theirs])
        for mine, other in zip(ours, theirs, strict=True):
            assert np.mean(np.asarray(mine["mask"]) != np.asarray(other["mask"])) < 0.01
        compared += len(theirs)
    assert compared


def test_random_points_are_the_rows_own() -> None:
    task, model, rows = make(MASK2FORMER, kind="panoptic")
    batch = task.collate(task.encode(rows, "loss", 0), "loss")
    with torch.no_grad():
        before = torch.get_rng_state()
        once, again = task.row_losses(model, batch), task.row_losses(model, batch)
        backwards = task.row_losses(model, task.collate(task.encode(rows[::-1], "loss", 0), "loss"))
    assert torch.equal(once, again)
    assert torch.equal(before, torch.get_rng_state())
    close(once, backwards.flip(0))


@pytest.mark.parametrize("config", [UPERNET, BEIT, {**DPT, "use_auxiliary_head": False}, SEGFORMER, VIT])
def test_one_row_and_rows_without_truth_can_be_trained_on(config) -> None:
    task, model, rows = make(config)
    model.train()
    loss = task.loss(model, task.collate(task.encode(rows[1:2], "train", 0), "train"))
    loss.backward()
    assert torch.isfinite(loss)
    nothing = {**rows[1], "mask": Image.new("L", rows[1]["image"].size, 255)}
    loss = task.loss(model, task.collate(task.encode([nothing, nothing], "train", 0), "train"))
    loss.backward()
    assert loss == 0
    model.eval()
    with torch.no_grad():
        found = task.row_losses(model, task.collate(task.encode([nothing, rows[1]], "loss", 0), "loss"))
    assert found[0] == 0
    assert found[1] > 0
    metric = task.metric()
    metric.update(nothing, predictions(task, model, [nothing])[0])
    assert np.isnan(metric.result()["mean_iou"])


# ---------------------------------------------------------------- metrics


def test_semantic_metrics_equal_an_oracle() -> None:
    random = np.random.default_rng(0)
    task, _, _ = make(label_names=["a", "b", "c", "d", "e"])
    rows, found = [], []
    for _ in range(12):
        truth = random.integers(0, 4, (20, 30)).astype(np.uint8)  # "e" is never there
        truth[random.random(truth.shape) < 0.1] = 255
        guess = np.where(random.random(truth.shape) < 0.6, truth, random.integers(0, 3, truth.shape))
        guess = np.where(guess == 255, 1, guess)
        rows.append({"image": Image.new("RGB", (30, 20)), "mask": truth})
        found.append(outputs.semantic_prediction(guess, task.label_names))
    result = measured(task, found, rows)
    truth = np.concatenate([row["mask"].ravel() for row in rows])
    guess = np.concatenate([entry.map.ravel() for entry in found])
    truth, guess = truth[truth != 255], guess[truth != 255]
    overlaps = [
        ((truth == label) & (guess == label)).sum() / ((truth == label) | (guess == label)).sum() for label in range(4)
    ]
    assert result["mean_iou"] == pytest.approx(np.mean(overlaps), abs=1e-12)
    assert [entry["iou"] for entry in result["per_label"]] == [*(pytest.approx(value) for value in overlaps), None]
    assert result["pixel_accuracy"] == pytest.approx((truth == guess).mean(), abs=1e-12)
    recalls = [(guess[truth == label] == label).mean() for label in range(4)]
    assert result["mean_accuracy"] == pytest.approx(np.mean(recalls), abs=1e-12)


@pytest.mark.parametrize("at_once", [4096, 1])
def test_mask_average_precision_equals_pycocotools(at_once, monkeypatch) -> None:
    monkeypatch.setattr(_coco_averages, "_AT_ONCE", at_once)  # all labels together, and one by one
    from pycocotools import mask as tools
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    random = np.random.default_rng(0)
    names, size = ["a", "b", "c"], (120, 100)
    task, _, _ = make(MASK2FORMER, kind="instance", label_names=names)
    rows, found, images, annotations, guesses = [], [], [], [], []
    for image in range(1, 25):
        masks = [_blob(random, size) for _ in range(int(random.integers(0, 5)))]
        labels = [int(label) for label in random.integers(0, 3, len(masks))]
        crowd = [bool(value) for value in random.random(len(masks)) < 0.1]
        segmentation = [{**encoded(mask)} for mask in masks]
        rows.append(
            {
                "image": Image.new("RGB", size),
                "objects": {"segmentation": segmentation, "category": labels, "iscrowd": crowd},
            }
        )
        images.append({"id": image, "width": size[0], "height": size[1]})
        for mask, label, many in zip(masks, labels, crowd, strict=True):
            rle = tools.encode(np.asfortranarray(mask.astype(np.uint8)))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": label + 1,
                    "segmentation": rle,
                    "area": float(tools.area(rle)),
                    "bbox": tools.toBbox(rle).tolist(),
                    "iscrowd": int(many),
                }
            )
        tried = [np.roll(mask, random.integers(-4, 5, 2), (0, 1)) for mask in masks] + [_blob(random, size)] * 2
        kinds = [*labels, *(int(label) for label in random.integers(0, 3, 2))]
        scores = random.random(len(tried)).tolist()
        found.append(outputs.instance_prediction(kinds, scores, [encoded(mask) for mask in tried], size, names, 0.5))
        for mask, label, score in zip(tried, kinds, scores, strict=True):
            rle = tools.encode(np.asfortranarray(mask.astype(np.uint8)))
            guesses.append({"image_id": image, "category_id": label + 1, "segmentation": rle, "score": score})
    result = measured(task, found, rows)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
        truth.dataset = {"images": images, "annotations": annotations, "categories": categories}
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(guesses), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    keys = ("map", "map50", "map75", "map_small", "map_medium", "map_large", "mar100")
    assert result["map"] > 0.1
    # pycocotools gives -1 where there is no truth of a size
    expected = [value if value >= 0 else np.nan for value in [*evaluation.stats[:6], evaluation.stats[8]]]
    assert [result[key] for key in keys] == pytest.approx(expected, abs=1e-6, nan_ok=True)
    metric = task.metric()
    metric.update(rows[1], found[1])
    assert len(pickle.dumps(metric)) < 4096


def _blob(random, size):
    width, height = size
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    x, y, a, b = random.uniform(15, width - 15), random.uniform(15, height - 15), *random.uniform(4, 40, 2)
    return ((across - x) / a) ** 2 + ((down - y) / b) ** 2 < 1


def test_panoptic_quality_equals_numbers_made_by_hand() -> None:
    """Label 0 is the ground, label 1 a thing. Rows of ten pixels, each told apart by its id."""
    truth = _masks.Segments(
        np.array([[1] * 6 + [2] * 3 + [0], [3] * 5 + [4] * 5], np.int32), [0, 1, 1, 1], [False, False, False, True]
    )
    found = np.array([[1] * 6 + [2] * 4, [3] * 2 + [4] * 3 + [5] * 5], np.int32)
    hits, extra, missed = metrics.match_segments(truth, found, [0, 1, 0, 1, 1])
    # ground 6/6; thing 3/3, its pixel on nothing does not count; 3/5 of the second thing; one ground too many; the
    # last prediction lies on a crowd
    assert sorted(hits) == [(0, 1.0), (1, 0.6), (1, 1.0)]
    assert (extra, missed) == ([0], [])
    metric = metrics.PanopticMetric(["ground", "thing"], lambda row, size: truth, stuff=["ground"])
    prediction = outputs.panoptic_prediction(found, [0, 1, 0, 1, 1], [1.0] * 5, ["ground", "thing"])
    metric.update({}, prediction)
    result = metric.result()
    ground, thing = 1 * 1 / 1.5, 1.6 / 2
    assert result["pq"] == pytest.approx((ground + thing) / 2)
    assert result["sq"] == pytest.approx((1 + 0.8) / 2)
    assert result["rq"] == pytest.approx((1 / 1.5 + 1) / 2)
    assert (result["pq_stuff"], result["pq_things"]) == (pytest.approx(ground), pytest.approx(thing))
    assert len(pickle.dumps(metric.__getstate__())) < 4096


def test_a_perfect_prediction_is_worth_one() -> None:
    task, _, rows = make(MASKFORMER, kind="panoptic")
    metric = task.metric()
    for row in rows:
        truth = task._truth.segments(row, row["image"].size)
        scores = [1.0] * len(truth.labels)
        metric.update(row, outputs.panoptic_prediction(truth.ids, truth.labels, scores, task.label_names))
    assert metric.result()["pq"] == 1


# ---------------------------------------------------------------- rows


def test_the_ways_to_write_a_mask_mean_the_same(tmp_path) -> None:
    numbers = np.array([[0, 1, 2, 2], [3, 3, 0, 255]], np.uint8)
    grey = Image.fromarray(numbers)
    palette = grey.copy().convert("P")
    palette.putdata(numbers.ravel().tolist())
    palette.putpalette([value for number in range(256) for value in (255 - number, number, 7)])
    np.save(tmp_path / "mask.npy", numbers.astype(np.int64))
    grey.save(tmp_path / "mask.png")
    buffer = io.BytesIO()
    grey.save(buffer, "PNG")
    ways = [
        grey,
        palette,
        Image.fromarray(numbers.astype(np.int32)),
        Image.fromarray(numbers.astype(np.uint16)),
        numbers,
        numbers.tolist(),
        numbers.astype(float),
        str(tmp_path / "mask.npy"),
        str(tmp_path / "mask.png"),
        {"bytes": buffer.getvalue(), "path": None},
        np.stack([numbers] * 3, -1),
    ]
    for value in ways:
        found = _masks.one_channel(_masks.open_mask(value, 0, "mask", (4, 2)), 0, "mask")
        assert found.tolist() == numbers.tolist()


def test_numbers_are_mapped_by_name_and_reduced(tmp_path) -> None:
    task, _, _ = saved(tmp_path, SEGFORMER, label_names=["sky", "road", "tree", "car"])
    image = Image.new("RGB", (4, 1))
    row = {"image": image, "mask": [[0, 1, 255, 2]]}
    other = ImageSegmentation.Options(label_names=["tree", "sky", "car"])
    mapped = ImageSegmentation({"base": task.base}, other, ImageSegmentation.learn([row], {"base": task.base}, other))
    assert mapped._truth.labels(row, (4, 1)).tolist() == [[2, 0, 255, 3]]
    plain = ImageSegmentation.Options(reduce_labels=True)
    reduced = ImageSegmentation({"base": task.base}, plain, ImageSegmentation.learn([row], {"base": task.base}, plain))
    assert reduced._truth.labels(row, (4, 1)).tolist() == [[255, 0, 255, 1]]
    with pytest.raises(UsageError, match=r"no label `trees`.*did you mean `tree`"):
        ImageSegmentation.learn([row], {"base": task.base}, ImageSegmentation.Options(label_names=["trees"]))


def test_instances_and_panoptic_segments_in_all_their_forms() -> None:
    size, number = (6, 4), lambda value, row, column: int(value)
    labels = np.zeros((4, 6), int)
    labels[:, 3:] = 2
    ids = np.zeros((4, 6), int)
    ids[1:3, 3:5], ids[1:3, 5] = 7, 9
    beside = _masks.instances_of({"mask": labels, "instances": ids}, 0, size, number, 255)
    assert beside.labels == [2, 2]
    assert (beside.ids > 0).tolist() == (ids > 0).tolist()
    colour = np.stack([labels, ids, labels * 0], -1).astype(np.uint8)
    in_one = _masks.instances_of({"mask": Image.fromarray(colour)}, 0, size, number, 255)
    assert in_one.ids.tolist() == beside.ids.tolist()
    polygon = [[3, 1, 5, 1, 5, 3, 3, 3]]
    runs = {"size": [4, 6], "counts": [21, 2, 1]}
    objects = {"segmentation": [polygon, runs], "category": [2, 2], "iscrowd": [0, 1]}
    written = _masks.instances_of({"objects": objects}, 0, size, number, 255)
    assert written.ids.tolist() == beside.ids.tolist()
    assert written.crowd == [False, True]

    whole = _masks.panoptic_of({"mask": labels, "instances": ids}, 0, size, number, 255)
    assert sorted(whole.labels) == [0, 2, 2, 2]
    assert (whole.ids > 0).all()
    coded = np.where(ids > 0, ids * 300, 0)
    png = Image.fromarray(np.stack([coded % 256, coded // 256, coded * 0], -1).astype(np.uint8))
    info = [{"id": 2100, "category_id": 2, "iscrowd": 0}, {"id": 2700, "category_id": 2}, {"id": 5, "category_id": 1}]
    coco = _masks.panoptic_of({"mask": png, "segments_info": info}, 0, size, number, 255)
    assert coco.ids.tolist() == beside.ids.tolist()
    assert coco.labels == [2, 2]


def test_targets_are_resized_to_the_nearest_pixel_and_crowds_left_out() -> None:
    rows = ImageSegmentation.example_rows()
    task, _, _ = make(SEGFORMER, rows)
    item = task.encode(rows[2:3], "loss", 0)[0]
    assert set(item.inputs["labels"].unique().tolist()) <= set(np.unique(np.asarray(rows[2]["mask"])).tolist())
    assert item.inputs["labels"].shape == item.inputs["pixel_values"].shape[-2:]
    objects = {
        "segmentation": [[[2, 2, 20, 2, 20, 20, 2, 20]], [[22, 2, 44, 2, 44, 30, 22, 30]]],
        "category": ["a", "b"],
        "iscrowd": [0, 1],
    }
    crowded = [{"image": rows[0]["image"], "objects": objects}]
    task, _, _ = make(MASK2FORMER, crowded, kind="instance")
    item = task.encode(crowded, "loss", 0)[0]
    assert task.label_names == ["a", "b"]
    assert item.inputs["class_labels"].tolist() == [0]


BAD = {
    "no mask": ({"mask": None}, "column 'mask': is empty"),
    "another size": ({"mask": Image.new("L", (5, 5))}, "is 5 x 5 pixels, its image 48 x 40"),
    "unknown number": ({"mask": Image.new("L", (48, 40), 9)}, "holds 9, which is none of the 4 labels"),
    "colour mask": ({"mask": Image.effect_noise((48, 40), 90).convert("RGB").rotate(3)}, None),
    "broken mask": ({"mask": {"bytes": b"\x89PNG\r\n no", "path": None}}, "cannot be read as a mask"),
    "fractions": ({"mask": np.full((40, 48), 0.5)}, "numbers are not whole"),
    "no image": ({"image": None}, "column 'image': is empty"),
    "broken image": ({"image": {"bytes": b"GIF89a", "path": None}}, "column 'image': cannot be read as an image"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_refused_by_name(case) -> None:
    task, _, rows = make()
    change, message = BAD[case]
    if case == "colour mask":
        noise = np.random.default_rng(0).integers(0, 255, (40, 48, 3)).astype(np.uint8)
        change, message = {"mask": Image.fromarray(noise)}, "is a colour image"
    with pytest.raises(DataError, match=message) as caught:
        task.encode([rows[0], {**rows[1], **change}], "loss", 0)
    assert caught.value.row == 1
    assert caught.value.hint


def test_missing_columns_and_bad_segments_are_refused() -> None:
    task, _, rows = make()
    with pytest.raises(DataError, match="column 'mask': is missing"):
        task.encode([{"image": rows[0]["image"]}], "loss", 0)
    image = Image.new("RGB", (8, 8))
    task, _, _ = make(MASK2FORMER, kind="instance", label_names=["a", "b"])

    def refused(objects, message):
        with pytest.raises(DataError, match=message):
            task.encode([{"image": image, "objects": objects}], "loss", 0)

    refused({"segmentation": [[[1, 1, 2, 2]]], "category": ["a"]}, "a polygon needs three points")
    refused({"segmentation": [{"size": [4, 4], "counts": [16]}], "category": ["a"]}, "its size is")
    refused({"segmentation": [[[1, 1, 5, 1, 5, 5]]], "category": ["ax"]}, "'ax', which is none of the 2 labels")
    refused({"segmentation": [], "category": ["a"]}, "0 segmentations and 1 categories")
    with pytest.raises(DataError, match="column 'instances': is missing"):
        task.encode([{"image": image, "mask": np.zeros((8, 8), int)}], "loss", 0)
    with pytest.raises(CheckpointError, match=r"`oneformer` is not among(.|\n)*choose mask2former, maskformer, eomt"):
        make({"model_type": "oneformer", "backbone_config": SWIN}, kind="panoptic")
    with pytest.raises(UsageError, match="number of a label"):
        make(ignore_index=1)


def test_predictions_are_written_as_pictures_and_drawn(tmp_path) -> None:
    task, model, rows = make(SWIN)
    prediction = predictions(task, model, rows[2:3])[0]
    found = json.loads(json.dumps(task.write(prediction, tmp_path, "0002")))
    for entry, written in zip(prediction, found, strict=True):
        with Image.open(tmp_path / written["mask"]) as mask:
            assert np.array_equal(np.asarray(mask), np.asarray(entry["mask"]))
            assert mask.size == rows[2]["image"].size
    assert repr(pickle.loads(pickle.dumps(prediction))) == repr(prediction)
    truth = task._truth.labels(rows[2], rows[2]["image"].size)
    picture = task.draw(rows[2], prediction)
    assert picture.badness == pytest.approx((truth != prediction.map).mean())
    assert task.draw(rows[2], outputs.semantic_prediction(truth, task.label_names)).badness == 0
    assert task.draw({"image": rows[2]["image"]}, prediction).image is not None


def test_labels_are_enlarged_a_few_at_a_time(monkeypatch) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 11, 9, 7)
    whole = torch.nn.functional.interpolate(logits, size=(30, 20), mode="bilinear", align_corners=False).argmax(1)
    monkeypatch.setattr(outputs, "_AT_ONCE", 4 * 30 * 20)
    found = outputs.semantic_maps(logits, [(20, 30)] * 2)
    assert all((mine == theirs.numpy()).all() for mine, theirs in zip(found, whole, strict=True))
