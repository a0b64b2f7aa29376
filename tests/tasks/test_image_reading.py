"""Images as people have them, for every image task: deeper than 8 bits, transparent, turned by EXIF, very large."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image
from tiny_bases import BASES

import topwork
from topwork import DataError, RowsOptions, TopworkError
from topwork_tasks.detection_plugin import load_rows

TASKS = ("image-classification", "object-detection", "image-segmentation", "depth-estimation")
#: values of a sensor: background, then the two classes that differ in brightness alone
DARK, BRIGHT, GROUND = 41_000, 58_000, 40_000


def as_mode(values: np.ndarray, mode: str) -> Any:
    """The same picture as a PIL image of a mode, as an array of a dtype, or as a file."""
    if mode.startswith("array "):
        return values.astype(mode.removeprefix("array "))
    if mode == "three channels":
        return np.stack([values.astype(np.uint16)] * 3, axis=-1)
    if mode == "TIFF I":
        return as_file(Image.fromarray(values.astype(np.int32)), "tiff")
    if mode == "TIFF F":
        return as_file(Image.fromarray(values.astype(np.float32)), "tiff")
    if mode == "PNG I;16":
        return as_file(Image.fromarray(values.astype(np.uint16)), "png")
    if mode == "TIFF I;16B":
        return as_file(Image.frombytes("I;16B", values.shape[::-1], values.astype(">u2").tobytes()), "tiff")
    if mode == "PNG RGB 16":
        return {"bytes": png_of_16_bits(np.stack([values.astype(np.uint16)] * 3, axis=-1)), "path": None}
    dtype = {"I": np.int32, "F": np.float32, "I;16": np.uint16}[mode]
    return Image.fromarray(values.astype(dtype))


def as_file(image: Image.Image, form: str) -> dict[str, Any]:
    target = io.BytesIO()
    image.save(target, form)
    return {"bytes": target.getvalue(), "path": None}


def png_of_16_bits(pixels: np.ndarray) -> bytes:
    """A colour PNG of 16 bits a channel, which PIL does not write."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = pixels.shape[:2]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


MODES = (
    *("I", "F", "I;16", "TIFF I", "TIFF F", "PNG I;16", "TIFF I;16B", "PNG RGB 16", "three channels"),
    *("array uint16", "array int32", "array int64", "array uint32", "array float32", "array float64"),
)


def sensor(index: int) -> np.ndarray:
    """[height, width]: a square of one of two brightnesses."""
    values = np.full((40, 48), GROUND + 10 * index)
    values[8:32, 8:32] = DARK if index % 2 else BRIGHT
    return values


def rows_of(task: str, mode: str) -> list[dict[str, Any]]:
    rows = []
    for index in range(8):
        row: dict[str, Any] = {"image": as_mode(sensor(index), mode)}
        if task == "image-classification":
            row["label"] = "dark" if index % 2 else "bright"
        elif task == "object-detection":
            row["objects"] = {"bbox": [[8, 8, 24, 24]], "category": ["dark" if index % 2 else "bright"]}
        elif task == "image-segmentation":
            row["mask"] = ((sensor(index) > GROUND + 100) * (1 + index % 2)).astype(np.uint8)
        else:
            row["depth"] = np.full((40, 48), 2.0, np.float32)
        rows.append(row)
    return rows


def build(task: str, rows: Any, **options: Any) -> topwork.TaskModel:
    return topwork.build(task, BASES[task], rows=rows, **options)


def pixels(work: topwork.TaskModel, row: dict[str, Any], mode: Any = "predict") -> Any:
    return work.task.encode([row], mode, 0)[0].inputs["pixel_values"].float()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("task", TASKS)
def test_deep_images_keep_their_contrast_and_are_read_alike_after_loading(task, mode, tmp_path) -> None:
    rows = rows_of(task, mode)
    work = build(task, rows)
    bright, dark = pixels(work, rows[0], "loss"), pixels(work, rows[1], "loss")
    eight = build(task, [{**row, "image": scaled(sensor(index))} for index, row in enumerate(rows)])
    assert (bright - dark).abs().max() > 0.5 * (
        pixels(eight, {"image": scaled(sensor(0))}).amax() - pixels(eight, {"image": scaled(sensor(1))}).amin()
    )
    assert work.task.state.values["pixel_range"] == (float(GROUND), float(BRIGHT))
    if mode in ("I", "PNG RGB 16"):
        work.save(tmp_path / "model")
        again = topwork.load(tmp_path / "model")
        assert (pixels(again, rows[0]) == pixels(work, rows[0])).all()


def scaled(values: np.ndarray) -> Image.Image:
    return Image.fromarray(((values - GROUND) / (BRIGHT - GROUND) * 255).round().astype(np.uint8)).convert("RGB")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("task", TASKS)
