"""COCO's annotation files as rows (`format: coco`): boxes with the masks of instances, or panoptic segments.

Entry points: `format_of` and `coco_rows`; `detection_rows` also serves Pascal VOC. Ids of a file are names: they are
compared, never computed with. Rows have categories 0, 1, 2 ... in the order of integer ids (else of the file), their
names declared. Masks of instances become run lengths once, on reading: polygons and run lengths do not fit into one
column.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork import DataError, Origin, Table, UsageError, listed, nearest
from topwork_tasks._vision.headers import size_of
from topwork_tasks.object_detection.annotation_files import annotation_folder, coco_files, image_folder, named_image
from topwork_tasks.object_detection.run_lengths import box_of_mask, run_lengths

if TYPE_CHECKING:
    from topwork import RowsOptions

_OPTIONS = ("images", "masks")
_HINT = "it needs images, annotations and categories that name each other"


def format_of(source: str, options: RowsOptions) -> str | None:
    """Return the format that a recipe names; without one "voc" or "coco" for what can be nothing else.

    That is a folder with XML files of Pascal VOC, a JSON file that begins as COCO's do and has their three entries, or
    a folder with such files.
    """
    if options.format is not None:
        return options.format
    path = Path(source).expanduser()
    if annotation_folder(path) is not None:
        return "voc"
    return "coco" if coco_files(path) else None


def coco_rows(source: str, options: RowsOptions) -> dict[str, Table]:
    """Return the rows of COCO's annotation files by split.

    Of boxes: image, image_id, objects {bbox, category, area, iscrowd}, and `segmentation` (run lengths, None where an
    annotation has no mask) in files that have any. Of a panoptic file, whose annotations name a PNG of ids: image,
    image_id, mask, segments_info [{id, category_id, iscrowd, isthing}]. Where the file declares sizes: annotated_size.

    The images lie beside the file, in images/, in a folder named after the split, or in `options: {images: folder}`; a
    panoptic file's PNGs in the folder of the same name, or in `options: {masks: folder}`.

    Args:
        source: an annotation file, or a folder with one for each split.
        options: of the rows.

    Raises:
        UsageError: there is no annotation file, or several of one split.
        DataError: the file is no COCO annotation file, an entry is wrong, or an image is missing; names the entry.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise UsageError(f"there is no file `{source}`", hint="`format: coco` reads an annotation file")
    if unknown := sorted(set(options.options) - set(_OPTIONS)):
        raise UsageError(f"`{unknown[0]}` is no option of `format: coco`{nearest(unknown[0], _OPTIONS)}", place=source)
    files = {"train": path} if path.is_file() else coco_files(path)
    if not files:
        raise UsageError(
            f"`{source}` holds no COCO annotation file", hint="look for annotations/instances_train.json, or name it"
        )
    return {split: _CocoFile(file, options).rows() for split, file in files.items()}


