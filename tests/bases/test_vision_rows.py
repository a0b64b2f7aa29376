"""Where pictures come from: Pascal VOC, folders with `objects`, and files that cannot be read, through a run."""

from __future__ import annotations

import json

import pytest
from PIL import Image

import topwork
from topwork import DataError, RowsOptions, UsageError
from topwork_tasks import detection_plugin

VOC = """<annotation><folder>VOC2007</folder><filename>{name}.jpg</filename>
<size><width>30</width><height>20</height><depth>3</depth></size>{objects}</annotation>"""
OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult>
<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>
<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"""
YOLOS = {
    "model_type": "yolos",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": [32, 32],
    "patch_size": 16,
    "num_detection_tokens": 4,
}
VIT = {key: value for key, value in YOLOS.items() if key != "num_detection_tokens"} | {
    "model_type": "vit",
    "image_size": 32,
}


@pytest.fixture
def voc(tmp_path):
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / name).mkdir(parents=True)
    objects = {
        "one": [("dog", 0, (1, 1, 10, 20)), ("cat", 1, (11, 5, 30, 20))],
        "two": [],
        "three": [("cat", 0, (2.5, 3, 8, 9))],
    }
    for name, found in objects.items():
        written = "".join(OBJECT.format(name=kind, difficult=hard, box=box) for kind, hard, box in found)
        (tmp_path / "Annotations" / f"{name}.xml").write_text(VOC.format(name=name, objects=written))
        Image.new("RGB", (30, 20)).save(tmp_path / "JPEGImages" / f"{name}.jpg")
    (tmp_path / "ImageSets/Main/trainval.txt").write_text("one\ntwo\n")
    (tmp_path / "ImageSets/Main/cat_val.txt").write_text("three  1\n")
    return tmp_path


def read(folder, **more):
    return detection_plugin.load_rows(str(folder), RowsOptions(path=str(folder), format="voc", **more))


def test_voc_folders_are_rows(voc, plugins) -> None:
    rows = read(voc, split="trainval")
    assert rows.column_names == ["image", "image_id", "objects", "annotated_size"]
    assert rows.features["objects"]["category"].feature.names == ["cat", "dog"]
    first, second = rows
    # pixels are counted from 1, and the last one belongs to the box
    assert first["objects"]["bbox"] == [[0, 0, 10, 20], [10, 4, 20, 16]]
    assert first["objects"]["category"] == [1, 0]
    assert first["objects"]["area"] == [200, 320]
    assert first["objects"]["iscrowd"] == [0, 1]
    assert second["objects"]["bbox"] == []
    assert first["image"].size == (30, 20)
    assert len(read(voc)) == 3
    assert read(voc, split="cat_val")[0]["objects"]["bbox"] == [[1.5, 2, 6.5, 7]]
    assert read(voc, split="trainval", options={"difficult": "use"})[0]["objects"]["iscrowd"] == [0, 0]
    assert next(iter(read(voc, streaming=True)))["image_id"] == 0
    work = topwork.build("object-detection", {"config": YOLOS}, rows=rows, plugins=plugins)
    labels = work.task.encode([first], "loss", 0)[0].inputs["labels"]
    assert labels["class_labels"].tolist() == [work.task.label_names.index("dog")]  # the difficult one is left out


def test_what_can_be_nothing_else_needs_no_format(voc, tmp_path, plugins) -> None:
    assert plugins.load_rows(RowsOptions(path=str(voc)))[:] == read(voc)[:]
    box = {"id": 1, "image_id": 5, "bbox": [1, 2, 3, 4], "area": 12, "category_id": 9, "iscrowd": 0}
    found = {"info": {}, "images": [{"id": 5, "file_name": "JPEGImages/one.jpg", "width": 30, "height": 20}]}
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps({**found, "annotations": [box], "categories": [{"id": 9, "name": "dog"}]}))
    (row,) = plugins.load_rows(RowsOptions(path=str(file)))
    assert (row["objects"]["bbox"], row["image"].size) == ([[1, 2, 3, 4]], (30, 20))
    file.write_text(json.dumps([{"image": "one.jpg", "label": "dog"}]))
    assert plugins.load_rows(RowsOptions(path=str(file)))[:] == {"image": ["one.jpg"], "label": ["dog"]}


def test_faults_of_voc_folders_say_what_to_do(voc, tmp_path) -> None:
    with pytest.raises(UsageError, match="did you mean `trainval`"):
        read(voc, split="trainvla")
    with pytest.raises(UsageError, match="Annotations"):
        read(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="did you mean `images`"):
        read(voc, options={"image": "x"})
    broken = voc / "Annotations" / "two.xml"
    broken.write_text(VOC.format(name="two", objects=OBJECT.format(name="cat", difficult=0, box=(1, "x", 3, 4))))
    with pytest.raises(DataError, match=r"two\.xml: is no annotation"):
        read(voc)
    broken.write_text("<annotation>")
    with pytest.raises(DataError, match=r"two\.xml: is no annotation"):
        read(voc)
    broken.unlink()
    (voc / "JPEGImages" / "one.jpg").unlink()
    with pytest.raises(DataError, match=r"one\.jpg is missing"):
        read(voc)


def picture_folder(folder, rows):
    """A folder with metadata.jsonl; every row is (picture or None for a file that is none, other columns)."""
    folder.mkdir(parents=True)
    lines = []
    for number, (image, columns) in enumerate(rows):
        name = f"{number}.png"
        if image is None:
            (folder / name).write_bytes(b"\x89PNG\r\n\x1a\n no picture")
        else:
            image.save(folder / name)
        lines.append(json.dumps({"file_name": name, **columns}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def run(tmp_path, plugins, task, config, train, evaluate, **data):
    for name, rows in (("train", train), ("evaluate", evaluate)):
        picture_folder(tmp_path / name, rows)
    source = {"format": "imagefolder"}
    recipe = {
        "task": task,
        "base": {"config": config},
        "data": {name: {"path": str(tmp_path / name), **source} for name in ("train", "evaluate")} | data,
        "stages": [
            {"train": {"steps": 2, "batch_size": 4, "checkpoint_every": "never"}},
            "evaluate",
        ],
    }
    return topwork.run(recipe, folder=tmp_path / "run", plugins=plugins, quiet=True)


@pytest.mark.parametrize("task", ["image-classification", "object-detection"])
def test_pictures_that_cannot_be_read_are_faults_of_their_row(tmp_path, plugins, task) -> None:
    key = "objects" if task == "object-detection" else "label"
    rows = [(row["image"], {key: row[key]}) for row in plugins.task(task).example_rows()[1:8]]
    config = YOLOS if task == "object-detection" else VIT
    bad = [*rows[:2], (None, rows[2][1]), *rows[3:]]
    done = run(tmp_path / "bad", plugins, task, config, bad, bad, on_error="skip")
    result = done.results[1]["result"]
    assert result["skipped"] == 1
    assert result["skipped_rows"][0]["row"] == 2
    assert result["skipped_rows"][0]["column"] == "image"
    assert result["rows"] == len(bad) - 1
    assert done.results[0]["result"]["skipped"] == 1
    with pytest.raises(DataError, match=r"row 2, column 'image'"):
        run(tmp_path / "raised", plugins, task, config, rows, bad)
