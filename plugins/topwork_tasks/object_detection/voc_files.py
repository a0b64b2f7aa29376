"""Pascal VOC folders as rows (`format: voc`): Annotations/*.xml, JPEGImages/, ImageSets/Main/<split>.txt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from topwork import DataError, Origin, Table, UsageError, listed, nearest
from topwork_tasks.object_detection.annotation_files import annotation_folder, named_image, xml_images
from topwork_tasks.object_detection.coco_files import detection_rows

if TYPE_CHECKING:
    from topwork import RowsOptions

_OPTIONS = ("images", "difficult")


def voc_rows(source: str, options: RowsOptions) -> Table:
    """Return the rows of a Pascal VOC folder, or of its Annotations.

    They have image, image_id (an index), and objects {bbox, category, area, iscrowd}.

    `split` is a list in ImageSets/Main (without one: every annotation). The development kit counts pixels from 1 and
    includes the last one (Everingham et al. 2010): xmin 1, xmax 10 is 10 pixels wide. `difficult` objects count
    neither as right nor as wrong, as VOC has it; `options: {difficult: use}` makes them ordinary ones, and
    `options: {images: folder}` names the folder of the images if it is not JPEGImages.

    Raises:
        UsageError: no such folder, split or option. DataError: a file that is no annotation, or a missing image.
    """
    import numpy as np

    annotations = annotation_folder(Path(source).expanduser())
    if annotations is None:
        raise UsageError(
            f"`{source}` has no folder Annotations with XML files", hint="`format: voc` reads a folder of Pascal VOC"
        )
    if unknown := sorted(set(options.options) - set(_OPTIONS)):
        raise UsageError(f"`{unknown[0]}` is no option of `format: voc`{nearest(unknown[0], _OPTIONS)}", place=source)
    images = xml_images(annotations, options.options.get("images"))
    use = options.options.get("difficult", "ignore") == "use"
    pairs = [_read(annotations / f"{name}.xml", images, name, use) for name in _names(annotations, options)]
    names = sorted({category for _, objects in pairs for category in objects["category"]})
    indices = {name: index for index, name in enumerate(names)}
    sizes = [objects.pop("size") for _, objects in pairs]
    for _, objects in pairs:
        objects["category"] = [indices[name] for name in objects["category"]]
    files = [str(file) for file, _ in pairs]
    rows = detection_rows(files, list(range(len(files))), [objects for _, objects in pairs], sizes, names)
    count = sum(len(objects["category"]) for _, objects in pairs)
    masks = "; `format: images-masks` reads its masks" if (annotations.parent / "SegmentationClass").is_dir() else ""
    remark = f"{source}: read as Pascal VOC: {len(rows):,} images, {len(names)} classes, {count:,} boxes{masks}"
    return Table(rows, Origin(tuple(files), np.arange(len(files)), np.zeros(len(files), np.int64)), remarks=[remark])


def _names(annotations: Path, options: RowsOptions) -> list[str]:
    """Return the names of the images of a split, without suffix."""
    lists = annotations.parent / "ImageSets" / "Main"
    if options.split is None or (options.split == "train" and not lists.is_dir()):
        return sorted(path.stem for path in annotations.glob("*.xml"))
    file = lists / f"{options.split}.txt"
    if not file.is_file():
        known = sorted(path.stem for path in lists.glob("*.txt"))
        raise UsageError(
            f"there is no split `{options.split}` in {lists}{nearest(options.split, known)}",
            hint=f"there are {listed(known)}",
        )
    # the lists of one class have a second column: 1, 0 or -1
    return [line.split()[0] for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]


def _read(file: Path, images: Path, name: str, use_difficult: bool) -> tuple[Path, dict[str, Any]]:
    """Return the image of an annotation and its objects; categories by name. `size` is what it declares, else None."""
    objects: dict[str, Any] = {"bbox": [], "category": [], "area": [], "iscrowd": []}
    try:
        root = ElementTree.parse(file).getroot()
        if root.tag != "annotation":
            tool = "an export of CVAT" if root.tag == "annotations" else f"a file of `{root.tag}`"
            raise DataError(
                f"{file}: is {tool}, no annotation of Pascal VOC", hint="export as COCO, YOLO or Pascal VOC"
            )
        written = (root.findtext("filename") or "").strip()
        image = named_image(images, written or name)
        image = image if image.is_file() else named_image(images, name)
        width, height = (int(float(root.findtext(f"size/{side}") or 0)) for side in ("width", "height"))
        objects["size"] = (width, height) if width > 0 and height > 0 else None
        for element in root.findall("object"):
            corners = [float(element.findtext(f"bndbox/{side}") or "") for side in ("xmin", "ymin", "xmax", "ymax")]
            left, top, right, bottom = corners[0] - 1, corners[1] - 1, corners[2], corners[3]
            category = (element.findtext("name") or "").strip()
            if not category:
                raise ValueError("an object has no name")
            objects["bbox"].append([left, top, right - left, bottom - top])
            objects["category"].append(category)
            objects["area"].append((right - left) * (bottom - top))
            difficult = (element.findtext("difficult") or "0").strip() == "1"
            objects["iscrowd"].append(int(difficult and not use_difficult))
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise DataError(
            f"{file}: is no annotation of Pascal VOC ({error})", hint="it needs objects with a name and a bndbox"
        ) from error
    if not image.is_file():
        missing = images / (written or name)
        raise DataError(f"{file}: the image {missing} is missing", hint="set `options: {images: folder}`")
    return image, objects
