"""object-detection against plain transformers (pipeline, loss) and pycocotools, over the families of detectors."""

from __future__ import annotations

import contextlib
import io
import json
import math
import pickle

import numpy as np
import pytest
import torch
import vision_tasks
from detector_configs import DETR, FAMILIES, RT_DETR, YOLOS
from PIL import Image
from tolerance import about, close
from vision_tasks import base, predictions

from topwork import DataError, RowsOptions, State, UsageError
from topwork_tasks import detection_plugin
from topwork_tasks._vision import boxes as _boxes
from topwork_tasks._vision import coco_metric as _coco_averages
from topwork_tasks.object_detection import task as object_detection
from topwork_tasks.object_detection.task import ObjectDetection


def make(source=YOLOS, rows=None, **options):
    return vision_tasks.make(ObjectDetection, source, rows, **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_predictions_equal_the_pipeline_and_losses_the_model(tmp_path, family) -> None:
    from transformers import AutoImageProcessor, AutoModelForObjectDetection, pipeline

    task, model, rows = make(FAMILIES[family])
    model.save_pretrained(tmp_path)
    task.processor.save_pretrained(tmp_path)
    threshold = 0.2 if family in ("detr", "yolos") else 0.005
    task, model, _ = make(tmp_path, threshold=threshold)
    plain = AutoModelForObjectDetection.from_pretrained(tmp_path).eval()
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    asked = pipeline("object-detection", model=plain, image_processor=processor, device="cpu")
    compared = 0
    for row, ours in zip(rows, predictions(task, model, rows), strict=True):
        theirs = asked(row["image"], threshold=threshold)
        assert [entry["label"] for entry in ours] == [entry["label"] for entry in theirs]
        assert [entry["score"] for entry in ours] == about([entry["score"] for entry in theirs])
        for mine, other in zip(ours, theirs, strict=True):
            assert all(abs(mine["box"][key] - other["box"][key]) <= 1 for key in other["box"])
        compared += len(theirs)
    assert compared

    for row in rows[1:4]:
        annotation = {
            "image_id": 0,
            "annotations": [
                {"bbox": box, "category_id": plain.config.label2id[label], "area": box[2] * box[3], "iscrowd": 0}
                for box, label in zip(row["objects"]["bbox"], row["objects"]["category"], strict=True)
            ],
        }
        inputs = processor(row["image"], annotations=annotation, return_tensors="pt")
        batch = task.collate(task.encode([row], "loss", 0), "loss")
        with torch.no_grad():
            expected = plain(**inputs).loss
            close(task.loss(model, batch), expected)
            close(task.row_losses(model, batch)[0], expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_learns_from_random_weights(family) -> None:
    task, model, rows = make(FAMILIES[family])
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.train()
    task.loss(model, task.collate(task.encode(rows, "train", 0), "train")).backward()
    moved = [parameter.grad is not None and bool(parameter.grad.any()) for parameter in model.parameters()]
    assert np.mean(moved) > 0.7
    empty = [{"image": row["image"], "objects": {"bbox": [], "category": []}} for row in rows[:2]]
    assert torch.isfinite(task.loss(model, task.collate(task.encode(empty, "train", 0), "train")))


def test_it_overfits_and_comes_back(tmp_path) -> None:
    task, model, rows = make(RT_DETR)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    batch = task.collate(task.encode(rows, "train", 0), "train")
    scores = []
    while max(scores, default=0) <= 0.9 and len(scores) < 20:
        model.train()
        for _ in range(50):
            optimizer.zero_grad()
            task.loss(model, batch).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        model.eval()
        scores.append(measured(task, predictions(task, model, rows), rows)["map50"])
    assert scores[-1] > 0.9, scores
    model.save_pretrained(tmp_path)
    task.processor.save_pretrained(tmp_path)
    found = base(tmp_path)
    state = State(task.state.values, {"image_processor": found.processor("image_processor")})
    again = ObjectDetection({"base": found}, task.options, state)
    assert predictions(again, again.build().eval(), rows) == predictions(task, model, rows)
    picture = task.draw(rows[1], predictions(task, model, rows)[1])
    assert "of 1" in picture.caption
    assert picture.image.size == (320, 320)


def measured(task, found, rows):
    first, second = task.metric(), task.metric()
    for number, (row, prediction) in enumerate(zip(rows, found, strict=True)):
        (first if number % 2 else second).update(row, prediction)
    first.merge(pickle.loads(pickle.dumps(second)))
    return first.result()


@pytest.mark.parametrize("at_once", [4096, 40])
def test_average_precision_equals_pycocotools(at_once, monkeypatch) -> None:
    monkeypatch.setattr(_coco_averages, "_AT_ONCE", at_once)  # all labels together, and one by one
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    random = np.random.default_rng(0)
    names, rows, found = ["a", "b", "c"], [], []
    images, annotations, boxes_found = [], [], []
    task, _, _ = make(
        rows=[{"image": Image.new("RGB", (8, 8)), "objects": {"bbox": [[0, 0, 4, 4]] * 3, "category": names}}]
    )
    for image in range(30):
        count = int(random.integers(0, 5))
        corners = random.uniform(0, 200, (count, 2))
        boxes = np.concatenate(
            [corners, random.choice([10, 50, 150], (count, 1)) + random.uniform(0, 20, (count, 2))], 1
        )
        categories = random.integers(0, 3, count)
        crowd = random.random(count) < 0.1
        size = (400, 400)
        objects = {"bbox": boxes.tolist(), "category": [names[c] for c in categories], "iscrowd": crowd.tolist()}
        rows.append({"image": None, "objects": objects})
        images.append({"id": image + 1, "width": 400, "height": 400})
        for box, category, is_crowd in zip(boxes.astype(np.float32), categories, crowd, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image + 1,
                    "category_id": int(category) + 1,
                    "bbox": [float(value) for value in box],
                    "area": float(box[2] * box[3]),
                    "iscrowd": int(is_crowd),
                }
            )
        guesses = np.concatenate([boxes + random.normal(0, 6, boxes.shape), random.uniform(5, 80, (4, 4))])
        guesses[:, 2:] = guesses[:, 2:].clip(2)
        labels = np.concatenate([categories, random.integers(0, 3, 4)])
        scores = random.random(len(labels)).astype(np.float32)
        high = np.concatenate([guesses[:, :2], guesses[:, :2] + guesses[:, 2:]], 1).astype(np.float32)
        found.append(object_detection.Detections(scores, labels, high, size, names, 0.5))
        for box, label, score in zip(high, labels, scores, strict=True):
            low = [float(value) for value in box]
            boxes_found.append(
                [image + 1, low[0], low[1], low[2] - low[0], low[3] - low[1], float(score), int(label) + 1]
            )
    result = measured(task, found, rows)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
        }
        truth.createIndex()
        detections = [
            {"image_id": entry[0], "bbox": entry[1:5], "score": entry[5], "category_id": entry[6]}
            for entry in boxes_found
        ]
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    keys = ("map", "map50", "map75", "map_small", "map_medium", "map_large")
    assert [result[key] for key in keys] == pytest.approx(list(evaluation.stats[:6]), abs=1e-6)
    assert result["mar100"] == pytest.approx(evaluation.stats[8], abs=1e-6)
    precision = evaluation.eval["precision"]
    for number, entry in enumerate(result["per_label"]):
        assert entry["map"] == pytest.approx(precision[:, :, number, 0, -1].mean(), abs=1e-6)


