"""COCO's files of instances and of panoptic segments, from the file to the metric, against the same read by hand."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
import torch
from dense_models import MASK2FORMER
from PIL import Image

from topwork import BaseOptions, DataError, RowsOptions, UsageError
from topwork_bases.transformers import base as transformers_bases
from topwork_tasks import detection_plugin
from topwork_tasks.image_segmentation import outputs
from topwork_tasks.image_segmentation.task import ImageSegmentation

CATEGORIES = [
    {"id": 184, "name": "sky", "isthing": 0},
    {"id": 18, "name": "dog", "isthing": 1},
    {"id": 3, "name": "cat", "isthing": 1},
]
NAMES = ["cat", "dog", "sky"]  # in the order of their ids
WIDTH, HEIGHT = 40, 32


def task_of(rows, **options):
    torch.manual_seed(0)
    base = transformers_bases.load_base(
        "config:mask2former", BaseOptions.model_validate({"config": MASK2FORMER, "head": "new"})
    )
    chosen = ImageSegmentation.Options(**options)
    return ImageSegmentation({"base": base}, chosen, ImageSegmentation.learn(rows, {"base": base}, chosen))


def rows_of(path, **options):
    return detection_plugin.load_rows(str(path), RowsOptions(path=str(path), format="coco", options=options))


@pytest.fixture
def panoptic(tmp_path):
    """Three pictures with segments of large ids, a crowd, and pixels that belong to nothing; ids by picture."""
    random = np.random.default_rng(0)
    segments = {
        7: [(70_000, 184, 0), (300, 18, 0), (5, 18, 0), (16_777_215, 3, 1)],
        9: [(256, 3, 0), (65_536, 184, 0)],
        8: [(1, 18, 0)],
    }
    folder, ids = tmp_path / "panoptic_val", {}
    folder.mkdir()
    annotations = []
    for image, entries in segments.items():
        found = np.zeros((HEIGHT, WIDTH), np.int64)
        for place, (number, _, _) in enumerate(entries):
            found[4 + 6 * place : 10 + 6 * place, 2:37] = number
        ids[image] = found
        colours = np.stack([found % 256, found // 256 % 256, found // 65_536], axis=-1).astype(np.uint8)
        Image.fromarray(colours).save(folder / f"{image}.png")
        Image.fromarray(random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(tmp_path / f"{image}.png")
        infos = [{"id": a, "category_id": b, "iscrowd": c, "area": 1, "bbox": [0, 0, 1, 1]} for a, b, c in entries]
        annotations.append({"image_id": image, "file_name": f"{image}.png", "segments_info": infos})
    path = tmp_path / "panoptic_val.json"
    images = [{"id": image, "file_name": f"{image}.png"} for image in (9, 7, 8)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES}))
    return path, segments, ids


def quality(truths, guesses):
    """{category: (pq, sq, rq)}, written down from section 4 of the paper and its remarks on crowds and void: every
    pair of a true and a predicted segment of one category is looked at.

    Args:
        truths: of each picture (ids, [(id, category, crowd)]). guesses: (ids, {id: category}), 0 for nothing.
    """
    scores = {}
    for category in {c for _, entries in truths for _, c, _ in entries} | {c for _, g in guesses for c in g.values()}:
        overlaps, extra, missed = [], 0, 0
        for (true_ids, entries), (found_ids, labels) in zip(truths, guesses, strict=True):
            void = ~np.isin(true_ids, [number for number, _, _ in entries])
            things = [number for number, c, crowd in entries if c == category and not crowd]
            crowds = [number for number, c, crowd in entries if c == category and crowd]
            free = [number for number, c in labels.items() if c == category and (found_ids == number).any()]
            for number in things:
                truth = true_ids == number
                hit = None
                for guess in free:
                    mask = found_ids == guess
                    union = (truth | mask).sum() - (mask & void).sum()
                    if (truth & mask).sum() / union > 0.5:
                        hit = (guess, (truth & mask).sum() / union)
                if hit is None:
                    missed += 1
                else:
                    free.remove(hit[0])
                    overlaps.append(hit[1])
            for guess in free:
                mask = found_ids == guess
                extra += (mask & (void | np.isin(true_ids, crowds))).sum() / mask.sum() <= 0.5
        count = len(overlaps) + extra / 2 + missed / 2
        if count:
            segmented = np.mean(overlaps) if overlaps else 0.0
            scores[category] = (np.sum(overlaps) / count, segmented, len(overlaps) / count)
    return scores


def test_panoptic_files_are_rows_and_score_as_counted_by_hand(panoptic) -> None:
    path, segments, ids = panoptic
    rows = rows_of(path)
    assert rows.column_names == ["image", "image_id", "mask", "segments_info"]
    assert rows["image_id"][:] == [7, 9, 8]
    assert rows[0]["segments_info"][3] == {"id": 16_777_215, "category_id": 0, "iscrowd": 1, "isthing": 1}
    task = task_of(rows, kind="panoptic")
    assert task.label_names == NAMES
    assert task.state.values["stuff"] == ["sky"]
    places = {184: 2, 18: 1, 3: 0}
    random = np.random.default_rng(1)
    truths, guesses, metric = [], [], task.metric()
    for row in rows:
        found = task._truth.segments(row, row["image"].size)
        entries = segments[row["image_id"]]
        assert found.labels == [places[category] for _, category, _ in entries]
        assert found.crowd == [bool(crowd) for _, _, crowd in entries]
        for place, (number, _, _) in enumerate(entries):
            assert np.array_equal(found.mask(place), ids[row["image_id"]] == number)
        # guesses that hit, half hit, take the wrong label, lie on nothing, or on the crowd
        numbers = np.zeros((HEIGHT, WIDTH), np.int64)
        labels = [int(label) for label in random.integers(0, 3, 7)]
        labels[:4] = [2, 1, 1, 0]
        for number, (top, left) in enumerate(product((3, 9, 17, 23), (2,)), 1):
            numbers[top : top + 6, left : left + 34] = number
        numbers[28:32, 0:9], numbers[28:32, 9:20], numbers[0:3, 20:39] = 5, 6, 7
        scores = [1.0] * len(labels)
        metric.update(row, outputs.panoptic_prediction(numbers, labels, scores, NAMES))
        truths.append((ids[row["image_id"]], [(a, places[b], c) for a, b, c in entries]))
        guesses.append((numbers, dict(enumerate(labels, 1))))
    expected = quality(truths, guesses)
    result = metric.result()
    found = {NAMES.index(entry["label"]): (entry["pq"], entry["sq"], entry["rq"]) for entry in result["per_label"]}
    assert set(found) == set(expected)
    for label, values in expected.items():
        assert found[label] == pytest.approx(values), NAMES[label]
    assert 0 < result["pq"] < 1
    assert result["pq_stuff"] == pytest.approx(expected[2][0])
    assert result["pq_things"] == pytest.approx((expected[0][0] + expected[1][0]) / 2)


def test_what_is_stuff_can_be_said_and_the_model_learns_the_segments(panoptic) -> None:
    path, _, _ = panoptic
    rows = rows_of(path)
    assert task_of(rows, kind="panoptic", stuff=[]).state.values["stuff"] == []
    task = task_of(rows, kind="panoptic", stuff=["cat"])
    assert task._stuff == ["cat"]
    inputs = task.encode([rows[0]], "loss", 0)[0].inputs
    assert sorted(inputs["class_labels"].tolist()) == [1, 1, 2]  # the crowd is not learned from
    with pytest.raises(DataError, match="tells panoptic segments"):
        task_of(rows, kind="instance", label_names=NAMES).encode([rows[0]], "loss", 0)


def test_the_same_rows_are_semantic_truth_too(panoptic) -> None:
    path, segments, ids = panoptic
    rows = rows_of(path)
    task = task_of(rows, kind="semantic")
    assert task.label_names == NAMES
    places = {184: 2, 18: 1, 3: 0}
    for row in rows:
        expected = np.full((HEIGHT, WIDTH), 255)
        for number, category, _ in segments[row["image_id"]]:
            expected[ids[row["image_id"]] == number] = places[category]
        assert np.array_equal(task._truth.labels(row, row["image"].size), expected)
    plain = [{key: value for key, value in row.items() if key != "image_id"} for row in rows]
    assert task_of(plain, kind="semantic").label_names == ["0", "1", "2"]  # rows of a list declare no names


def test_a_recipe_runs_on_it(panoptic, tmp_path, plugins) -> None:
    import topwork

    source = {"path": str(panoptic[0]), "format": "coco"}
    run = topwork.run(
        {
            "task": {"name": "image-segmentation", "kind": "panoptic"},
            "base": {"config": MASK2FORMER},
            "data": {"train": source, "evaluate": source},
            "stages": [{"train": {"steps": 1, "batch_size": 2}}, "evaluate"],
        },
        folder=tmp_path / "run",
        plugins=plugins,
    )
    result = run.results[-1]["result"]
    assert result["rows"] == 3
    assert {"pq", "pq_things", "pq_stuff"} <= set(result["metrics"])


def test_faults_of_panoptic_files(panoptic, tmp_path) -> None:
    path, _, _ = panoptic
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(DataError, match=r"the map of ids .*elsewhere/7\.png is missing"):
        rows_of(path, masks=str(tmp_path / "elsewhere"))
    with pytest.raises(UsageError, match=r"`mask` is no option of `format: coco`; did you mean `masks`"):
        rows_of(path, mask="x")
    found = json.loads(path.read_text())
    found["annotations"][0]["segments_info"][0]["category_id"] = 4
    path.write_text(json.dumps(found))
    with pytest.raises(DataError, match=r"segment \d+: category 4 is unknown; known: "):
        rows_of(path)


def test_instance_files_keep_their_masks(tmp_path) -> None:
    """Polygons, run lengths in both forms, and a box without a mask, in one file."""
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.png")
    crowd = np.zeros((HEIGHT, WIDTH), bool)
    crowd[20:30, 5:35] = True
    runs = np.diff(np.flatnonzero(np.diff(np.r_[2, crowd.T.ravel().astype(int), 2])))
    polygon = [2, 3, 12, 3, 12, 13, 2, 13]
    annotations = [
        {"id": 1, "image_id": 7, "category_id": 18, "bbox": [2, 3, 10, 10], "segmentation": [polygon]},
        {
            "id": 2,
            "image_id": 7,
            "category_id": 3,
            "bbox": [5, 20, 30, 10],
            "iscrowd": 1,
            "segmentation": {"size": [HEIGHT, WIDTH], "counts": [int(run) for run in runs]},
        },
    ]
    path = tmp_path / "instances.json"
    found = {"images": [{"id": 7, "file_name": "a.png"}], "annotations": annotations, "categories": CATEGORIES}
    path.write_text(json.dumps(found))
    rows = rows_of(path)
    task = task_of(rows, kind="instance")
    assert task.label_names == NAMES
    segments = task._truth.segments(rows[0], (WIDTH, HEIGHT))
    assert (segments.labels, segments.crowd) == ([1, 0], [False, True])
    square = np.zeros((HEIGHT, WIDTH), bool)
    square[3:13, 2:12] = True
    assert np.array_equal(segments.mask(0), square)
    assert np.array_equal(segments.mask(1), crowd)
    annotations.append({"id": 3, "image_id": 7, "category_id": 3, "bbox": [1, 1, 2, 2], "segmentation": []})
    path.write_text(json.dumps(found))
    rows = rows_of(path)
    with pytest.raises(DataError, match="segmentation 2 cannot be read"):
        task._truth.segments(rows[0], (WIDTH, HEIGHT))
    annotations[0]["segmentation"] = [[2, 3, float("nan"), 3, 12, 13]]
    path.write_text(json.dumps(found))
    with pytest.raises(DataError, match="annotation 1: it has a polygon whose numbers are not finite"):
        task._truth.segments(rows_of(path)[0], (WIDTH, HEIGHT))
