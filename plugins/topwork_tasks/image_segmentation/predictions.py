"""A prediction of segmentation in the shape of the Hub's pipeline."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork import Json
from topwork_tasks.image_segmentation.metrics import decoded

if TYPE_CHECKING:
    import numpy
    from PIL.Image import Image


class Segmentation(list):
    """`[{"score": float or None, "label": name, "mask": PIL image (L, 0 and 255)}, ...]`.

    Attributes:
        map: int [height, width]: label numbers (semantic), or numbers of segments from 1, 0 for nothing.
        labels, scores: of the segments; of instances all that were found, also those below the threshold.
        rles: run lengths of all instances; empty for the other kinds.
        size: width and height.
    """

    def __init__(
        self,
        entries: Sequence[Mapping[str, Any]],
        numbers: numpy.ndarray,
        labels: Sequence[int] = (),
        scores: Sequence[float] = (),
        rles: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(entries)
        self.map, self.labels, self.scores, self.rles = numbers, list(labels), list(scores), list(rles)
        self.size = (numbers.shape[1], numbers.shape[0])

    def __repr__(self) -> str:
        """Two predictions with the same masks look the same."""
        parts = (
            f"{{'score': {entry['score']!r}, 'label': {entry['label']!r}, 'mask': {_described(entry['mask'])}}}"
            for entry in self
        )
        return f"[{', '.join(parts)}]"

    def __reduce__(self) -> tuple:
        return Segmentation, (list(self), self.map, self.labels, self.scores, self.rles)


def _described(mask: Image) -> str:
    return f"<L {mask.width}x{mask.height} {zlib.crc32(mask.tobytes()):08x}>"


def semantic(numbers: numpy.ndarray, names: Sequence[str]) -> Segmentation:
    """One mask for each label that occurs, by number; no scores."""
    import numpy

    entries = [
        {"score": None, "label": names[label], "mask": _mask(numbers == label)} for label in numpy.unique(numbers)
    ]
    return Segmentation(entries, numbers)


def panoptic(
    numbers: numpy.ndarray, labels: Sequence[int], scores: Sequence[float], names: Sequence[str]
) -> Segmentation:
    """One mask for each segment."""
    entries = [
        {"score": score, "label": names[label], "mask": _mask(numbers == place)}
        for place, (label, score) in enumerate(zip(labels, scores), 1)
    ]
    return Segmentation(entries, numbers, labels, scores)


def instances(
    labels: Sequence[int],
    scores: Sequence[float],
    rles: Sequence[dict[str, Any]],
    size: tuple[int, int],
    names: Sequence[str],
    threshold: float,
) -> Segmentation:
    """One mask for each instance that scores at least the threshold; later ones lie over earlier ones."""
    import numpy

    numbers = numpy.zeros((size[1], size[0]), numpy.int16)
    shown = [place for place, score in enumerate(scores) if score >= threshold]
    for number, place in enumerate(shown, 1):
        numbers[decoded(rles[place])] = number
    entries = [
        {"score": scores[place], "label": names[labels[place]], "mask": _mask(numbers == number)}
        for number, place in enumerate(shown, 1)
    ]
    return Segmentation(entries, numbers, labels, scores, rles)


def _mask(place: numpy.ndarray) -> Image:
    from PIL import Image

    return Image.fromarray(place.astype("uint8") * 255)


def written(prediction: Sequence[Mapping[str, Any]], folder: Path, name: str) -> Json:
    """Each mask as a PNG file; the prediction names them."""
    entries = []
    for number, entry in enumerate(prediction):
        file = f"{name}-{number:03d}.png"
        entry["mask"].save(Path(folder) / file)
        entries.append({"score": entry["score"], "label": entry["label"], "mask": file})
    return entries