class _CocoFile:
    """Content of an annotation file, checked entry by entry."""

    def __init__(self, path: Path, options: RowsOptions) -> None:
        self.path, self.options = path, options
        try:
            content = json.loads(path.read_text(encoding="utf-8-sig"))
        except ValueError as error:
            raise self.fault(f"is no JSON ({error})") from error
        if not isinstance(content, Mapping):
            raise self.fault("is no COCO annotation file: it holds a list, not an object")
        self.repeated = 0  # annotations with image, box and category of another
        self.annotations = self._entries(content, "annotations", "annotation")
        self.category_indices = self._categories(self._entries(content, "categories", "category"))
        self.images = self._images(self._entries(content, "images", "image"))

    def fault(self, cause: str, hint: str = _HINT) -> DataError:
        return DataError(f"{self.path}: {cause}", hint=hint)

    def _entries(self, content: Mapping[str, Any], key: str, noun: str) -> list[Mapping[str, Any]]:
        if not isinstance(content.get(key), list):
            raise self.fault(f"is no COCO annotation file: it has no list `{key}`")
        for index, record in enumerate(content[key]):
            if not isinstance(record, Mapping):
                raise self.fault(f"{noun} at index {index} is {record!r}, no object")
        return content[key]

    def value(self, record: Mapping[str, Any], key: str, noun: str) -> Any:
        """Return an entry's value, or raise an error that names the entry."""
        if record.get(key) is None:
            named = f"{noun} {record['id']}" if "id" in record else f"{noun} {json.dumps(record)[:80]}"
            raise self.fault(f"{named} has no `{key}`")
        if isinstance(record[key], list | dict):
            raise self.fault(f"{noun} {record.get('id')}: its `{key}` is {str(record[key])[:60]}, no name or number")
        return record[key]

    def _categories(self, entries: list[Mapping[str, Any]]) -> dict[Any, int]:
        """Return the index of each category id, and remember names and things."""
        if all(type(record.get("id")) is int for record in entries):
            entries = sorted(entries, key=lambda record: record["id"])
        indices: dict[Any, int] = {}
        self.names: list[str] = []
        for record in entries:
            identity, name = self.value(record, "id", "category"), str(self.value(record, "name", "category"))
            if identity in indices:
                raise self.fault(f"category {identity} stands twice: {self.names[indices[identity]]}, {name}")
            if name in self.names:
                twin = next(key for key, index in indices.items() if self.names[index] == name)
                raise self.fault(f"categories {twin} and {identity} have one name, `{name}`", "give each its own name")
            indices[identity] = len(indices)
            self.names.append(name)
        if not indices and self.annotations:
            raise self.fault("its list `categories` is empty")
        self.things = {record["id"]: int(record.get("isthing", 1) in (1, True, None)) for record in entries}
        return indices

    def _images(self, entries: list[Mapping[str, Any]]) -> dict[Any, Path]:
        names = [str(self.value(record, "file_name", "image")).replace("\\", "/") for record in entries]
        folder = image_folder(self.path, names, self.options.options.get("images"))
        images: dict[Any, Path] = {}
        ids: dict[Path, Any] = {}
        self.sizes: dict[Any, tuple[int, int] | None] = {}
        for record, name in zip(entries, names):
            identity, file = self.value(record, "id", "image"), named_image(folder, name)
            if images.get(identity, file) != file:
                cause = f"image {identity} stands twice: {images[identity].name} and {file.name}"
                raise self.fault(cause, "give every image an id of its own, and its annotations that `image_id`")
            if ids.setdefault(file, identity) != identity:
                cause = f"the file {file.name} stands twice, as image {ids[file]} and as image {identity}"
                raise self.fault(
                    cause, "name one image for each file, and both files by folder and name if they differ"
                )
            images[identity] = file
            self.sizes[identity] = self._declared_size(record)
        self.present(images.values(), "image", "images")
        return images

    def _declared_size(self, record: Mapping[str, Any]) -> tuple[int, int] | None:
        """Return width and height that an image's entry declares; None without them."""
        try:
            width, height = int(record["width"]), int(record["height"])
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        return (width, height) if width > 0 and height > 0 else None

    def present(self, files: Any, noun: str, option: str) -> None:
        """Raise an error for the first file that does not exist."""
        missing = next((str(file) for file in files if not file.is_file()), None)
        if missing is not None:
            raise self.fault(f"the {noun} {missing} is missing", f"set `options: {{{option}: folder}}`")

    def category(self, record: Mapping[str, Any], noun: str) -> int:
        """Return the index of an entry's category."""
        identity = self.value(record, "category_id", noun)
        if identity not in self.category_indices:
            raise self.fault(
                f"{noun} {record.get('id')}: category {identity!r} is unknown; {_known(self.category_indices)}"
            )
        return self.category_indices[identity]

    def image(self, record: Mapping[str, Any]) -> Any:
        """Return the id of an annotation's image."""
        identity = self.value(record, "image_id", "annotation")
        if identity not in self.images:
            raise self.fault(f"annotation {record.get('id')}: image {identity!r} is unknown; {_known(self.images)}")
        return identity

    def rows(self) -> Table:
        """Return the rows: panoptic segments where annotations have any, else boxes."""
        panoptic = any("segments_info" in record for record in self.annotations)
        rows = self._panoptic() if panoptic else self._instances()
        count = sum(len(record.get("segments_info") or ()) for record in self.annotations)
        things = f"{count:,} segments" if panoptic else f"{len(self.annotations):,} boxes"
        remark = f"{self.path}: read as COCO: {len(rows):,} images, {len(self.names)} categories, {things}"
        remark += f"; {self.repeated:,} of them repeat another" if self.repeated and not panoptic else ""
        return Table(rows, Origin((str(self.path),)), remarks=[remark])

    # ------------------------------------------------------------ boxes and instances

    def _instances(self) -> Any:
        masks = any(record.get("segmentation") for record in self.annotations)
        keys = ("bbox", "category", "area", "iscrowd", *(("segmentation",) if masks else ()))
        objects: dict[Any, dict[str, list]] = {image: {key: [] for key in keys} for image in self.images}
        seen: set[Any] = set()
        for record in self.annotations:
            image = self.image(record)
            target = objects[image]
            box = self._box(record, image)
            same = (image, tuple(box), self.category(record, "annotation"))
            self.repeated += same in seen
            seen.add(same)
            target["bbox"].append(box)
            target["category"].append(self.category(record, "annotation"))
            target["area"].append(_number(record.get("area"), box[2] * box[3]))
            target["iscrowd"].append(int(record.get("iscrowd") in (1, True)))
            if masks:
                target["segmentation"].append(self._segmentation(record, image))
        files = [str(file) for file in self.images.values()]
        sizes = [self.sizes[image] for image in self.images]
        return _dataset(files, list(self.images), [objects[image] for image in self.images], sizes, self.names, masks)

    def _size(self, image: Any) -> tuple[int, int]:
        """Return width and height of an image, from its file where its record does not declare them."""
        size = self.sizes[image] or size_of(str(self.images[image]))
        if size is None:
            raise ValueError(f"image {image} declares no size, and its file cannot be read")
        return size

    def _box(self, record: Mapping[str, Any], image: Any) -> list[float]:
        """Return x, y, width, height of an annotation; of its mask where it has no box."""
        written = record.get("bbox")
        if not written and (mask := record.get("segmentation")):
            rle, (width, height) = self._segmentation(record, image), self._size(image)
            if rle is not None and rle["size"] not in ([], [height, width]):
                cause = f"annotation {record.get('id')}: its mask is {rle['size'][1]} x {rle['size'][0]} pixels"
                raise self.fault(f"{cause}, its image {width} x {height}", "draw it on the image's own frame")
            return box_of_mask(rle, mask)
        try:
            box = [float(value) for value in written or ()]
        except (TypeError, ValueError):
            box = []
        if len(box) != 4:
            cause = f"annotation {record.get('id')}: its bbox is {written!r}, not four numbers"
            raise self.fault(cause, "write [x, y, width, height]")
        return box

    def _segmentation(self, record: Mapping[str, Any], image: Any) -> dict[str, Any] | None:
        """Return {size, counts} of an annotation's mask; None without a mask.

        Without a size the counts are the fault of the mask, for a task that wants it.
        """
        try:
            return run_lengths(record.get("segmentation"), self._size(image))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            return {"size": [], "counts": f"annotation {record.get('id')}: {error}"}

    # ------------------------------------------------------------ panoptic segments

    def _panoptic(self) -> Any:
        import datasets

        folder = Path(self.options.options.get("masks", self.path.with_suffix(""))).expanduser()
        masks = [folder / str(self.value(record, "file_name", "annotation")) for record in self.annotations]
        self.present(masks, "map of ids", "masks")
        images = [self.image(record) for record in self.annotations]
        columns: dict[str, list[Any]] = {
            "image": [str(self.images[image]) for image in images],
            "image_id": _ids(images),
            "mask": [str(file) for file in masks],
            "segments_info": [self._segments(record) for record in self.annotations],
        }
        small, large = datasets.Value("int8"), datasets.Value("int64")
        segment = {
            "id": large,
            "category_id": datasets.ClassLabel(names=self.names),
            "iscrowd": small,
            "isthing": small,
        }
        features = {"image": datasets.Image(), "image_id": _id_feature(columns["image_id"]), "mask": datasets.Image()}
        features["segments_info"] = datasets.List(segment)
        sizes = [self.sizes[image] for image in images]
        if any(sizes):
            columns["annotated_size"] = [list(size) if size else None for size in sizes]
            features["annotated_size"] = datasets.List(datasets.Value("int64"))
        return datasets.Dataset.from_dict(columns, features=datasets.Features(features))

    def _segments(self, record: Mapping[str, Any]) -> list[dict[str, int]]:
        segments = record.get("segments_info")
        if not isinstance(segments, list) or not all(isinstance(segment, Mapping) for segment in segments):
            raise self.fault(f"annotation of image {record.get('image_id')} has no list `segments_info`")
        made = []
        for segment in segments:
            identity = self.value(segment, "id", "segment")
            if not isinstance(identity, int):
                raise self.fault(f"segment {identity!r}: its id is no integer, so no colour of the map has it")
            category = self.category(segment, "segment")
            crowd = int(segment.get("iscrowd") in (1, True))
            thing = self.things[segment["category_id"]]
            made.append({"id": identity, "category_id": category, "iscrowd": crowd, "isthing": thing})
        return made


