"""Pascal VOC folders as rows (`format: voc`): Annotations/*.xml, JPEGImages/, ImageSets/Main/<split>.txt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from topwork import DataError, UsageError, nearest
from topwork_tasks.object_detection.coco_files import detection_rows

if TYPE_CHECKING:
    from topwork import RowsOptions

_OPTIONS = ("images", "difficult")


def voc_rows(source: str, options: RowsOptions) -> Any:
    """Rows of a Pascal VOC folder: image, image_id (a number), objects {bbox, category, area, iscrowd}.

    `split` is a list in ImageSets/Main (without one: every annotation). The development kit counts pixels from 1 and
    means the last one too (Everingham et al. 2010): xmin 1, xmax 10 is 10 pixels wide. `difficult` objects count
    neither as right nor as wrong, as VOC has it; `options: {difficult: use}` makes them ordinary ones, and
    `options: {images: folder}` says where the pictures lie if not in JPEGImages.

    Raises:
        UsageError: no such folder, split or option. DataError: a file that is no annotation, or a missing picture.
    """
    folder = Path(source).expanduser()
    if not (folder / "Annotations").is_dir():
        raise UsageError(
            f"there is no folder `{source}/Annotations`", hint="`format: voc` reads a folder of Pascal VOC"
        )
    if unknown := sorted(set(options.options) - set(_OPTIONS)):
        raise UsageError(f"`{unknown[0]}` is no option of `format: voc`{nearest(unknown[0], _OPTIONS)}", place=source)
    pictures = Path(options.options.get("images", folder / "JPEGImages")).expanduser()
    use = options.options.get("difficult", "ignore") == "use"
    found = [_read(folder / "Annotations" / f"{name}.xml", pictures, name, use) for name in _names(folder, options)]
    names = sorted({category for _, objects in found for category in objects["category"]})
    numbers = {name: number for number, name in enumerate(names)}
    for _, objects in found:
        objects["category"] = [numbers[name] for name in objects["category"]]
    files, objects_found = [str(file) for file, _ in found], [objects for _, objects in found]
    return detection_rows(files, list(range(len(files))), objects_found, names, options)


def _names(folder: Path, options: RowsOptions) -> list[str]:
    """Names of the pictures of a split, without suffix."""
    if options.split is None:
        return sorted(path.stem for path in (folder / "Annotations").glob("*.xml"))
    lists = folder / "ImageSets" / "Main"
    file = lists / f"{options.split}.txt"
    if not file.is_file():
        known = sorted(path.stem for path in lists.glob("*.txt"))
        raise UsageError(
            f"there is no split `{options.split}` in {lists}{nearest(options.split, known)}",
            hint=f"there are {', '.join(known) or 'none'}",
        )
    # the lists of one class have a second column: 1, 0 or -1
    return [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _read(file: Path, pictures: Path, name: str, use_difficult: bool) -> tuple[Path, dict[str, list]]:
    """The picture of an annotation and its objects; categories by name."""
    objects: dict[str, list] = {"bbox": [], "category": [], "area": [], "iscrowd": []}
    try:
        root = ElementTree.parse(file).getroot()
        picture = pictures / root.findtext("filename", f"{name}.jpg")
        for entry in root.findall("object"):
            corners = [float(entry.findtext(f"bndbox/{side}") or "") for side in ("xmin", "ymin", "xmax", "ymax")]
            left, top, right, bottom = corners[0] - 1, corners[1] - 1, corners[2], corners[3]
            category = (entry.findtext("name") or "").strip()
            if not category:
                raise ValueError("an object has no name")
            objects["bbox"].append([left, top, right - left, bottom - top])
            objects["category"].append(category)
            objects["area"].append((right - left) * (bottom - top))
            difficult = (entry.findtext("difficult") or "0").strip() == "1"
            objects["iscrowd"].append(int(difficult and not use_difficult))
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise DataError(
            f"{file}: is no annotation of Pascal VOC ({error})", hint="it needs objects with a name and a bndbox"
        ) from error
    if not picture.is_file():
        raise DataError(f"{file}: the picture {picture} is missing", hint="set `options: {images: folder}`")
    return picture, objects
