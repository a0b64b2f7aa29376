"""Layouts of images and speech: images beside masks or depth, YOLO, LJSpeech, Common Voice, LibriSpeech, NeMo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from topwork import DataError, Table, UsageError
from topwork_bases.formats.layout import Layout, Located, table_of
from topwork_bases.formats.texts import first_record, located_records, numbered_lines

_IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif"}
_MAPS = _IMAGES | {".npy", ".exr"}
_CLIPS = (".wav", ".flac", ".mp3", ".ogg", ".opus")
_SPLITS = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_INPUTS = ("images", "image", "imgs", "img", "rgb", "JPEGImages")
_TARGETS = {
    "mask": ("masks", "mask", "annotations", "labels", "labelsTr", "segmentation", "SegmentationClass"),
    "depth": ("depth", "depths"),
}


def _file(path: Path) -> dict[str, Any]:
    return {"bytes": None, "path": str(path.resolve())}


# ---------------------------------------------------------------- images beside maps


def _folders(path: Path, target: str) -> tuple[Path, Path] | None:
    """Return the folders of images and of their maps inside a folder."""
    if not path.is_dir():
        return None
    names = {entry.name: entry for entry in path.iterdir() if entry.is_dir()}
    images = next((names[name] for name in _INPUTS if name in names), None)
    maps = next((names[name] for name in _TARGETS[target] if name in names), None)
    return (images, maps) if images is not None and maps is not None and _by_stem(maps, _MAPS) else None


def _by_stem(folder: Path, suffixes: set[str]) -> dict[str, Path]:
    """Return files by their path below the folder, without the suffix."""
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in suffixes and path.is_file() and not path.name.startswith(".")
    }


def _split_of(key: str) -> str:
    first = key.split("/")[0].lower() if "/" in key else "train"
    return _SPLITS.get(first, "train")


def _read_maps(path: Path, target: str) -> dict[str, Table]:
    folders = _folders(path, target)
    if folders is None:
        raise UsageError(f"`{path}` has no folders of images and of {target}s", hint=f"name them images and {target}s")
    images, maps = _by_stem(folders[0], _IMAGES), _by_stem(folders[1], _MAPS)
    pairs = {key: (image, _partner(key, maps)) for key, image in images.items()}
    lonely = [images[key] for key, (_, partner) in pairs.items() if partner is None]
    if lonely:
        raise DataError(
            f"{lonely[0]}: has no {target} in {folders[1]} ({len(lonely)} of {len(images)} images have none)",
            hint=f"give each image a {target} of the same name",
        )
    by_split: dict[str, list[tuple[Path, Path]]] = {}
    for key, (image, partner) in pairs.items():
        if partner is not None:
            by_split.setdefault(_split_of(key), []).append((image, partner))
    return {
        split: table_of(
            [(None, {"image": _file(image), target: _file(partner)}) for image, partner in entries],
            [image for image, _ in entries],
            f"{path}: read as {folders[0].name}/ and {folders[1].name}/: {len(entries)} images ({split})",
        )
        for split, entries in by_split.items()
    }


def _partner(key: str, maps: Mapping[str, Path]) -> Path | None:
    """Return the map of an image: of the same name, or with a usual ending."""
    endings = ("", "_mask", "_L", "_gtFine_labelIds", "_depth", "-mask", "_seg")
    return next((maps[key + ending] for ending in endings if key + ending in maps), None)


# ---------------------------------------------------------------- YOLO


def _yolo(path: Path) -> Path | None:
    if path.is_file():
        return path if path.suffix.lower() in (".yaml", ".yml") and path.name.startswith("data") else None
    return next((file for name in ("data.yaml", "dataset.yaml", "data.yml") if (file := path / name).is_file()), None)


def read_yolo(path: Path, options: Mapping[str, Any]) -> dict[str, Table]:
    """Read `data.yaml`, images, and a text file of boxes (class, centre, size, as shares) for each image."""
    import yaml

    file = _yolo(path)
    if file is None:
        raise UsageError(f"`{path}` has no data.yaml", hint="check the path")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig")) or {}
    except yaml.YAMLError as error:
        raise DataError(f"{file}: no valid YAML: {error}", hint="correct the file") from error
    names = content.get("names")
    names = [names[key] for key in sorted(names)] if isinstance(names, dict) else names
    if not isinstance(names, list) or not names:
        raise DataError(f"{file}: has no `names`", hint="list the classes: `names: [cat, dog]`")
    root = file.parent / str(content.get("path", "."))
    made: dict[str, Table] = {}
    for key, split in (("train", "train"), ("val", "validation"), ("test", "test")):
        if content.get(key):
            folder = next((base for base in (root / content[key], file.parent / content[key]) if base.is_dir()), None)
            if folder is None:
                raise DataError(f"{file}: there is no folder `{content[key]}`", hint="correct the path")
            made[split] = _yolo_split(folder, list(map(str, names)), split)
    return made


def _yolo_split(folder: Path, names: list[str], split: str) -> Table:
    import datasets
    from PIL import Image

    examples: list[Located] = []
    files, count = [], 0
    for image in sorted(_by_stem(folder, _IMAGES).values()):
        parts = [("labels" if part == "images" else part) for part in image.parts]
        labels = Path(*parts).with_suffix(".txt")
        labels = labels if labels.is_file() else image.with_suffix(".txt")
        with Image.open(image) as opened:
            size = opened.size
        boxes, categories = _yolo_boxes(labels, size, names) if labels.is_file() else ([], [])
        count += len(boxes)
        examples.append((None, {"image": _file(image), "objects": {"bbox": boxes, "category": categories}}))
        files.append(image)
    remark = f"{folder}: read as YOLO: {len(examples)} images, {len(names)} classes, {count} boxes ({split})"
    table = table_of(examples, files, remark)
    features = table.rows.features.copy()
    features["objects"] = {
        "bbox": datasets.List(datasets.List(datasets.Value("float32"))),
        "category": datasets.List(datasets.ClassLabel(names=names)),
    }
    table.rows = table.rows.cast(features)
    return table


def _yolo_boxes(file: Path, size: tuple[int, int], names: Sequence[str]) -> tuple[list[list[float]], list[int]]:
    """Return boxes as [left, top, width, height] in pixels, and their classes; polygons become their boxes."""
    boxes, categories = [], []
    for number, line in numbered_lines(file):
        if not line.strip():
            continue
        try:
            category, *values = line.split()
            label, shares = int(category), [float(value) for value in values]
            if not 0 <= label < len(names) or len(shares) < 4 or len(shares) % 2:
                raise ValueError(f"class {label} of {len(names)}, {len(shares)} numbers")
        except ValueError as error:
            raise DataError(
                f"{file}:{number}: no box of YOLO ({error})", hint="write: class x y width height"
            ) from error
        if len(shares) > 4:
            left, right = min(shares[::2]), max(shares[::2])
            top, bottom = min(shares[1::2]), max(shares[1::2])
        else:
            left, right = shares[0] - shares[2] / 2, shares[0] + shares[2] / 2
            top, bottom = shares[1] - shares[3] / 2, shares[1] + shares[3] / 2
        boxes.append([left * size[0], top * size[1], (right - left) * size[0], (bottom - top) * size[1]])
        categories.append(label)
    return boxes, categories


# ---------------------------------------------------------------- speech


def _clip(folder: Path, name: str, file: Path, line: int) -> dict[str, Any]:
    path = next((folder / (name + suffix) for suffix in ("", *_CLIPS) if (folder / (name + suffix)).is_file()), None)
    if path is None:
        raise DataError(
            f"{file}:{line}: names `{name}`, which is not in {folder}", hint="correct the line, or add the clip"
        )
    return _file(path)


def read_ljspeech(path: Path, options: Mapping[str, Any]) -> dict[str, Table]:
    """Read `metadata.csv` (name|text|normalised text) beside `wavs/`: the normalised text where there is one."""
    file = path / "metadata.csv"
    examples: list[Located] = []
    for number, line in numbered_lines(file):
        if line.strip():
            name, *texts = line.split("|")
            if not texts:
                raise DataError(f"{file}:{number}: has no text", hint="write name|text")
            examples.append(
                (number, {"audio": _clip(path / "wavs", name, file, number), "text": texts[-1] or texts[0]})
            )
    return {"train": table_of(examples, file, f"{path}: read as LJSpeech: {len(examples)} clips")}


def _is_ljspeech(path: Path) -> bool:
    file = path / "metadata.csv"
    if not file.is_file() or not (path / "wavs").is_dir():
        return False
    return "|" in next((line for _, line in numbered_lines(file)), "")


def read_common_voice(path: Path, options: Mapping[str, Any]) -> dict[str, Table]:
    """Read Common Voice: `train.tsv`, `dev.tsv`, `test.tsv` (else `validated.tsv`) beside `clips/`."""
    names = {"train": "train", "dev": "validation", "test": "test"}
    files = {split: path / f"{name}.tsv" for name, split in names.items() if (path / f"{name}.tsv").is_file()}
    made = {}
    for split, file in (files or {"train": path / "validated.tsv"}).items():
        lines = list(numbered_lines(file))
        header = lines[0][1].split("\t")
        examples: list[Located] = []
        for number, line in lines[1:]:
            row = dict(zip(header, line.split("\t")))
            extra: dict[str, Any] = {
                name: row[name] for name in ("client_id", "gender", "age", "accents") if name in row
            }
            clip = _clip(path / "clips", row["path"], file, number)
            examples.append((number, {"audio": clip, "text": row["sentence"], **extra}))
        made[split] = table_of(examples, file, f"{file}: read as Common Voice: {len(examples)} clips")
    return made


def _is_common_voice(path: Path) -> bool:
    return (path / "clips").is_dir() and any(
        (path / f"{name}.tsv").is_file() for name in ("train", "dev", "test", "validated")
    )


def read_librispeech(path: Path, options: Mapping[str, Any]) -> dict[str, Table]:
    """Read a tree of LibriSpeech: `speaker/chapter/*.trans.txt` beside the clips."""
    examples: list[Located] = []
    files: list[Path] = []
    for file in sorted(path.rglob("*.trans.txt")):
        for number, line in numbered_lines(file):
            name, _, text = line.partition(" ")
            speaker = name.split("-")[0]
            examples.append(
                (number, {"audio": _clip(file.parent, name, file, number), "text": text, "speaker": speaker})
            )
            files.append(file)
    return {"train": table_of(examples, files, f"{path}: read as LibriSpeech: {len(examples)} clips")}


def read_nemo(path: Path, options: Mapping[str, Any]) -> dict[str, Table]:
    """Read a manifest of NeMo: JSON lines with `audio_filepath` (relative to it) and `text`."""
    examples: list[Located] = []
    for line, record in located_records(path):
        clip = _clip(path.parent, record["audio_filepath"], path, line or 0)
        examples.append((line, {"audio": clip, "text": record.get("text"), "duration": record.get("duration")}))
    return {"train": table_of(examples, path, f"{path}: read as a manifest of NeMo: {len(examples)} clips")}


def _is_nemo(path: Path) -> bool:
    record = first_record(path)
    return isinstance(record, dict) and "audio_filepath" in record


LAYOUTS = (
    Layout(
        "images-masks",
        "images/ beside masks/ (or annotations/), files of the same name: image, mask",
        lambda path: _folders(path, "mask") is not None and _yolo(path) is None,
        lambda path, options: _read_maps(path, "mask"),
    ),
    Layout(
        "images-depth",
        "rgb/ (or images/) beside depth/, files of the same name: image, depth",
        lambda path: _folders(path, "depth") is not None,
        lambda path, options: _read_maps(path, "depth"),
    ),
    Layout(
        "yolo", "data.yaml, images/ and labels/*.txt: image, objects", lambda path: _yolo(path) is not None, read_yolo
    ),
    Layout("ljspeech", "metadata.csv (name|text) beside wavs/: audio, text", _is_ljspeech, read_ljspeech),
    Layout(
        "common-voice", "train.tsv, dev.tsv, test.tsv beside clips/: audio, text", _is_common_voice, read_common_voice
    ),
    Layout(
        "librispeech",
        "speaker/chapter/*.trans.txt beside clips: audio, text, speaker",
        lambda path: path.is_dir() and next(path.glob("**/*.trans.txt"), None) is not None,
        read_librispeech,
    ),
    Layout("nemo", "JSON lines with audio_filepath and text: audio, text", _is_nemo, read_nemo),
)