def test_metrics_without_boxes() -> None:
    task, _, rows = make()
    nothing = np.zeros((0,), np.float32), np.zeros((0,), int), np.zeros((0, 4), np.float32)
    found = [object_detection.Detections(*nothing, row["image"].size, task.label_names, 0.5) for row in rows]
    assert measured(task, found, rows)["map"] == 0
    assert all(math.isnan(measured(task, found[:1], rows[:1])[key]) for key in task.metric().keys)
    metric = task.metric()
    metric.update(rows[1], found[1])
    assert len(pickle.dumps(metric)) < 4096


def test_all_ways_to_write_a_box_mean_the_same() -> None:
    image = Image.new("RGB", (40, 20))
    ways = {
        "coco": [10, 5, 20, 10],
        "voc": [10, 5, 30, 15],
        "yolo": [0.5, 0.5, 0.5, 0.5],
        "albumentations": [0.25, 0.25, 0.75, 0.75],
    }
    for form, box in ways.items():
        row = {"image": image, "objects": [{"bbox": box, "category": "x"}]}
        objects = _boxes.objects_of(row, 0, image.size, form)
        assert objects.boxes.tolist() == [[10, 5, 30, 15]]
        assert _boxes.to_target(objects.boxes, image.size).tolist() == [[0.5, 0.5, 0.5, 0.5]]


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ({"bbox": [[0, 0, 0, 5]], "category": ["disc"]}, "has no area"),
        ({"bbox": [[70, 0, 5, 5]], "category": ["disc"]}, "outside its image of 64 x 64"),
        ({"bbox": [[0, math.nan, 5, 5]], "category": ["disc"]}, "is not finite"),
        ({"bbox": [[0, 0, 5]], "category": ["disc"]}, "is not four numbers"),
        ({"bbox": [[0, 0, 5, 5]], "category": []}, "1 boxes and 0 categories"),
        ({"bbox": [[0, 0, 5, 5]]}, "has no `category`"),
        ({"bbox": [[0, 0, 5, 5]], "category": ["dics"]}, "did you mean `disc`"),
        (None, "is empty"),
    ],
)
def test_bad_objects_name_row_column_and_mend(objects, message) -> None:
    task, _, rows = make()
    with pytest.raises(DataError, match=rf"row 1, column 'objects'.*{message}"):
        task.encode([rows[0], {"image": rows[1]["image"], "objects": objects}], "loss", 0)