def test_deep_images_without_a_known_scale_are_refused_never_clipped(task, mode) -> None:
    plain = [{**row, "image": scaled(sensor(index))} for index, row in enumerate(rows_of(task, "I"))]
    work, deep = build(task, plain), as_mode(sensor(0), mode)
    for encode_mode in ("train", "loss", "predict"):
        with pytest.raises(DataError, match=r"row 0, column 'image'.*scale is not known.*pixel_range"):
            work.task.encode([{**plain[0], "image": deep}], encode_mode, 0)
    ready = build(task, plain, pixel_range=[GROUND, BRIGHT])
    assert (pixels(ready, {"image": deep}) - pixels(ready, plain[0])).abs().max() < 0.05
    with pytest.raises(DataError, match="mostly outside the known range of 40000 to 58000"):
        ready.task.encode([{"image": as_mode(sensor(0) + 1_000_000, "array int64")}], "predict", 0)


def test_deep_classes_are_learned() -> None:
    """Two classes that differ in brightness alone, as int32: what was clipped to white had accuracy one half."""
    rows = [row for _ in range(4) for row in rows_of("image-classification", "TIFF I")]
    config = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}
    work = topwork.build("image-classification", {"config": {**config, "out_features": ["stage1"]}}, rows=rows)
    work.apply("train", {"train": rows}, steps=30, batch_size=16, learning_rate=0.02, checkpoint_every="never")
    assert work.apply("evaluate", {"evaluate": rows})["metrics"]["accuracy"] == 1.0


@pytest.mark.parametrize("task", TASKS)
def test_few_grey_levels_are_a_note(task) -> None:
    notes = build(task, rows_of(task, "I"), pixel_range=[0, 10_000_000]).task.state.notes
    assert any("grey levels only" in note for note in notes)


# ---------------------------------------------------------------- transparency


@pytest.mark.parametrize("background", ["white", "#102030"])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("task", TASKS)
def test_transparent_pixels_get_the_stated_background(task, mode, background) -> None:
    logo = Image.new("RGBA", (48, 40), (0, 0, 0, 0))  # black, and all transparent
    image = logo if mode == "RGBA" else logo.convert("LA") if mode == "LA" else logo.convert("P")
    if mode == "P":
        image.info["transparency"] = image.getpixel((0, 0))
    rows = [{**row, "image": scaled(sensor(index))} for index, row in enumerate(rows_of(task, "I"))]
    work = build(task, rows, background=background)
    plain = Image.new("RGB", (48, 40), background)
    assert (pixels(work, {"image": image}) == pixels(work, {"image": plain})).all()


def test_an_unknown_background_is_refused() -> None:
    with pytest.raises(TopworkError, match="background"):
        build("image-classification", rows_of("image-classification", "I"), background="no colour")


# ---------------------------------------------------------------- shapes of arrays


@pytest.mark.parametrize("shape", [(40, 48), (40, 48, 1), (40, 48, 3), (40, 48, 4)])
@pytest.mark.parametrize("task", TASKS)
def test_arrays_of_these_shapes_are_read(task, shape) -> None:
    rows = [{**row, "image": scaled(sensor(index))} for index, row in enumerate(rows_of(task, "I"))]
    assert pixels(build(task, rows), {"image": np.full(shape, 200, np.uint8)}).ndim == 3


@pytest.mark.parametrize("shape", [(3, 40, 48), (40,), (2, 40, 48, 3), (40, 48, 2)])
def test_other_shapes_are_refused_with_those_that_are_read(shape) -> None:
    rows = [{"image": scaled(sensor(index)), "label": "ab"[index % 2]} for index in range(4)]
    with pytest.raises(DataError, match=r"is no image; arrays are \[height, width\], or \[height, width, channels\]"):
        pixels(build("image-classification", rows), {"image": np.zeros(shape, np.uint8)})


# ---------------------------------------------------------------- very large images


@pytest.mark.parametrize("form", ["JPEG", "one bit"])
def test_a_very_large_image_takes_little_memory(form, tmp_path) -> None:
    path = tmp_path / "large"
    if form == "JPEG":
        Image.new("RGB", (10_000, 10_000), (200, 10, 10)).save(path, "jpeg")
    else:
        Image.new("1", (13_000, 13_000), 1).save(path, "png")
    code = f"""
import re, warnings
warnings.simplefilter("error")
from topwork_tasks._vision.images import Reading, open_image
image = open_image({str(path)!r}, 0, "image", Reading(least=(32, 32)))
assert image.width * image.height <= 2 ** 23 and image.width == image.height, image.size
assert image.getpixel((5, 5))[0] > 190
print(int(re.search("VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) // 1024)
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(shown.stdout) < 800, f"{shown.stdout} MB"


def test_boxes_and_maps_of_a_reduced_image_keep_the_pixels_of_the_file(monkeypatch) -> None:
    from topwork_tasks._vision import images, inputs

    monkeypatch.setattr(images, "_LARGEST", 1000)
    monkeypatch.setattr(images, "_REDUCED", 500)
    monkeypatch.setattr(inputs, "_REDUCED_PIXELS", 500)
    image = Image.new("RGB", (400, 200), "black")
    image.paste("red", (100, 50, 300, 150))
    row = {"image": image, "objects": {"bbox": [[100, 50, 200, 100]], "category": ["a"]}}
    small = {"image": Image.new("RGB", (40, 20)), "objects": {"bbox": [[10, 5, 20, 10]], "category": ["b"]}}
    work = build("object-detection", [row, small, small])
    item = work.task.encode([row], "loss", 0)[0]
    assert item.extra == (400, 200)
    assert item.inputs["labels"]["boxes"].tolist() == [[0.5, 0.5, 0.5, 0.5]]


# ---------------------------------------------------------------- frames of annotations


def turned_jpeg(path: Any) -> None:
    """A file of 60 x 30 pixels whose tag turns it to 30 x 60."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (60, 30), "black")
    image.paste("white", (2, 2, 12, 12))
    image.save(path, "jpeg", exif=exif, quality=95)