def _known(names: Mapping[Any, Any]) -> str:
    return f"known: {listed(names)}"


def _number(value: Any, default: float) -> float:
    """Return a value as a finite number, else the default."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return default
    return number if math.isfinite(number) else default


# ---------------------------------------------------------------- data sets


def detection_rows(
    files: Sequence[str],
    ids: Sequence[int],
    objects: Sequence[dict[str, list]],
    sizes: Sequence[tuple[int, int] | None],
    names: list[str],
) -> Any:
    """Return a data set of images on disk with their objects {bbox, category (an integer), area, iscrowd}.

    Args:
        files: of the images.
        ids: of the images.
        objects: columns of each image's objects.
        sizes: widths and heights that the annotations declare.
        names: names of the categories' integers.
    """
    return _dataset(files, ids, objects, sizes, names, False)


def _dataset(
    files: Sequence[str],
    ids: Sequence[Any],
    objects: Sequence[dict[str, list]],
    sizes: Sequence[tuple[int, int] | None],
    names: list[str],
    masks: bool,
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
    columns: dict[str, list[Any]] = {"image": list(files), "image_id": _ids(ids), "objects": list(objects)}
    features = {"image": datasets.Image(), "image_id": _id_feature(columns["image_id"]), "objects": inner}
    if any(sizes):
        columns["annotated_size"] = [list(size) if size else None for size in sizes]
        features["annotated_size"] = datasets.List(datasets.Value("int64"))
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def _ids(ids: Sequence[Any]) -> list[Any]:
    """Return ids as integers where all are, else as strings."""
    whole = all(type(identity) is int and abs(identity) < 2**63 for identity in ids)
    return list(ids) if whole else [str(identity) for identity in ids]


def _id_feature(ids: Sequence[Any]) -> Any:
    import datasets

    return datasets.Value("string" if any(isinstance(identity, str) for identity in ids) else "int64")
