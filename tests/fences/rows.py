"""Rows of the built-in tasks that no other test uses, so that nothing but the fences changes them; and rows and
predictions as JSON."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy
from PIL import Image

TEXTS = [
    "the warm sun is over the hill",
    "a cold rain falls on the road",
    "the red fox ran to the green hill",
    "no rain on the road and no sun",
]
PAIRS = [("one house", "ein Haus"), ("two roads", "zwei Wege"), ("one hill", "ein Berg"), ("two foxes", "zwei Wege")]
RATE = 16000


def image(seed: int, size: int = 32) -> Image.Image:
    """A square image, RGB, of stripes that depend on the seed."""
    y, x, channel = numpy.indices((size, size, 3))
    return Image.fromarray(((x * (3 + seed) + y * (7 - seed) + channel * 40 * seed) % 256).astype(numpy.uint8))


def clip(seed: int, seconds: float = 0.15) -> dict[str, Any]:
    """A rising tone whose first frequency depends on the seed, at 16 kHz."""
    time = numpy.arange(round((seconds + 0.05 * seed) * RATE)) / RATE
    tone = 0.3 * numpy.sin(2 * numpy.pi * (310 + 200 * seed + 900 * time) * time)
    return {"array": (tone * 64).round().astype(numpy.float32) / 64, "sampling_rate": RATE}


def segmentation(seed: int) -> dict[str, Any]:
    """An image with a map of three labels and a map of three instances."""
    labels, instances = numpy.zeros((32, 32), numpy.uint8), numpy.zeros((32, 32), numpy.uint8)
    labels[4:16, 4 + seed : 20], instances[4:16, 4 + seed : 20] = 1, 1
    labels[18:30, 8:30], instances[18:30, 8:19], instances[18:30, 19:30] = 2, 2, 3
    return {"image": image(seed), "mask": Image.fromarray(labels), "instances": Image.fromarray(instances)}


def of(task: str) -> list[dict[str, Any]]:
    """Four rows of a task."""
    return [_row(task, index) for index in range(4)]


def _row(task: str, index: int) -> dict[str, Any]:
    text, (source, target) = TEXTS[index], PAIRS[index]
    label = ("good", "bad", "so", "bad")[index]
    words = text.split()
    made: dict[str, Any] = {
        "audio-classification": lambda: {"audio": clip(index), "label": label},
        "automatic-speech-recognition": lambda: {"audio": clip(index), "text": ("do re", "mi", "re", "do mi")[index]},
        "depth-estimation": lambda: {
            "image": image(index),
            "depth": numpy.linspace(1 + index, 6, 32, dtype=numpy.float32)[:, None].repeat(32, 1),
        },
        "fill-mask": lambda: {"text": text.replace("the", "[MASK]", 1), "answer": "the"},
        "image-classification": lambda: {"image": image(index), "label": label},
        "image-segmentation": lambda: segmentation(index),
        "object-detection": lambda: {
            "image": image(index),
            "objects": {
                "bbox": [[4, 6, 12, 10 + index], [16, 16, 12, 14]],
                "category": ["cat", ("dog", "cow")[index % 2]],
            },
        },
        "question-answering": lambda: {
            "question": "where is it ?",
            "context": text,
            "answers": {"text": [words[-1]], "answer_start": [text.rindex(words[-1])]},
        },
        "summarization": lambda: {"document": text, "summary": " ".join(words[:3])},
        "text-classification": lambda: {"text": text, "label": label},
        "text-generation": lambda: {"prompt": source, "completion": f" {target}"},
        "token-classification": lambda: {
            "words": words[:4],
            "tags": ["O", "B-PER", "I-PER", ("O", "B-LOC")[index % 2]],
        },
        "translation": lambda: {"source": source, "target": target},
    }
    return made[task]()


# ---------------------------------------------------------------- JSON


def to_json(value: Any) -> Any:
    """Rows and predictions as JSON: images as PNG, arrays as compressed .npz, both in base64."""
    if isinstance(value, Image.Image):
        file = io.BytesIO()
        value.save(file, "PNG", optimize=True)
        return {"$png": base64.b64encode(file.getvalue()).decode()}
    if isinstance(value, Mapping):
        return {key: to_json(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(entry) for entry in value]
    if isinstance(value, numpy.generic):
        return value.item()
    if hasattr(value, "__array__"):
        file = io.BytesIO()
        numpy.savez_compressed(file, numpy.asarray(value))
        return {"$npz": base64.b64encode(file.getvalue()).decode()}
    return value


def from_json(value: Any) -> Any:
    """The inverse of `to_json`, but for tensors, which come back as arrays."""
    if isinstance(value, list):
        return [from_json(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"$png"}:
        return Image.open(io.BytesIO(base64.b64decode(value["$png"])))
    if value.keys() == {"$npz"}:
        return numpy.load(io.BytesIO(base64.b64decode(value["$npz"])))["arr_0"]
    return {key: from_json(entry) for key, entry in value.items()}