def coco_file(folder: Any, size: tuple[int, int] | None, file: str = "a.png", **more: Any) -> Any:
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 10, 10], "iscrowd": 0, **more}
    image: dict[str, Any] = {"id": 1, "file_name": file}
    if size is not None:
        image |= {"width": size[0], "height": size[1]}
    content = {"images": [image], "annotations": [annotation], "categories": [{"id": 1, "name": "thing"}]}
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return load_rows(str(path), RowsOptions(path=str(path), format="coco"))


def voc_file(folder: Any, size: tuple[int, int], file: str) -> Any:
    (folder / "Annotations").mkdir(exist_ok=True)
    (folder / "Annotations" / "a.xml").write_text(
        f"<annotation><filename>{file}</filename><size><width>{size[0]}</width><height>{size[1]}</height></size><object>"
        "<name>thing</name><bndbox><xmin>3</xmin><ymin>3</ymin><xmax>12</xmax><ymax>12</ymax></bndbox></object>"
        "</annotation>"
    )
    options = RowsOptions(path=str(folder), format="voc", options={"images": str(folder)})
    return load_rows(str(folder), options)


def detector(rows: Any) -> topwork.TaskModel:
    return build("object-detection", rows, label_names=["thing", "none"])


@pytest.mark.parametrize("form", ["coco", "voc"])
def test_a_declared_size_that_fits_no_frame_is_refused(form, tmp_path) -> None:
    Image.new("RGB", (60, 30)).save(tmp_path / "a.png")
    rows = coco_file(tmp_path, (30, 60)) if form == "coco" else voc_file(tmp_path, (30, 60), "a.png")
    right = coco_file(tmp_path, (60, 30)) if form == "coco" else voc_file(tmp_path, (60, 30), "a.png")
    work = detector(right)
    assert work.task.encode([right[0]], "loss", 0)[0].inputs["labels"]["boxes"].shape == (1, 4)
    raw = rows.rows.cast_column("image", datasets.Image(decode=False))
    with pytest.raises(DataError, match=r"declare 30 x 60 pixels, .*a\.png has 60 x 30"):
        work.task.encode([raw[0]], "loss", 0)


@pytest.mark.parametrize("frame", ["stored", "upright"])
@pytest.mark.parametrize("form", ["coco", "voc"])
def test_boxes_follow_the_image_from_the_frame_that_they_were_drawn_on(form, frame, tmp_path) -> None:
    turned_jpeg(tmp_path / "a.jpg")
    size = (60, 30) if frame == "stored" else (30, 60)
    rows = coco_file(tmp_path, size, "a.jpg") if form == "coco" else voc_file(tmp_path, size, "a.jpg")
    raw = rows.rows.cast_column("image", datasets.Image(decode=False))
    objects, _ = detector(raw).task._objects(raw[0], (30, 60))
    # turned clockwise, what was 2 from the left and the top is 2 from the top and the right
    assert objects.boxes.tolist() == [[18, 2, 28, 12] if frame == "stored" else [2, 2, 12, 12]]


def test_masks_follow_the_image_from_the_stored_frame(tmp_path) -> None:
    turned_jpeg(tmp_path / "a.jpg")
    mask = np.zeros((30, 60), np.uint8)
    mask[2:12, 2:12] = 1
    row = {"image": str(tmp_path / "a.jpg"), "mask": mask}
    work = build("image-segmentation", [row], label_names=["ground", "thing"])
    truth = work.task._truth.labels(row, (30, 60))
    assert truth.shape == (60, 30) and truth[2:12, 18:28].all() and truth.sum() == 100
    depth = build("depth-estimation", [{"image": row["image"], "depth": mask + 1.0}])
    assert (depth.task._truth({"image": row["image"], "depth": mask + 1.0}, (30, 60))[2:12, 18:28] == 2).all()
    polygon = {"segmentation": [[2, 2, 12, 2, 12, 12, 2, 12]]}
    rows = coco_file(tmp_path, (60, 30), "a.jpg", **polygon)
    raw = rows.rows.cast_column("image", datasets.Image(decode=False))
    from dense_models import MASK2FORMER

    segmenter = topwork.build("image-segmentation", {"config": MASK2FORMER}, rows=raw, kind="instance")
    assert np.array_equal(segmenter.task._truth.segments(raw[0], (30, 60)).mask(0), truth == 1)
