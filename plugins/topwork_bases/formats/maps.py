"""Layouts of images beside masks or depth maps: pairs by name, tables of colours, depth in a known scale."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topwork import DataError, Table, UsageError, split_named
from topwork_bases.formats.folders import IMAGES, MAPS, file_cell, files_by_stem
from topwork_bases.formats.layout import Layout, table_of
from topwork_bases.formats.texts import numbered_lines
from topwork_bases.formats.yolo import find_yolo
from topwork_bases.rows.walking import files_below

#: names of folders, in lower case
_INPUTS = ("images", "image", "imgs", "img", "rgb", "jpegimages", "leftimg8bit", "701_stillsraw_full")
_TARGETS = {
    "mask": (
        "masks",
        "mask",
        "annotations",
        "labels",
        "label",
        "labelstr",
        "segmentation",
        "segmentationclass",
        "gtfine",
        "labeledapproved_full",
    ),
    "depth": ("depth", "depths", "depth_map", "depth_maps", "groundtruth_depth"),
}
#: what stands behind the name of an image in the name of its map
_ENDINGS = (
    "",
    "_mask",
    "_L",
    "_P",
    "_gtFine_labelIds",
    "_depth",
    "-mask",
    "_seg",
    "_label",
    "_labels",
    "_gt",
    "-depth",
)
#: what stands behind the name of a split's folder in that of its masks
_BESIDE = ("_labels", "_masks", "_mask", "_annotations", "annot")
#: (in the name of an image, in that of its map)
_RENAMED = (
    ("_leftImg8bit", "_gtFine_labelIds"),
    ("_sync_image_", "_sync_groundtruth_depth_"),
    ("rgb", "depth"),
    ("_colors", "_depth"),
    ("_color", "_depth"),
    *((image, target) for image in ("image", "img") for target in ("mask", "label", "depth")),
)
#: suffixes of files that are no maps, though their folder is called so
_NO_MAPS = frozenset({".npz", ".pfm", ".mat", ".h5", ".hdf5", ".pkl", ".dpt", ".pgm", ".ppm", ".nii", ".dcm"})
#: files that say which colour of a mask has which name: CamVid's, those of Kaggle, and CVAT's
_COLOUR_TABLES = ("class_dict.csv", "label_colors.txt", "labelmap.txt", "label_colors.csv")
#: seconds between an image and a depth map of TUM's, as its own script takes them
_SAME_MOMENT = 0.02
#: divisors that make metres of depth
_TUM, _KITTI = 5000.0, 256.0


@dataclass(frozen=True)
class Pair:
    """Two folders with files of the same names.

    Args:
        images: folder of the images.
        maps: folder of their masks or depth maps.
        split: that the name of the folders tells; None where folders inside of them may tell it.
    """

    images: Path
    maps: Path
    split: str | None = None


def find_pairs(path: Path, target: str) -> list[Pair]:
    """Return the folders of images and of their maps inside a folder.

    They are images/ and masks/; these two inside of train/ and val/; or train/ and train_labels/, val/ and val_labels/.
    """
    if not path.is_dir():
        return []
    folders = [entry for entry in sorted(path.iterdir()) if entry.is_dir()]
    direct = _inside(path, target, None)
    if direct is not None:
        return [direct]
    splits = [(folder, split) for folder in folders if (split := split_named(folder.name))]
    nested = [pair for folder, split in splits if (pair := _inside(folder, target, split))]
    if nested or target != "mask":
        return nested
    return [
        Pair(folder, maps, split)
        for folder, split in splits
        for ending in _BESIDE
        if (maps := path / (folder.name + ending)).is_dir() and _has_maps(maps)
    ]


def _inside(folder: Path, target: str, split: str | None) -> Pair | None:
    folders = {entry.name.lower(): entry for entry in sorted(folder.iterdir(), reverse=True) if entry.is_dir()}
    images = next((folders[name] for name in _INPUTS if name in folders), None)
    maps = next((folders[name] for name in _TARGETS[target] if name in folders and _has_maps(folders[name])), None)
    return Pair(images, maps, split) if images is not None and maps is not None else None


def _has_maps(folder: Path) -> bool:
    return any(file.suffix.lower() in MAPS | _NO_MAPS for file in files_below(folder))


def _split_of(key: str) -> str:
    return (split_named(key.split("/")[0]) if "/" in key else None) or "train"


def read_maps(path: Path, target: str) -> dict[str, Table]:
    """Read images and their maps, files of the same name in two folders.

    Args:
        path: a folder with both.
        target: "mask" or "depth", the column of the maps.

    Returns:
        Tables with `image` and the target; where a file beside the folders names the masks' colours with
        `colour_table`, where the scale of depth is known with `depth_scale`.

    Raises:
        UsageError: there are no such folders.
        DataError: an image without a map.
    """
    pairs = find_pairs(path, target)
    if not pairs:
        raise UsageError(f"`{path}` has no folders of images and of {target}s", hint=f"name them images and {target}s")
    by_split: dict[str, list[tuple[Path, Path]]] = {}
    for pair in pairs:
        for split, entries in _matched(path, target, pair).items():
            by_split.setdefault(split, []).extend(entries)
    extra, remark = _facts(path, target, pairs[0].maps)
    names = f"{pairs[0].images.relative_to(path)}/ and {pairs[0].maps.relative_to(path)}/"
    return {
        split: table_of(
            [(None, {"image": file_cell(image), target: file_cell(partner), **extra}) for image, partner in entries],
            [image for image, _ in entries],
            f"{path}: read as {names}: {len(entries):,} images ({split}){remark}",
        )
        for split, entries in by_split.items()
    }


def _matched(path: Path, target: str, pair: Pair) -> dict[str, list[tuple[Path, Path]]]:
    """Return images with their maps by split."""
    images, maps = files_by_stem(pair.images, IMAGES), files_by_stem(pair.maps, MAPS)
    if target == "depth" and (together := _same_moments(path, images.values(), maps.values())):
        return {"train": together}
    if not maps:
        kinds = ", ".join(sorted({file.suffix.lower() for file in files_below(pair.maps)}))
        raise DataError(
            f"{pair.maps}: holds {kinds} files, which are not read as {target}s",
            hint=f"store each {target} as {'PNG' if target == 'mask' else 'PNG of 16 bits, .npy or .exr'}",
        )
    matched: dict[str, list[tuple[Path, Path]]] = {}
    lonely: list[Path] = []
    for split, key in _keys_by_split(path, target, pair, images):
        partner = _partner(key, maps)
        if key not in images:
            raise DataError(f"{path}: the list of {split} names `{key}`, which is not in {pair.images}")
        if partner is None:
            lonely.append(images[key])
        else:
            matched.setdefault(split, []).append((images[key], partner))
    if lonely:
        raise DataError(
            f"{lonely[0]}: has no {target} in {pair.maps} ({len(lonely)} of {len(images)} images have none)",
            hint=f"give each image a {target} of the same name",
        )
    return matched


def _keys_by_split(path: Path, target: str, pair: Pair, images: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    """Yield (split, name without suffix) of images: as lists of VOC name them, else by the folders of splits."""
    lists = path / "ImageSets" / "Segmentation"
    if target == "mask" and lists.is_dir():
        for file in sorted(lists.glob("*.txt")):
            for _, line in numbered_lines(file):
                if line.strip():
                    yield split_named(file.stem) or file.stem, line.split()[0]
        return
    for key in images:
        yield pair.split or _split_of(key), key


def _partner(key: str, maps: Mapping[str, Path]) -> Path | None:
    """Return the map of an image: of the same name, or of a usual variant of it."""
    folder, _, stem = key.rpartition("/")
    stems = [stem + ending for ending in _ENDINGS]
    stems += [stem.replace(*pair) for pair in _RENAMED if pair[0] in stem]
    keys = (f"{folder}/{name}" if folder else name for name in stems)
    return next((maps[name] for name in keys if name in maps), None)


def _facts(path: Path, target: str, maps: Path) -> tuple[dict[str, Any], str]:
    """Return columns that hold for every row of a data set, and what to say of them."""
    if target == "mask":
        for folder in (path, maps, path.parent):
            table = next((file for name in _COLOUR_TABLES if (file := folder / name).is_file()), None)
            if table is not None:
                return {"colour_table": str(table.resolve())}, f"; colours of the masks as {table.name} names them"
        return {}, ""
    scale, source = None, ""
    if any((path / name).is_file() for name in ("depth.txt", "associations.txt", "associate.txt")):
        scale, source = _TUM, "TUM RGB-D"
    elif maps.name == "groundtruth_depth" or "proj_depth" in maps.parts:
        scale, source = _KITTI, "KITTI"
    if scale is None:
        return {}, ""
    return {"depth_scale": scale}, f"; depth in 1/{scale:g} m, as {source} has it"


# ---------------------------------------------------------------- images and depth by time stamps


def _same_moments(path: Path, images: Iterable[Path], maps: Iterable[Path]) -> list[tuple[Path, Path]]:
    """Return pairs of TUM's recordings, whose names are time stamps; none where rgb.txt and depth.txt are not there.

    An image with no depth map within 0.02 s is left out, as by the script that comes with the data (Sturm et al. 2012,
    A Benchmark for the Evaluation of RGB-D SLAM Systems).
    """
    if not all((path / name).is_file() for name in ("rgb.txt", "depth.txt")):
        return []
    known_images, known_maps = {file.resolve() for file in images}, {file.resolve() for file in maps}
    images_at, maps_at = (_time_stamps(path / name, path) for name in ("rgb.txt", "depth.txt"))
    candidates = sorted(
        (abs(moment - map_moment), image, depth)
        for moment, image in images_at
        for map_moment, depth in _near(moment, maps_at)
        if image in known_images and depth in known_maps
    )
    pairs: dict[Path, Path] = {}
    taken: set[Path] = set()
    for _, image, depth in candidates:
        if image not in pairs and depth not in taken:
            pairs[image] = depth
            taken.add(depth)
    return sorted(pairs.items())


def _near(moment: float, entries: list[tuple[float, Path]]) -> list[tuple[float, Path]]:
    first = bisect_left(entries, (moment - _SAME_MOMENT, Path()))
    near = []
    for entry in entries[first:]:
        if entry[0] > moment + _SAME_MOMENT:
            break
        near.append(entry)
    return near


def _time_stamps(file: Path, folder: Path) -> list[tuple[float, Path]]:
    """Return moments and files of a list, in order."""
    entries = []
    for number, line in numbered_lines(file):
        if not line.strip() or line.startswith("#"):
            continue
        moment, _, name = line.strip().partition(" ")
        try:
            entries.append((float(moment), (folder / name.strip()).resolve()))
        except ValueError:
            raise DataError(f"{file}:{number}: `{moment}` is no time stamp", hint="write: seconds file") from None
    return sorted(entries)


LAYOUTS = (
    Layout(
        "images-masks",
        lambda path: bool(find_pairs(path, "mask")) and find_yolo(path) is None,
        lambda path, options: read_maps(path, "mask"),
    ),
    Layout(
        "images-depth",
        lambda path: bool(find_pairs(path, "depth")),
        lambda path, options: read_maps(path, "depth"),
    ),
)
