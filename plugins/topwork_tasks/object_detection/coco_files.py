"""COCO's annotation files as rows (`format: coco`): boxes with the masks of instances, or panoptic segments.

Categories of a file have any numbers; rows have 0, 1, 2 ... in the order of those numbers, with their names declared.
Masks of instances become run lengths once, on reading: polygons and run lengths do not fit into one column.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork import DataError, UsageError, nearest

if TYPE_CHECKING:
    from topwork import RowsOptions

_OPTIONS = ("images", "masks")
_BEGINS = re.compile(rb'\s*\{\s*"(info|licenses|images|annotations|categories|type)"\s*:')


def format_of(source: str, options: RowsOptions) -> str | None:
    """The format that a recipe names; without one "voc" or "coco" for what can be nothing else: a folder with
    Annotations/*.xml, a JSON file that begins as COCO's do and has their three entries."""
    if options.format is not None:
        return options.format
    path = Path(source).expanduser()
    if any((path / "Annotations").glob("*.xml")):
        return "voc"
    if path.suffix != ".json" or not path.is_file():
        return None
    with path.open("rb") as file:
        if not _BEGINS.match(file.read(256)):
            return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:  # a line for each row, say
        return None
    return "coco" if {"images", "annotations", "categories"} <= set(found) else None


def coco_rows(source: str, options: RowsOptions) -> Any:
    """Rows of a COCO annotation file.

    Of boxes: image, image_id, objects {bbox, category, area, iscrowd}, and `segmentation` (run lengths, None where an
    annotation has no mask) in files that have any. Of a panoptic file, whose annotations name a PNG of ids: image,
    image_id, mask, segments_info [{id, category_id, iscrowd, isthing}].

    The pictures lie beside the file, or where `options: {images: folder}` says; a panoptic file's PNGs in the folder
    that is named as it is, or where `options: {masks: folder}` says.

    Raises:
        DataError: the file is no COCO annotation file, or a picture is missing; names the entry.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        raise UsageError(f"there is no file `{source}`", hint="`format: coco` reads an annotation file")
    if unknown := sorted(set(options.options) - set(_OPTIONS)):
        raise UsageError(f"`{unknown[0]}` is no option of `format: coco`{nearest(unknown[0], _OPTIONS)}", place=source)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        panoptic = any("segments_info" in entry for entry in found["annotations"])
        made = (_panoptic if panoptic else _instances)(path, found, options)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(
            f"{path}: is no COCO annotation file ({type(error).__name__}: {error})",
            hint="it needs images, annotations and categories that name each other",
        ) from error
    return made.to_iterable_dataset() if options.streaming else made


def _pictures(path: Path, found: Mapping[str, Any], options: RowsOptions) -> dict[Any, Path]:
    folder = Path(options.options.get("images", path.parent)).expanduser()
    images = {entry["id"]: folder / entry["file_name"] for entry in found["images"]}
    _present(path, images.values(), "picture", "images")
    return images


def _present(path: Path, files: Any, what: str, option: str) -> None:
    missing = next((str(file) for file in files if not file.is_file()), None)
    if missing is not None:
        raise DataError(f"{path}: the {what} {missing} is missing", hint=f"set `options: {{{option}: folder}}`")


# ---------------------------------------------------------------- boxes and instances


def _instances(path: Path, found: Mapping[str, Any], options: RowsOptions) -> Any:
    categories = sorted(found["categories"], key=lambda entry: entry["id"])
    places = {entry["id"]: place for place, entry in enumerate(categories)}
    images = _pictures(path, found, options)
    masks = any(entry.get("segmentation") for entry in found["annotations"])
    sizes = {entry["id"]: (entry["height"], entry["width"]) for entry in found["images"] if "height" in entry}
    keys = ("bbox", "category", "area", "iscrowd", *(("segmentation",) if masks else ()))
    objects: dict[Any, dict[str, list]] = {image: {key: [] for key in keys} for image in images}
    for entry in found["annotations"]:
        image = entry["image_id"]
        target = objects[image]
        target["bbox"].append([float(value) for value in entry["bbox"]])
        target["category"].append(places[entry["category_id"]])
        target["area"].append(float(entry.get("area", entry["bbox"][2] * entry["bbox"][3])))
        target["iscrowd"].append(int(entry.get("iscrowd", 0)))
        if masks:
            if image not in sizes:
                sizes[image] = _size(images[image])
            target["segmentation"].append(_run_lengths(entry, *sizes[image]))
    names = [str(entry["name"]) for entry in categories]
    files = [str(file) for file in images.values()]
    return _dataset(files, list(images), [objects[image] for image in images], names, masks)


def _size(file: Path) -> tuple[int, int]:
    """Height and width of a picture whose entry does not tell them."""
    from PIL import Image

    with Image.open(file) as image:
        return image.height, image.width


def _run_lengths(entry: Mapping[str, Any], height: int, width: int) -> dict[str, Any] | None:
    """{size, counts} of an annotation's mask; None where it has none (a polygon has three points or more)."""
    from faster_coco_eval.core import mask as coco

    written = entry.get("segmentation")
    if isinstance(written, Mapping):
        size, counts = list(written["size"]), written["counts"]
        if isinstance(counts, list):
            counts = coco.frPyObjects({"size": size, "counts": counts}, size[0], size[1])["counts"]
    else:
        polygons = [[float(value) for value in polygon] for polygon in written or ()]
        if not polygons or not all(len(polygon) >= 6 for polygon in polygons):
            return None
        if not all(value - value == 0 for polygon in polygons for value in polygon):
            # infinite or no number at all: the library that fills polygons would end the process
            raise ValueError(f"annotation {entry.get('id')} has a polygon whose numbers are not finite")
        size = [height, width]
        counts = coco.merge(coco.frPyObjects(polygons, height, width))["counts"]
    return {"size": size, "counts": counts.decode() if isinstance(counts, bytes) else counts}


def detection_rows(
    files: Sequence[str],
    numbers: Sequence[int],
    objects: Sequence[dict[str, list]],
    names: list[str],
    options: RowsOptions,
) -> Any:
    """Rows of pictures on disk with their objects {bbox, category (an integer), area, iscrowd}.

    Args:
        names: what the categories' integers stand for.
    """
    made = _dataset(files, numbers, objects, names, False)
    return made.to_iterable_dataset() if options.streaming else made


def _dataset(
    files: Sequence[str], numbers: Sequence[int], objects: Sequence[dict[str, list]], names: list[str], masks: bool
) -> Any:
    import datasets

    number = datasets.Value("float32")
    inner: dict[str, Any] = {
        "bbox": datasets.List(datasets.List(number, length=4)),
        "category": datasets.List(datasets.ClassLabel(names=names)),
        "area": datasets.List(number),
        "iscrowd": datasets.List(datasets.Value("int8")),
    }
    if masks:
        lengths = {"size": datasets.List(datasets.Value("int64")), "counts": datasets.Value("string")}
        inner["segmentation"] = datasets.List(lengths)
    features = datasets.Features({"image": datasets.Image(), "image_id": datasets.Value("int64"), "objects": inner})
    columns = {"image": list(files), "image_id": list(numbers), "objects": list(objects)}
    return datasets.Dataset.from_dict(columns, features=features)


# ---------------------------------------------------------------- panoptic segments


def _panoptic(path: Path, found: Mapping[str, Any], options: RowsOptions) -> Any:
    import datasets

    categories = sorted(found["categories"], key=lambda entry: entry["id"])
    places = {entry["id"]: place for place, entry in enumerate(categories)}
    things = {entry["id"]: int(entry.get("isthing", 1)) for entry in categories}
    images = _pictures(path, found, options)
    folder = Path(options.options.get("masks", path.with_suffix(""))).expanduser()
    masks = [folder / entry["file_name"] for entry in found["annotations"]]
    _present(path, masks, "map of ids", "masks")
    columns: dict[str, list[Any]] = {
        "image": [str(images[entry["image_id"]]) for entry in found["annotations"]],
        "image_id": [entry["image_id"] for entry in found["annotations"]],
        "mask": [str(file) for file in masks],
        "segments_info": [
            [
                {
                    "id": int(segment["id"]),
                    "category_id": places[segment["category_id"]],
                    "iscrowd": int(segment.get("iscrowd", 0)),
                    "isthing": things[segment["category_id"]],
                }
                for segment in entry["segments_info"]
            ]
            for entry in found["annotations"]
        ],
    }
    small, large = datasets.Value("int8"), datasets.Value("int64")
    names = datasets.ClassLabel(names=[str(entry["name"]) for entry in categories])
    segment = {"id": large, "category_id": names, "iscrowd": small, "isthing": small}
    features = {"image": datasets.Image(), "image_id": large, "mask": datasets.Image()}
    return datasets.Dataset.from_dict(
        columns, features=datasets.Features({**features, "segments_info": datasets.List(segment)})
    )