def test_boxes_are_cut_at_the_edge_dropped_on_request_and_crowds_left_out() -> None:
    objects = {"bbox": [[-5, 60, 20, 20], [90, 0, 5, 5], [0, 0, 9, 9]], "category": ["disc"] * 3, "iscrowd": [0, 0, 1]}
    row = {"image": Image.new("RGB", (64, 64)), "objects": objects}
    task, _, _ = make(bad_boxes="drop")
    labels = task.encode([row], "loss", 0)[0].inputs["labels"]
    assert labels["class_labels"].tolist() == [task.label_names.index("disc")]
    assert (labels["boxes"] * 64).tolist() == [[7.5, 62, 15, 4]]


def test_pictures_of_several_sizes_predict_as_alone_and_train_padded() -> None:
    for config in (DETR, YOLOS):
        rows = [
            {"image": row["image"].resize(size), "objects": {"bbox": [[4, 4, 10, 10]], "category": ["disc"]}}
            for row, size in zip(ObjectDetection.example_rows(), ((64, 64), (96, 64), (64, 64)), strict=False)
        ]
        rows[2]["objects"]["category"] = ["bar"]
        task, model, _ = make(config, rows, threshold=0.01)
        task.state.processors["image_processor"] = type(task.processor)(size={"shortest_edge": 64, "longest_edge": 128})
        together = predictions(task, model, rows)
        for row, prediction in zip(rows, together, strict=True):
            alone = predictions(task, model, [row])[0]
            close(prediction.boxes, alone.boxes)
        items = task.encode(rows, "train", 0)
        batch = task.collate(items, "train")
        for item, target in zip(items, batch.inputs["labels"], strict=True):
            width = item.inputs["pixel_values"].shape[-1]
            share = 1.0 if "pixel_mask" in batch.inputs else width / batch.inputs["pixel_values"].shape[-1]
            close(target["boxes"][:, 0], item.inputs["labels"]["boxes"][:, 0] * share)
        assert torch.isfinite(task.loss(model, batch))


def test_augmented_boxes_stay_on_their_objects() -> None:
    """A white square on black: after shifts, crops and mirrors its box still is the square."""
    rows = []
    for number in range(6):
        array = np.zeros((48, 48, 3), np.uint8)
        array[10 + number : 26 + number, 8:24] = 255
        rows.append({"image": array, "objects": {"bbox": [[8, 10 + number, 16, 16]], "category": ["s"]}})
    for augment in ("light", "standard", "strong"):
        task, _, _ = make(rows=rows, augment=augment)
        task.state.processors["image_processor"].do_normalize = False
        for seed in range(4):
            for item in task.encode(rows, "train", seed):
                pixels = item.inputs["pixel_values"].mean(0)
                for box in item.inputs["labels"]["boxes"]:
                    x, y, width, height = (box * 32).tolist()
                    inside = pixels[
                        round(y - height / 2) : round(y + height / 2), round(x - width / 2) : round(x + width / 2)
                    ]
                    outside = pixels.sum() - inside.sum()
                    assert inside.mean() > 0.6 * pixels.max()
                    assert outside < 0.5 * pixels.sum()


def test_a_processor_of_the_other_family_is_refused(tmp_path) -> None:
    from transformers import RTDetrImageProcessor

    _, model, _ = make(YOLOS)
    model.save_pretrained(tmp_path)
    RTDetrImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="YolosImageProcessor"):
        make(tmp_path)


def test_units_of_yolos_are_patches_between_class_and_query_tokens() -> None:
    task, _, rows = make(YOLOS)
    units = task.units(task.encode(rows, "loss", 0)[0])
    assert units.grid == (4, 4)
    assert list(units.special) == [0, 17, 18, 19, 20, 21]
    assert np.abs(np.asarray(units.image, float) - np.asarray(rows[0]["image"].resize((32, 32)), float)).mean() < 4


def test_coco_files_are_rows(tmp_path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    Image.new("RGB", (30, 20)).save(tmp_path / "b.png")
    found = {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 18, "bbox": [1, 2, 3, 4], "area": 10, "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 3, "bbox": [5, 5, 5, 5], "iscrowd": 1},
        ],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(found))
    options = RowsOptions(path=str(path), format="coco")
    rows = detection_plugin.load_rows(str(path), options)
    assert _boxes.declared_names(rows) == ["cat", "dog"]
    assert rows[0]["objects"] == {
        "bbox": [[1, 2, 3, 4], [5, 5, 5, 5]],
        "category": [1, 0],
        "area": [10, 25],
        "iscrowd": [0, 1],
    }
    assert rows[1]["objects"]["bbox"] == []
    assert rows[1]["image"].size == (30, 20)
    task, _, _ = make(rows=rows)
    assert task.encode([rows[0]], "loss", 0)[0].inputs["labels"]["class_labels"].tolist() == [1]
    found["annotations"][0]["category_id"] = 5
    path.write_text(json.dumps(found))
    with pytest.raises(DataError, match="annotation 1: category 5 is unknown; known: 3, 18"):
        detection_plugin.load_rows(str(path), options)
    assert detection_plugin.load_rows("x", RowsOptions(path="x")) is None
