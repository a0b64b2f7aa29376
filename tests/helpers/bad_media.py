"""Faults of pictures, sound, masks, depth maps and objects, by the name of the column."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy
from audio_models import clip, encoded
from bad_input import Cells, Fault, Form, Row, named
from dense_models import MASK2FORMER
from PIL import Image

from topwork import Task

NAN = float("nan")


# ---------------------------------------------------------------- pictures


def _png(image: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, "png")
    return target.getvalue()


def pictures(task: type[Task], column: str, form: Form) -> Iterator[Fault]:
    values: dict[str, Any] = {"a number": 3, "no such file": "/nowhere/1.png", "no image": {"bytes": b"no image"}}
    values |= {"neither bytes nor a path": {"bytes": None, "path": None}, "cut short": lambda row: _half(row[column])}
    values |= {
        "of no pixels": numpy.zeros((0, 4, 3), numpy.uint8),
        "of floats": numpy.zeros((32, 32, 3), numpy.float32),
    }
    yield from named(column, values)
    for name, mode in {"grey": "L", "palette": "P", "transparent": "RGBA", "CMYK": "CMYK"}.items():
        yield from named(column, {name: lambda row, mode=mode: _in_mode(row[column], mode)})
    values = {
        "16-bit": lambda row: _in_mode(row[column], "I;16"),
        "of channels first": numpy.zeros((3, 32, 40), numpy.uint8),
    }
    yield from named(column, values)
    wide = replace(form, name="range", options={**form.options, "pixel_range": [0, 65535]})
    yield from named(column, {"16-bit with `pixel_range`": lambda row: _in_mode(row[column], "I;16")}, wide)
    if "label" in task.columns:
        yield from named(column, {"turned by EXIF": lambda row: _turned(row[column])})
    yield from named(
        column, {"of one pixel": lambda row: _cut(row, (1, 1)), "very wide": lambda row: _cut(row, (300, 3))}
    )


def _half(image: Any) -> dict[str, Any]:
    noise = numpy.random.default_rng(0).integers(0, 255, (*image.size[::-1], 3), dtype=numpy.uint8)
    whole = _png(Image.fromarray(noise))
    return {"bytes": whole[: len(whole) // 2], "path": None}


def _in_mode(image: Any, mode: str) -> Any:
    if mode == "I;16":
        return Image.fromarray(numpy.asarray(image.convert("L")).astype(numpy.uint16) * 257)
    return image.convert(mode)


def _turned(image: Any) -> dict[str, Any]:
    exif = Image.Exif()
    exif[0x0112] = 6
    target = io.BytesIO()
    image.save(target, "jpeg", exif=exif)
    return {"bytes": target.getvalue(), "path": None}


def _cut(row: Row, size: tuple[int, int]) -> Cells:
    """Everything that lies on the picture, in another size."""
    made = Cells(image=row["image"].resize(size))
    for name in ("mask", "instances"):
        if name in row:
            made[name] = row[name].resize(size, Image.Resampling.NEAREST)
    if "depth" in row:
        made["depth"] = numpy.full(size[::-1], 3.0, numpy.float32)
    if "objects" in row:
        made["objects"] = {"bbox": [], "category": []}
    return made


def annotated_sizes(task: type[Task], column: str, form: Form) -> Iterator[Fault]:
    yield from named(
        column, {"of another image": [7, 9], "a text": "wide", "a number": 3, "a list of texts": ["a", "b"]}
    )


# ---------------------------------------------------------------- sound


def sounds(task: type[Task], column: str, form: Form) -> Iterator[Fault]:
    def array(samples: Any, rate: Any = 16000) -> dict[str, Any]:
        return {"array": samples, "sampling_rate": rate}

    noise, bad = clip(0.4), clip(0.4)
    bad[100] = NAN
    whole = encoded(noise, 16000, "FLAC")
    values: dict[str, Any] = {
        "a number": 3,
        "no such file": "/nowhere/1.wav",
        "no sound": {"bytes": b"no sound at all"},
    }
    values |= {
        "neither bytes nor a path": {"bytes": None, "path": None},
        "cut short": {"bytes": whole[: len(whole) // 2]},
    }
    wav, mp3 = encoded(noise, 16000), encoded(noise, 16000, "MP3")
    values |= {
        "a WAV cut short": {"bytes": wav[: len(wav) // 2]},
        "an MP3 cut short": {"bytes": mp3[: len(mp3) // 2]},
        "of no samples": array(noise[:0]),
        "a file of no samples": {"bytes": encoded(noise[:0], 16000)},
    }
    values |= {"NaN in it": array(bad), "a sampling rate of 0": array(noise, 0), "no sampling rate": array(noise, None)}
    values |= {"a sampling rate of NaN": array(noise, NAN), "of three dimensions": array(noise[None, None])}
    values |= {"an array of texts": array(["a", "b"]), "shorter than the model": array(noise[:20])}
    yield from named(column, values)
    stereo = numpy.stack([noise, noise / 2], axis=1)
    values = {"another sampling rate": array(clip(0.4, 22050), 22050), "stereo": {"bytes": encoded(stereo, 16000)}}
    values |= {"of integers": array((noise * 32767).astype(numpy.int16)), "silence": array(noise * 0)}
    yield from named(column, values)
    short = Form("short", options={"max_seconds": 1.0})
    yield from named(column, {"longer than `max_seconds`": array(clip(2.5))}, short)


# ---------------------------------------------------------------- depth


def depths(task: type[Task], column: str, form: Form) -> Iterator[Fault]:
    def with_some(value: float) -> Any:
        def made(row: Row) -> Any:
            depth = row["depth"].copy()
            depth[:4] = value
            return depth

        return made

    values: dict[str, Any] = {"another size": numpy.ones((9, 7)), "a colour image": lambda row: row["image"]}
    values |= {"no map": {"bytes": b"no map"}, "no such file": "/nowhere/1.png", "a number": 3, "texts": [["a"]]}
    values |= {"cut short": lambda row: _half(row["image"]), "no such array": "/nowhere/1.npy"}
    values |= {"without a valid pixel": lambda row: row["depth"] * NAN, "NaN in it": with_some(NAN)}
    values |= {"infinite in it": with_some(float("inf")), "negative in it": with_some(-2.0)}
    values |= {"of integers": lambda row: numpy.nan_to_num(row["depth"]).astype(numpy.uint16)}
    yield from named(column, {**values, "0 in it": with_some(0.0)})


# ---------------------------------------------------------------- masks and instances


def masks(task: type[Task], column: str, form: Form) -> Iterator[Fault]:
    def array(row: Row) -> Any:
        return numpy.array(row[column])

    values: dict[str, Any] = {"another size": numpy.ones((9, 7), numpy.uint8), "no map": {"bytes": b"no map"}}
    values |= {"a number": 3, "no such file": "/nowhere/1.png", "cut short": lambda row: _half(row["image"])}
    values |= {"fractions": lambda row: array(row) + 0.5, "NaN in it": lambda row: array(row) * NAN}
    values |= {"texts": [["a"]], "of floats": lambda row: array(row).astype(float)}
    if column == "mask":
        colours = Image.fromarray(numpy.random.default_rng(0).integers(0, 3, (40, 48, 3), dtype=numpy.uint8))
        values |= {"a colour image": colours, "a number that is no label": lambda row: array(row) + 90}
        values |= {"a number below 0": lambda row: array(row).astype(int) - 1, "`ignore_index` in it": _ignored(4)}
        values |= {"`ignore_index` everywhere": _ignored(99), "palette": lambda row: _palette(row[column])}
        values |= {"of booleans": lambda row: array(row) > 0}
    yield from named(column, values, form)


def _ignored(lines: int) -> Any:
    def made(row: Row) -> Any:
        mask = numpy.array(row["mask"])
        mask[:lines] = 255
        return mask

    return made


def _palette(mask: Any) -> Any:
    made = Image.fromarray(numpy.array(mask), "P")
    made.putpalette([255, 255, 255, 200, 30, 30, 30, 200, 30, 30, 30, 200])
    return made


def segmented_objects(task: type[Task], column: str, form: Form) -> Iterator[Fault]:
    square = [4, 4, 20, 4, 20, 20, 4, 20]

    def told(entry: Any, category: Any = "disc", **more: Any) -> dict[str, Any]:
        return {"segmentation": [entry], "category": [category], **more}

    values: dict[str, Any] = {"a polygon of two points": told([[1, 1, 9, 9]]), "an empty polygon": told([])}
    values |= {"run lengths of another size": told({"size": [9, 9], "counts": [81]}), "a text": "disc", "a number": 3}
    values |= {"run lengths that end early": told({"size": [40, 48], "counts": [5]})}
    values |= {"unknown": told([square], "disk"), "None as category": told([square], None), "a list of texts": ["disc"]}
    values |= {"fewer categories": {"segmentation": [[square]], "category": []}, "NaN": told([[NAN, *square[1:]]])}
    values |= {"none": {"segmentation": [], "category": []}, "crowd": told([square], iscrowd=[1])}
    yield from named(column, {**values, "beyond its image": told([[-9, -9, 99, -9, 99, 20, -9, 20]])}, form)


def segments(task: type[Task], column: str, form: Form) -> Iterator[Fault]:
    values: dict[str, Any] = {"unknown": [{"id": 1, "category_id": 99}], "no `id`": [{"category_id": 1}]}
    values |= {"an id that the mask has not": [{"id": 77, "category_id": 1}], "a text": "disc", "a number": 3}
    values |= {"None as category": [{"id": 1, "category_id": None}], "a list of texts": ["disc"]}
    yield from named(column, {**values, "an empty list": []}, form)


def boxes(task: type[Task], column: str, form: Form) -> Iterator[Fault]:
    label = next(name for row in task.example_rows() for name in row["objects"]["category"])

    def told(box: Any, category: Any = label, **more: Any) -> dict[str, Any]:
        return {"bbox": [box], "category": [category], **more}

    values: dict[str, Any] = {
        "a box outside its image": told([500, 500, 9, 9]),
        "a box of no width": told([4, 4, 0, 9]),
    }
    values |= {"a box of negative size": told([20, 20, -9, -9]), "a box with NaN": told([4, NAN, 9, 9])}
    values |= {"a box of three numbers": told([4, 4, 9]), "a box None": told(None), "a box of texts": told(["a"] * 4)}
    values |= {"unknown": told([4, 4, 9, 9], label + "x"), "None as category": told([4, 4, 9, 9], None)}
    values |= {"a float as category": told([4, 4, 9, 9], 1.0), "a list as category": told([4, 4, 9, 9], [label])}
    values |= {
        "an integer as category": told([4, 4, 9, 9], 99),
        "fewer categories": {"bbox": [[4, 4, 9, 9]], "category": []},
    }
    values |= {"no `category`": {"bbox": [[4, 4, 9, 9]]}, "a text": "ring", "a number": 3, "a list of texts": ["ring"]}
    values |= {"no lists": {"bbox": 3, "category": 3}, "an area that is no number": told([4, 4, 9, 9], area=["big"])}
    values |= {"fewer `iscrowd`": {"bbox": [[4, 4, 9, 9]] * 2, "category": [label] * 2, "iscrowd": [0]}}
    yield from named(column, values)
    values = {
        "a box that sticks out": told([-5, 50, 30, 90]),
        "none": {"bbox": [], "category": []},
        "an empty list": [],
    }
    yield from named(column, {**values, "crowd": told([4, 4, 30, 30], iscrowd=[1])})
    drop = Form("drop", options={"bad_boxes": "drop"})
    yield from named(column, {"a bad box with `bad_boxes: drop`": told([500, 500, 9, 9])}, drop)


# ---------------------------------------------------------------- forms of rows


def _as_objects(rows: list[Row]) -> list[Row]:
    square = [4, 4, 20, 4, 20, 20, 4, 20]
    names = ("disc", "square", "bar")
    return [
        {"image": row["image"], "objects": {"segmentation": [[square]], "category": [names[number % 3]]}}
        for number, row in enumerate(rows)
    ]


def _as_segments(rows: list[Row]) -> list[Row]:
    """COCO's panoptic form: each label of the mask is one segment, its id is the label's number and 1."""
    made = []
    for row in rows:
        ids = numpy.array(row["mask"]) + 1
        colours = numpy.stack([ids, ids * 0, ids * 0], axis=-1).astype(numpy.uint8)
        told = [{"id": int(number), "category_id": int(number) - 1} for number in numpy.unique(ids)]
        made.append({"image": row["image"], "mask": Image.fromarray(colours), "segments_info": told})
    return made


def _as_instances(rows: list[Row]) -> list[Row]:
    return [row for row in rows if numpy.array(row["instances"]).any()]


_UNIVERSAL = {"config": MASK2FORMER}
FORMS = {
    ("image-segmentation", "instances"): Form("instances", _as_instances, {"kind": "instance"}, _UNIVERSAL),
    ("image-segmentation", "objects"): Form("objects", _as_objects, {"kind": "instance"}, _UNIVERSAL),
    ("image-segmentation", "segments_info"): Form("segments", _as_segments, {"kind": "panoptic"}, _UNIVERSAL),
}
FAULTS = {
    "image": pictures,
    "annotated_size": annotated_sizes,
    "audio": sounds,
    "depth": depths,
    "mask": masks,
    "instances": masks,
    "segments_info": segments,
}
#: columns without which the others are rows of another form, and are read as such
READ_OTHERWISE = {"segments_info"}
