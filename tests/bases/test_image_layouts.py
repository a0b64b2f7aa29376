"""Layouts of images with boxes, masks or depth: recognised, said, read right, or refused with file and line."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import layout_files
import numpy
import pytest
from layout_files import PLUGINS, load, write

from topwork import DataError, RowsOptions, TopworkError, UsageError
from topwork.data.columns import undecoded

image = functools.partial(layout_files.image, size=(100, 50))


def boxes_of(rows) -> list:
    """(file name, box, class) of every object, with the names that the rows declare."""
    names = rows.features["objects"]["category"].feature.names
    return [
        (Path(row["image"]["path"]).name, [round(side, 3) for side in box], names[category])
        for row in rows
        for box, category in zip(row["objects"]["bbox"], row["objects"]["category"])
    ]


# ---------------------------------------------------------------- tables of boxes

#: (header, line) of a box [10, 5, 20, 30] of class `dog` on a.png, 100 x 50
BOX_TABLES = {
    "tensorflow": ("filename,width,height,class,xmin,ymin,xmax,ymax", "a.png,100,50,dog,10,5,30,35"),
    "deepforest": ("image_path,xmin,ymin,xmax,ymax,label", "a.png,10,5,30,35,dog"),
    "corners": ("image,label,x1,y1,x2,y2", "a.png,dog,10,5,30,35"),
    "sides": ("image_name,class,x,y,w,h", "a.png,dog,10,5,20,30"),
    "edges": ("file_name,category,left,top,right,bottom", "a.png,dog,10,5,30,35"),
    "bbox with size": ("image_id,width,height,bbox,label", 'a,100,50,"[10, 5, 20, 30]",dog'),
    "bbox of numbers": ("image_id,bbox,label", "a,10 5 20 30,dog"),
    "sides named": (
        "filename,label,bbox_x,bbox_y,bbox_width,bbox_height,image_width,image_height",
        "a.png,dog,10,5,20,30,100,50",
    ),
    "centres as shares": ("filename,class,x_center,y_center,width,height", "a.png,dog,0.2,0.4,0.2,0.6"),
    "open images": ("ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax", "a,x,dog,1,0.1,0.3,0.1,0.7"),
    "semicolons": ("filename;class;xmin;ymin;xmax;ymax", "a.png;dog;10;5;30;35"),
}


@pytest.mark.parametrize("table", BOX_TABLES)
def test_tables_of_boxes(tmp_path, table):
    header, line = BOX_TABLES[table]
    image(tmp_path / "a.png")
    rows = load(write(tmp_path / "boxes.csv", f"{header}\n{line}\n"))
    assert boxes_of(rows) == [("a.png", [10, 5, 20, 30], "dog")]
    assert "read as a table of boxes" in rows.remarks[0] and "1 images, 1 classes, 1 boxes" in rows.remarks[0]
    assert rows.origin.line_of(0) == 2
    if "width,height,class" in header:
        assert rows[0]["annotated_size"] == [100, 50]
    # as a table, for those who want its cells
    assert load(tmp_path / "boxes.csv", format="csv").column_names == header.replace(";", ",").split(",")


def test_boxes_of_one_image_stand_together_and_an_image_may_have_none(tmp_path):
    for name in "ab":
        image(tmp_path / "images" / f"{name}.png")
    text = "filename,class,xmin,ymin,xmax,ymax\na.png,dog,1,2,3,4\nb.png,,,,,\na.png,cat,5,6,9,9\n"
    rows = load(write(tmp_path / "boxes.csv", text))
    assert boxes_of(rows) == [("a.png", [1, 2, 2, 2], "dog"), ("a.png", [5, 6, 4, 3], "cat")]
    assert rows[1]["objects"] == {"bbox": [], "category": []} and rows.origin.line_of(1) == 3


def test_folders_with_a_table_of_boxes_for_each_split(tmp_path):
    image(tmp_path / "images" / "a.png")
    for split in ("train", "test"):
        write(tmp_path / f"{split}_labels.csv", f"filename,class,xmin,ymin,xmax,ymax\na.png,{split},1,2,3,4\n")
    assert boxes_of(load(tmp_path, split="test")) == [("a.png", [1, 2, 2, 2], "test")]
    with pytest.raises(UsageError, match="several splits: test, train"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c.png,dog,1,2,3,4", r"boxes\.csv:3: there is no image `c\.png`"),
        ("a.png,dog,1,2,3,x", r"boxes\.csv:3: xmin, ymin, xmax, ymax: 1, 2, 3, x are not four numbers"),
        ("a.png,dog,1,2,,4", r"boxes\.csv:3: .*are not four numbers"),
        ("a.png,,1,2,3,4", r"boxes\.csv:3: `class` is empty"),
        (",dog,1,2,3,4", r"boxes\.csv:3: `filename` is empty"),
    ],
)
def test_faults_of_tables_of_boxes_name_their_line(tmp_path, line, message):
    image(tmp_path / "a.png")
    with pytest.raises(DataError, match=message):
        load(write(tmp_path / "boxes.csv", f"filename,class,xmin,ymin,xmax,ymax\na.png,dog,1,2,3,4\n{line}\n"))


def test_tables_without_boxes_stay_tables(tmp_path):
    for header in ("image,label", "text,label", "x,y,w,h,label", "filename,xmin,ymin,xmax,ymax"):
        rows = load(
            write(tmp_path / f"{len(header)}.csv", header + "\n" + ",".join("1" * len(header.split(","))) + "\n")
        )
        assert rows.column_names == header.split(",")


# ---------------------------------------------------------------- COCO and Pascal VOC


def coco(names=("a.png",)) -> str:
    return json.dumps(
        {
            "images": [
                {"id": index, "file_name": name, "width": 100, "height": 50} for index, name in enumerate(names)
            ],
            "annotations": [{"id": 1, "image_id": 0, "category_id": 7, "bbox": [10, 5, 20, 30]}],
            "categories": [{"id": 7, "name": "dog"}],
        }
    )


COCO_TREES = {
    "beside": ("annotations.json", "a.png"),
    "images": ("annotations.json", "images/a.png"),
    "coco": ("annotations/instances_train2017.json", "train2017/a.png"),
    "coco with images": ("annotations/instances_train2017.json", "images/train2017/a.png"),
    "roboflow": ("train/_annotations.coco.json", "train/a.png"),
}


@pytest.mark.parametrize("tree", COCO_TREES)
@pytest.mark.parametrize("given", ["the folder", "the file"])
def test_coco_is_found_in_its_folder_and_its_images_beside_it(tmp_path, tree, given):
    file, picture = COCO_TREES[tree]
    image(tmp_path / picture)
    write(tmp_path / file, coco())
    rows = load(tmp_path if given == "the folder" else tmp_path / file)
    paths = [cell["path"] for cell in undecoded(rows.rows, ["image"])["image"]]
    assert paths == [str(tmp_path / picture)]
    assert "read as COCO: 1 images, 1 categories, 1 boxes" in rows.remarks[0]
    assert rows.features["objects"]["category"].feature.names == ["dog"]


def test_splits_of_coco(tmp_path):
    for split in ("train", "val"):
        image(tmp_path / f"{split}2017" / f"{split}.png")
        for kind in ("instances", "person_keypoints"):
            write(tmp_path / "annotations" / f"{kind}_{split}2017.json", coco([f"{split}.png"]))
    assert "instances_val2017.json" in load(tmp_path, split="validation").remarks[0]
    with pytest.raises(UsageError, match="several splits: train, validation"):
        load(tmp_path)
    (tmp_path / "annotations" / "instances_val2017.json").rename(tmp_path / "annotations" / "boxes_val2017.json")
    with pytest.raises(UsageError, match=r"several COCO files for validation: .*boxes_val2017\.json"):
        load(tmp_path, split="train")


XML = """<annotation><filename>a.png</filename><size><width>100</width><height>50</height></size>
<object><name>dog</name><bndbox><xmin>11</xmin><ymin>6</ymin><xmax>30</xmax><ymax>35</ymax></bndbox></object></annotation>"""


@pytest.mark.parametrize(
    ("xml", "picture", "given"),
    [
        ("Annotations/a.xml", "JPEGImages/a.png", ""),
        ("Annotations/a.xml", "JPEGImages/a.png", "Annotations"),
        ("annotations/a.xml", "images/a.png", ""),
        ("a.xml", "a.png", ""),
        ("a.xml", "images/a.png", ""),
    ],
)
def test_voc_from_its_root_or_its_annotations(tmp_path, xml, picture, given):
    image(tmp_path / picture)
    write(tmp_path / xml, XML)
    rows = load(tmp_path / given)
    assert rows[0]["objects"]["bbox"] == [[10, 5, 20, 30]] and rows[0]["image"].size == (100, 50)
    assert "read as Pascal VOC: 1 images, 1 classes, 1 boxes" in rows.remarks[0]


def test_a_boxes_row_reaches_the_task_by_name(tmp_path):
    from topwork import DataOptions
    from topwork.data.roles import Roles

    image(tmp_path / "a.png")
    write(tmp_path / "a.csv", "filename,class,xmin,ymin,xmax,ymax\na.png,dog,1,2,3,4\n")
    write(tmp_path / "b.json", coco())
    for name in ("a.csv", "b.json"):
        options = DataOptions(train=RowsOptions(path=str(tmp_path / name)))
        roles = Roles(PLUGINS.tasks["object-detection"], PLUGINS, options)
        assert roles("train")[0]["objects"]["category"] == ["dog"]
        assert any("read as" in note for note in roles.notes)


# ---------------------------------------------------------------- masks and depth

MASK_TREES = {
    "ADE20K": ("images/training/a.png", "annotations/training/a.png", "train"),
    "split folders": ("val/images/a.png", "val/masks/a.png", "validation"),
    "CamVid, of Kaggle": ("test/a.png", "test_labels/a_L.png", "test"),
    "SegNet": ("val/a.png", "valannot/a.png", "validation"),
    "CamVid": ("701_StillsRaw_full/a.png", "LabeledApproved_full/a_L.png", "train"),
    "Cityscapes": ("leftImg8bit/val/x/a_leftImg8bit.png", "gtFine/val/x/a_gtFine_labelIds.png", "validation"),
}


@pytest.mark.parametrize("tree", MASK_TREES)
def test_trees_of_masks(tmp_path, tree):
    picture, mask, split = MASK_TREES[tree]
    image(tmp_path / picture)
    image(tmp_path / mask, value=3)
    rows = load(tmp_path, split=split)
    assert [Path(row["mask"]["path"]) for row in rows] == [tmp_path / mask]


def test_masks_of_voc_are_those_of_its_lists(tmp_path):
    for name in "abc":
        image(tmp_path / "JPEGImages" / f"{name}.png")
    image(tmp_path / "SegmentationClass" / "b.png")
    write(tmp_path / "ImageSets" / "Segmentation" / "train.txt", "b\n")
    assert [Path(row["image"]["path"]).stem for row in load(tmp_path)] == ["b"]


@pytest.mark.parametrize("name", ["class_dict.csv", "label_colors.txt", "labelmap.txt"])
def test_tables_of_colours_are_found(tmp_path, name):
    image(tmp_path / "images" / "a.png")
    image(tmp_path / "masks" / "a.png")
    write(tmp_path / name, "x")
    rows = load(tmp_path)
    assert rows[0]["colour_table"] == str(tmp_path / name) and f"as {name} names them" in rows.remarks[0]


def test_depth_of_tum_is_paired_by_time_and_has_its_scale(tmp_path):
    for moment in ("1.00", "1.50", "2.00"):
        image(tmp_path / "rgb" / f"{moment}.png")
    for moment in ("1.01", "1.515", "2.30"):
        image(tmp_path / "depth" / f"{moment}.png")
    for name, moments in (("rgb", ("1.00", "1.50", "2.00")), ("depth", ("1.01", "1.515", "2.30"))):
        write(tmp_path / f"{name}.txt", "# list\n" + "".join(f"{moment} {name}/{moment}.png\n" for moment in moments))
    rows = load(tmp_path)
    pairs = [(Path(row["image"]["path"]).stem, Path(row["depth"]["path"]).stem) for row in rows]
    assert pairs == [("1.00", "1.01"), ("1.50", "1.515")]  # 2.00 has no depth within 0.02 s
    assert rows[0]["depth_scale"] == 5000 and "1/5000 m" in rows.remarks[0]


def test_depth_of_kitti_has_its_scale(tmp_path):
    image(tmp_path / "image" / "d_sync_image_0000000005_image_02.png")
    image(tmp_path / "groundtruth_depth" / "d_sync_groundtruth_depth_0000000005_image_02.png")
    rows = load(tmp_path)
    assert rows[0]["depth_scale"] == 256 and numpy.isclose(rows[0]["depth_scale"], 256)
    image(tmp_path / "depth" / "d_sync_image_0000000005_image_02.png")
    assert "depth_scale" not in load(tmp_path)[0]


@pytest.mark.parametrize(
    "written", ["a.png", "images\\a.png", "/home/somebody/data/a.png", "C:\\data\\a.png", "a", "other/a.png"]
)
@pytest.mark.parametrize("form", ["coco", "voc"])
def test_an_image_is_found_by_the_last_part_of_its_path(tmp_path, written, form):
    if form == "coco":
        image(tmp_path / "images" / "a.png")
        rows = load(write(tmp_path / "annotations.json", coco((written,))))
    else:
        image(tmp_path / "JPEGImages" / "a.png")
        write(tmp_path / "Annotations" / "a.xml", f"<annotation><filename>{written}</filename></annotation>")
        rows = load(tmp_path)
    assert rows[0]["image"].size == (100, 50)


@pytest.mark.parametrize(
    ("name", "content", "tool"),
    [
        ("a.json", '{"shapes": [{"label": "x", "shape_type": "rectangle"}], "imagePath": "a.png"}', "LabelMe"),
        ("c.json", '[{"image": "a.png", "annotations": [{"label": "x", "coordinates": {}}]}]', "CreateML"),
        ("v.json", '{"a.png1": {"regions": [{"shape_attributes": {"name": "rect"}}]}}', "VIA"),
        ("c.xml", '<annotations><image name="a.png"/></annotations>', "CVAT"),
    ],
)
def test_exports_of_tools_that_are_not_read_are_named(tmp_path, name, content, tool):
    image(tmp_path / "a.png")
    write(tmp_path / name, content)
    with pytest.raises(TopworkError, match=rf"is an export of {tool}.*COCO, YOLO or Pascal VOC"):
        load(tmp_path)


def test_masks_of_another_size_and_repeated_boxes_of_coco_are_said(tmp_path):
    image(tmp_path / "a.png", size=(20, 16))
    entry = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}
    content = {"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "x"}]}
    file = write(tmp_path / "a.json", json.dumps({**content, "annotations": [entry, {**entry, "id": 2}]}))
    assert "2 boxes; 1 of them repeat another" in load(file).remarks[0]
    entry = {**entry, "bbox": [], "segmentation": {"size": [5, 5], "counts": [10, 5, 10]}}
    with pytest.raises(DataError, match="annotation 1: its mask is 5 x 5 pixels, its image 20 x 16"):
        load(write(tmp_path / "b.json", json.dumps({**content, "annotations": [entry]})))


def test_layouts_of_tasks_are_listed():
    assert {"coco", "voc", "boxes", "speech-commands"} <= set(PLUGINS.formats)
