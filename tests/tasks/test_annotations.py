"""Annotations as people have them: faults of COCO files by entry, boxes in other notations, masks and depth that look
wrong, colour tables, sizes of bases from a config, parts of augmentation."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_bases import BASES

import topwork
from topwork import DataError, RowsOptions, TopworkError, UsageError
from topwork_tasks.detection_plugin import load_rows

VIT = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def read(folder: Any, **changes: Any) -> Any:
    """Rows of a COCO file of one image, one annotation and three categories, with changed entries."""
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"id": 5, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": number, "name": f"c{number}"} for number in (1, 3, 4)],
    }
    content |= changes
    for name in ("a.png", "b.png"):
        Image.new("RGB", (60, 30)).save(folder / name)
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return load_rows(str(path), RowsOptions(path=str(path), format="coco"))


def annotation(**changes: Any) -> list[dict[str, Any]]:
    whole = {"id": 5, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], **changes}
    return [{key: value for key, value in whole.items() if value != "absent"}]


TWICE = [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}]
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "repeated image": ({"images": TWICE}, r"image 1 stands twice: a\.png and b\.png"),
    "unknown category": (
        {"annotations": annotation(category_id=7)},
        "annotation 5: category 7 is unknown; known: 1, 3, 4",
    ),
    "unknown image": ({"annotations": annotation(image_id=9)}, "annotation 5: image 9 is unknown; known: 1"),
    "image by another type": ({"annotations": annotation(image_id="1")}, "annotation 5: image '1' is unknown"),
    "no category": ({"annotations": annotation(category_id="absent")}, "annotation 5 has no `category_id`"),
    "no image": ({"annotations": annotation(image_id="absent")}, "annotation 5 has no `image_id`"),
    "no box": ({"annotations": annotation(bbox="absent")}, "annotation 5: its bbox is None, not four numbers"),
    "empty box": ({"annotations": annotation(bbox=[])}, r"annotation 5: its bbox is \[\], not four numbers"),
    "three numbers": ({"annotations": annotation(bbox=[1, 2, 3])}, r"annotation 5: its bbox is \[1, 2, 3\]"),
    "words in a box": ({"annotations": annotation(bbox=["a"] * 4)}, "annotation 5: its bbox is"),
    "no categories": ({"categories": []}, "its list `categories` is empty"),
    "categories missing": ({"categories": None}, "it has no list `categories`"),
    "a name twice": (
        {"categories": [{"id": 1, "name": "x"}, {"id": 3, "name": "x"}]},
        "categories 1 and 3 have one name",
    ),
    "a category twice": (
        {"categories": [{"id": 3, "name": "x"}, {"id": 3, "name": "y"}]},
        "category 3 stands twice: x, y",
    ),
    "no file": ({"images": [{"id": 1}]}, "image 1 has no `file_name`"),
    "a file twice": (
        {"images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "a.png"}]},
        r"the file a\.png stands twice, as image 1 and as image 2",
    ),
    "no object": ({"annotations": [3]}, "annotation at index 0 is 3, no object"),
    "a list as id": ({"annotations": annotation(category_id=[3])}, "annotation 5: its `category_id` is"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_coco_files_name_the_entry(fault, tmp_path) -> None:
    changes, message = FAULTS[fault]
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, **changes)
    assert "instances.json" in str(caught.value) and caught.value.hint


UNNEEDED: dict[str, dict[str, Any]] = {
    "area of words": {"area": "large"},
    "area null": {"area": None},
    "no crowd": {"iscrowd": "absent"},
    "segmentation of anything": {"segmentation": "what"},
    "segmentation of no numbers": {"segmentation": [["a", "b"]]},
    "a box of texts": {"bbox": ["1", "2", "3", "4"]},
    "keys of one's own": {"attributes": {"occluded": [1]}, "id": None},
}


@pytest.mark.parametrize("case", UNNEEDED)
def test_fields_that_are_not_needed_may_hold_anything(case, tmp_path) -> None:
    objects = read(tmp_path, annotations=annotation(**UNNEEDED[case]))[0]["objects"]
    assert objects["bbox"] == [[1, 2, 3, 4]] and objects["area"] == [12]


def test_ids_are_names(tmp_path) -> None:
    rows = read(
        tmp_path,
        images=[{"id": "x-7", "file_name": "a.png"}],
        categories=[{"id": "zebra", "name": "z"}, {"id": "ant", "name": "a"}],
        annotations=annotation(image_id="x-7", category_id="ant"),
    )
    assert rows[0]["image_id"] == "x-7" and rows[0]["objects"]["category"] == [1]


def test_a_box_is_made_of_a_polygon(tmp_path) -> None:
    polygon = [[2, 3, 12, 3, 12, 13, 2, 13]]
    rows = read(tmp_path, annotations=annotation(bbox="absent", segmentation=polygon))
    assert rows[0]["objects"]["bbox"] == [[2, 3, 10, 10]]


# ---------------------------------------------------------------- boxes


def boxes(form: str, box: list[float], **options: Any) -> topwork.TaskModel:
    rows = [{"image": Image.new("RGB", (640, 480)), "objects": {"bbox": [box], "category": ["ab"[n]]}} for n in (0, 1)]
    return topwork.build("object-detection", BASES["object-detection"], rows=rows, box_format=form, **options)


@pytest.mark.parametrize(
    ("form", "box"),
    [
        ("coco", [-20, 10, 70, 30]),
        ("voc", [-20, 10, 50, 40]),
        ("yolo", [0.02, 0.5, 0.1, 0.1]),
        ("albumentations", [-0.1, 0.1, 0.5, 0.5]),
    ],
)
def test_boxes_that_leave_their_image_are_clipped_and_counted(form, box) -> None:
    notes = boxes(form, box).task.state.notes
    assert any("2 of 2 boxes reach out of their image and are clipped, such as" in note for note in notes)


def test_predicted_boxes_lie_within_their_image() -> None:
    work = boxes("coco", [10, 10, 600, 400], threshold=0.0)
    last = [module for name, module in work.model.named_modules() if "bbox" in name and hasattr(module, "bias")][-1]
    last.bias.data.fill_(9)  # centre, width and height are 1: half of each box lies outside
    for image in (Image.new("RGB", (640, 480)), Image.effect_noise((30, 70), 90)):
        for found in work.predict([{"image": image}])[0]:
            box = found["box"]
            assert 0 <= box["xmin"] <= box["xmax"] <= image.width and 0 <= box["ymin"] <= box["ymax"] <= image.height


def test_of_overlapping_boxes_the_best_is_kept_on_request() -> None:
    import torch
    from torchvision.ops import nms

    image = Image.effect_noise((30, 70), 90).convert("RGB")
    work = boxes("coco", [10, 10, 600, 400], threshold=0.0, suppress=0.5)
    few = work.predict([{"image": image}])[0]
    work.task.options.suppress = None
    every = work.predict([{"image": image}])[0]
    kept = nms(torch.tensor(every.boxes), torch.tensor(every.scores), 0.5).numpy()
    assert 0 < len(few) == len(kept) < len(every.scores)
    assert np.allclose(few.boxes, every.boxes[kept], atol=1e-3) and np.allclose(few.scores, every.scores[kept])


@pytest.mark.parametrize("options", [{}, {"multi_label": True}])
def test_scores_of_an_image_and_of_its_mirror_image_are_averaged_on_request(options) -> None:
    image = Image.effect_noise((32, 32), 90).convert("RGB")
    rows = [{"image": image, "label": [name] if options else name} for name in ("a", "b", "c")]
    names = {"label_names": ["a", "b", "c"], "top_k": "all", **options}
    plain, averaged = (
        topwork.build("image-classification", BASES["image-classification"], rows=rows, mirror=mirror, **names)
        for mirror in (False, True)
    )
    averaged.model.load_state_dict(plain.model.state_dict())
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scores = [
        {entry["label"]: entry["score"] for entry in work.predict([{"image": shown}])[0]}
        for work, shown in ((plain, image), (plain, mirrored), (averaged, image))
    ]
    for name in "abc":
        assert abs(scores[2][name] - (scores[0][name] + scores[1][name]) / 2) < 1e-5
    assert any(abs(scores[0][name] - scores[1][name]) > 1e-5 for name in "abc")


OTHERS = (
    ("coco", [300, 200, 390, 290], "voc"),
    ("yolo", [0.6, 0.6, 0.99, 0.9], "albumentations"),
    ("voc", [300, 200, 20, 30], "coco"),
)


@pytest.mark.parametrize(("form", "box", "other"), OTHERS)
def test_a_doubt_and_a_refusal_name_the_notation_that_would_fit(form, box, other) -> None:
    right = boxes("voc", [1, 2, 30, 40]).task
    row = {"image": Image.new("RGB", (640, 480)), "objects": {"bbox": [box], "category": ["a"]}}
    notes = " ".join(type(right).rows_view.doubts([row], right.Options(box_format=form)))
    assert f"as `box_format: {other}` all boxes would fit" in notes
    if form == "voc":
        with pytest.raises(DataError, match="has no area; as `box_format: coco` all boxes of the row would fit"):
            right.encode([row], "loss", 0)


# ---------------------------------------------------------------- masks and depth


def masks(values: np.ndarray, **options: Any) -> topwork.TaskModel:
    rows = [{"image": Image.new("RGB", values.shape[::-1]), "mask": values}] * 3
    return topwork.build("image-segmentation", BASES["image-segmentation"], rows=rows, **options)


def test_masks_of_0_and_255_are_told() -> None:
    values = np.zeros((40, 48), np.uint8)
    values[10:30] = 255
    notes = " ".join(masks(values, label_names=["bg", "fg"]).task.state.notes)
    assert "no pixel of the masks has the label `fg`" in notes and "255, which does not count" in notes
    with pytest.raises(DataError, match=r"has only the label \[0\], and 255, which does not count"):
        masks(values)


@pytest.mark.parametrize("kind", ["0 and 128", "0, 5, 200", "JPEG"])
def test_masks_that_make_many_empty_labels_are_told(kind) -> None:
    values = np.zeros((40, 48), np.uint8)
    values[10:30, 10:30] = 128 if kind == "0 and 128" else 200
    values[32:36] = 0 if kind == "0 and 128" else 5
    if kind == "JPEG":
        import io

        target = io.BytesIO()
        Image.fromarray(values).save(target, "jpeg", quality=60)
        values = np.asarray(Image.open(target))
    assert any("labels, of which" in note for note in masks(values).task.state.notes)


def test_good_masks_raise_no_doubt() -> None:
    values = np.zeros((40, 48), np.uint8)
    values[10:30], values[0:2] = 1, 255
    assert not masks(values).task.state.notes
    assert not masks(values, label_names=["bg", "fg"]).task.state.notes


COLOURS = {"road": [128, 64, 128], "tree": [0, 128, 0], "void": [0, 0, 0]}


@pytest.mark.parametrize("form", ["array", "image", "palette"])
def test_colour_tables_are_read(form) -> None:
    labels = np.arange(40 * 48).reshape(40, 48) % 3
    picture = Image.fromarray(np.array(list(COLOURS.values()), np.uint8)[labels])
    value: Any = {"array": np.asarray(picture), "image": picture, "palette": picture.convert("P", palette=1)}[form]
    rows = [{"image": Image.new("RGB", (48, 40)), "mask": value}] * 2
    base = BASES["image-segmentation"]
    work = topwork.build("image-segmentation", base, rows=rows, colours=COLOURS, label_names=["road", "tree"])
    truth = work.task._truth.labels(rows[0], (48, 40))
    assert np.array_equal(truth, np.where(labels == 2, 255, labels))
    every = topwork.build("image-segmentation", base, rows=rows, colours=COLOURS)
    assert every.task.label_names == ["road", "tree", "void"]
    pixels = np.asarray(picture).copy()
    pixels[0, 0] = (1, 2, 3)
    with pytest.raises(DataError, match=r"row 0, column 'mask'.*\[1, 2, 3\] in 1 pixels, which is not in the table"):
        work.task.encode([{**rows[0], "mask": pixels}], "loss", 0)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64])
def test_millimetres_are_told_and_holes_left_out(dtype) -> None:
    depth = np.linspace(500, 8000, 40 * 48).reshape(40, 48).astype(dtype)
    depth[:8] = 65535
    rows = [{"image": Image.new("RGB", (48, 40)), "depth": depth}] * 2
    base = BASES["depth-estimation"]
    notes = " ".join(topwork.build("depth-estimation", base, rows=rows).task.state.notes)
    assert "millimetres" in notes and "`hole_values`" in notes
    work = topwork.build("depth-estimation", base, rows=rows, depth_scale=1000, hole_values=[65535])
    assert not work.task.state.notes
    truth = work.task._truth(rows[0], (48, 40))
    assert (truth[:8] == 0).all() and truth.max() == pytest.approx(8, rel=1e-3)


@pytest.mark.parametrize(("scale", "declared", "divisor"), [(None, None, 1), (None, 256.0, 256), (1000, 256.0, 1000)])
def test_the_scale_of_depth_is_that_of_the_option_else_of_the_row(scale, declared, divisor) -> None:
    row = {"image": Image.new("RGB", (48, 40)), "depth": np.full((40, 48), 2560, np.uint16), "depth_scale": declared}
    work = topwork.build("depth-estimation", BASES["depth-estimation"], rows=[row] * 2, depth_scale=scale)
    assert work.task._truth(row, (48, 40)).max() == pytest.approx(2560 / divisor)
    assert work.task.state.values["typical_depth"] == pytest.approx(2560 / divisor)


@pytest.mark.parametrize(("share", "first"), [(1.0, "millimetres"), (0.2, "1/256 m, as KITTI")])
def test_the_likeliest_scale_is_named_first(share, first) -> None:
    depth = np.linspace(500, 8000, 40 * 48).reshape(40, 48).astype(np.uint16)
    depth[np.random.default_rng(0).random((40, 48)) >= share] = 0
    rows = [{"image": Image.new("RGB", (48, 40)), "depth": depth}] * 2
    notes = " ".join(topwork.build("depth-estimation", BASES["depth-estimation"], rows=rows).task.state.notes)
    assert f"cannot be metres. {first}: `depth_scale" in notes


# ---------------------------------------------------------------- colours of masks

TABLES = {
    "class_dict.csv": "name,r,g,b\nroad,128,64,128\ntree,0,128,0\n",
    "no header": "road,128,64,128\ntree,0,128,0\n",
    "label_colors.txt": "128 64 128\troad\n0 128 0\ttree\n",
    "labelmap.txt": "# label:color_rgb:parts:actions\nroad:128,64,128::\ntree:0,128,0::\n",
}


def coloured(kind: str, left=(128, 64, 128), right=(0, 128, 0)) -> Image.Image:
    """A mask of two colours side by side, as an RGB image, a palette or RGBA."""
    pixels = np.zeros((40, 48, 3), np.uint8)
    pixels[:, :24], pixels[:, 24:] = left, right
    image = Image.fromarray(pixels)
    return image.convert("P", palette=Image.Palette.ADAPTIVE) if kind == "palette" else image.convert(kind)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("kind", ["RGB", "RGBA", "palette"])
def test_a_table_beside_the_masks_names_their_colours(table, kind, tmp_path) -> None:
    file = tmp_path / "colours"
    file.write_text(TABLES[table], encoding="utf-8")
    row = {"image": Image.new("RGB", (48, 40)), "mask": coloured(kind), "colour_table": str(file)}
    base = BASES["image-segmentation"]
    work = topwork.build("image-segmentation", base, rows=[row] * 2)
    assert work.task.label_names == ["road", "tree"]
    truth = work.task._truth.labels(row, (48, 40))
    assert (truth[:, :24] == 0).all() and (truth[:, 24:] == 1).all()
    # the rows of another role have a table of their own, in another order
    turned = tmp_path / "turned"
    turned.write_text("tree,128,64,128\nroad,0,128,0\n", encoding="utf-8")
    assert (work.task._truth.labels({**row, "colour_table": str(turned)}, (48, 40)) == 1 - truth).all()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_table_of_the_training_masks_is_kept_with_the_model(encoding, tmp_path) -> None:
    file = tmp_path / "colours"
    file.write_text("name;r;g;b\nWeg/路;128;64;128\ntree;0;128;0\n", encoding=encoding)
    row = {"image": Image.new("RGB", (48, 40)), "mask": coloured("RGB"), "colour_table": str(file)}
    plain = {"image": row["image"], "mask": row["mask"]}
    work = topwork.build("image-segmentation", BASES["image-segmentation"], rows=[row] * 2)
    work.save(tmp_path / "model")
    file.unlink()
    loaded = topwork.load(tmp_path / "model")
    assert loaded.task.label_names == ["Weg/路", "tree"]
    truth = loaded.task._truth.labels(plain, (48, 40))
    assert (truth[:, :24] == 0).all() and (truth[:, 24:] == 1).all()
    assert set(loaded.evaluate([plain])) == set(work.evaluate([plain]))
    other = {**plain, "mask": coloured("RGB", left=(1, 2, 3))}
    with pytest.raises(DataError, match=r"1, 2, 3|#010203"):
        loaded.evaluate([other])


def test_tables_that_contradict_each_other_are_not_kept(tmp_path) -> None:
    rows = []
    for name, text in (("a", "road,128,64,128\ntree,0,128,0\n"), ("b", "tree,128,64,128\nroad,0,128,0\n")):
        (tmp_path / name).write_text(text)
        rows.append(
            {"image": Image.new("RGB", (48, 40)), "mask": coloured("RGB"), "colour_table": str(tmp_path / name)}
        )
    assert (
        "colours" not in topwork.build("image-segmentation", BASES["image-segmentation"], rows=rows).task.state.values
    )


def test_a_name_for_the_number_that_does_not_count_is_refused() -> None:
    mask = Image.fromarray(np.where(np.arange(48) < 24, 0, 255).astype(np.uint8)[None].repeat(40, 0))
    rows = [{"image": Image.new("RGB", (48, 40)), "mask": mask}] * 2
    with pytest.raises(UsageError, match="names 255, which is `ignore_index`"):
        topwork.build("image-segmentation", BASES["image-segmentation"], rows=rows, label_names={0: "a", 255: "b"})
    work = topwork.build(
        "image-segmentation", BASES["image-segmentation"], rows=rows, label_names={0: "a", 255: "b"}, ignore_index=254
    )
    assert (work.task._truth.labels(rows[0], (48, 40))[:, 24:] == 1).all()


@pytest.mark.parametrize("form", ["coco", "voc"])
def test_shares_of_the_image_given_as_pixels_are_told(form) -> None:
    rows = [{"image": Image.new("RGB", (64, 48)), "objects": {"bbox": [[0.3, 0.3, 0.5, 0.5]], "category": ["a"]}}] * 3
    task = boxes("voc", [1, 2, 30, 40]).task
    notes = " ".join(type(task).rows_view.doubts(rows, task.Options(box_format=form)))
    assert "no number of the 3 boxes is larger than 1" in notes and "`box_format: yolo`" in notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("road,128,64,128\ntree;no\n", "colours:2: `tree;no` names no colour"),
        ("road,128,64,300\n", "colours:1: `road` is not within 0 to 255"),
        ("road,1,2,3\ntree,1,2,3\n", "colours:2: `tree` or its colour stands twice"),
        ("# nothing\n", "names no colour"),
    ],
)
def test_damaged_tables_of_colours_name_their_line(text, message, tmp_path) -> None:
    (tmp_path / "colours").write_text(text, encoding="utf-8")
    row = {"image": Image.new("RGB", (48, 40)), "mask": coloured("RGB"), "colour_table": str(tmp_path / "colours")}
    with pytest.raises(DataError, match=message):
        topwork.build("image-segmentation", BASES["image-segmentation"], rows=[row] * 2)


@pytest.mark.parametrize("kind", ["RGB", "RGBA"])
def test_colours_without_a_table_are_labels(kind) -> None:
    rows = [
        {"image": Image.new("RGB", (48, 40)), "mask": coloured(kind)},
        {"image": Image.new("RGB", (48, 40)), "mask": Image.new(kind, (48, 40), 0)},
    ]
    work = topwork.build("image-segmentation", BASES["image-segmentation"], rows=rows)
    assert work.task.label_names == ["#000000", "#008000", "#804080"]
    assert any("3 colours are labels" in note for note in work.task.state.notes)
    assert set(np.unique(work.task._truth.labels(rows[0], (48, 40)))) == {1, 2}
    assert set(np.unique(work.task._truth.labels(rows[1], (48, 40)))) == {0}
    with pytest.raises(DataError, match=r"has the colour \[9, 9, 200\]"):
        work.task._truth.labels({**rows[0], "mask": coloured(kind, right=(9, 9, 200))}, (48, 40))


@pytest.mark.parametrize("order", [1, -1])
def test_colours_among_numbers_are_refused_in_their_row(order) -> None:
    numbers = [{"image": Image.new("RGB", (48, 40)), "mask": np.eye(40, 48, dtype=np.uint8)}] * 2
    rows = [*numbers, {"image": Image.new("RGB", (48, 40)), "mask": coloured("RGB")}][::order]
    with pytest.raises(DataError, match="is a colour image, others are numbers") as caught:
        topwork.build("image-segmentation", BASES["image-segmentation"], rows=rows)
    assert caught.value.row == (2 if order == 1 else 0)


def test_masks_of_hundreds_of_colours_are_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 3)).astype(np.uint8)
    rows = [{"image": Image.new("RGB", (48, 40)), "mask": Image.fromarray(noise)}] * 2
    with pytest.raises(DataError, match=r"is a colour image, and makes \d+ colours .*JPEG"):
        topwork.build("image-segmentation", BASES["image-segmentation"], rows=rows)


# ---------------------------------------------------------------- sizes and augmentation


def test_image_size_reaches_a_base_from_a_config() -> None:
    rows = [{"image": Image.new("RGB", (40, 40), (60 * n, 9, 9)), "label": "ab"[n % 2]} for n in range(4)]
    work = topwork.build("image-classification", {"config": {**VIT, "patch_size": 4}}, rows=rows, image_size=32)
    assert work.model.config.image_size == 32
    assert len(work.predict(rows)) == 4
    stated = {"config": {**VIT, "patch_size": 4, "image_size": 64}}
    with pytest.raises(TopworkError, match="the network takes images of 64 x 64 pixels, `image_size` is 32"):
        topwork.build("image-classification", stated, rows=rows, image_size=32)


TASKS = ("image-classification", "object-detection", "image-segmentation", "depth-estimation")


@pytest.mark.parametrize("kind", ["light", "strong"])
@pytest.mark.parametrize("task", TASKS)
def test_augmentation_fills_with_the_mean_colour(task, kind) -> None:
    """An image of one colour stays that colour, whatever is shifted, zoomed and turned: the corners are no black."""
    parts = {"light": "light", "strong": ["shift", "zoom", "rotate"]}[kind]
    if task == "object-detection" and kind == "strong":
        parts = ["shift", "zoom"]
    if task == "depth-estimation" and kind == "strong":
        parts = ["mirror", "crop"]
    row = dict(topwork.load_plugins().tasks[task].example_rows()[1])
    plain = {**row, "image": Image.new("RGB", row["image"].size, (180, 150, 120))}
    work = topwork.build(task, BASES[task], rows=[plain, plain], augment=parts, **names(task))
    for seed in range(5):
        pixels = work.task.encode([plain], "train", seed)[0].inputs["pixel_values"]
        assert float((pixels.amax((1, 2)) - pixels.amin((1, 2))).max()) < 4.1


def names(task: str) -> dict[str, Any]:
    if task == "depth-estimation":
        return {}
    labels = {
        "image-segmentation": ["ground", "disc", "square", "bar"],
        "image-classification": ["circle", "square", "cross"],
    }
    return {"label_names": labels.get(task, ["disc", "square", "bar"])}


@pytest.mark.parametrize("task", TASKS)
def test_parts_of_augmentation_are_stated_and_checked(task) -> None:
    options = topwork.load_plugins().tasks[task].Options
    description = options.model_fields["augment"].description
    assert "light: " in description and "or a list of parts" in description
    rows = topwork.load_plugins().tasks[task].example_rows()
    assert topwork.build(task, BASES[task], rows=rows, augment=[]).task.repeatable
    assert not topwork.build(task, BASES[task], rows=rows, augment=["mirror"]).task.repeatable
    if task in ("object-detection", "depth-estimation"):
        with pytest.raises(TopworkError, match="`rotate` is no part of this task's augmentation"):
            topwork.build(task, BASES[task], rows=rows, augment=["rotate"])
