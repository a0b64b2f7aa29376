"""COCO: its metric (mean average precision, by faster-coco-eval) and its annotation files as rows.

The metric keeps a few numbers for each box, never a picture.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork import DataError, Json, Metric, Row, UsageError
from topwork_tasks._boxes import Objects

if TYPE_CHECKING:
    from topwork import RowsOptions

#: what `COCOeval.stats` holds, in its order; areas are below 32 x 32, up to 96 x 96, and above, in pixels
_STATS = ("map", "map50", "map75", "map_small", "map_medium", "map_large", "mar1", "mar10", "mar100")
_MOST = 100


class Detections(list):
    """A prediction: `[{"score", "label", "box": {"xmin", "ymin", "xmax", "ymax"}}, ...]`, the boxes above a threshold.

    Attributes:
        scores, labels, boxes: arrays [n], [n] and [n, 4] of all boxes, for the metric; corners in pixels.
        size: width and height of the picture.
    """

    def __init__(
        self, scores: Any, labels: Any, boxes: Any, size: tuple[int, int], names: Sequence[str], threshold: float
    ) -> None:
        self.scores, self.labels, self.boxes, self.size = scores, labels, boxes, size
        corners = ("xmin", "ymin", "xmax", "ymax")
        super().__init__(
            {"score": float(score), "label": names[label], "box": dict(zip(corners, (int(value) for value in box)))}
            for score, label, box in zip(scores, labels, boxes)
            if score > threshold
        )

    def __reduce__(self) -> tuple:
        return _restore, (list(self), self.__dict__)


def _restore(entries: list[Json], attributes: dict[str, Any]) -> Detections:
    made = Detections.__new__(Detections)
    made.extend(entries)
    made.__dict__.update(attributes)
    return made


class CocoMetric(Metric):
    """Mean average precision as COCO defines it (Lin et al. 2014, arXiv 1405.0312; cocoeval of its tools).

    Args:
        names: label names in the order of the model's outputs.
        truth: (row, size) -> the row's objects and their label numbers.

    Keys: map (mean over overlaps .50:.05:.95), map50, map75, map_small, map_medium, map_large, mar100 (mean recall of
    100 boxes a picture); NaN where there is no such object. Table `per_label`: map, map50, objects.
    """

    keys = ("map", "map50", "map75", "map_small", "map_medium", "map_large", "mar100")
    primary = "map"

    def __init__(
        self, names: Sequence[str], truth: Callable[[Row, tuple[int, int]], tuple[Objects, list[int]]]
    ) -> None:
        self.names, self._truth = list(names), truth
        self.found: list[tuple[Any, Any, Any]] = []
        self.truths: list[tuple[Any, Any, Any, Any]] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_truth": None}  # another process merges, it does not update

    def update(self, row: Row, prediction: Detections) -> None:
        import numpy

        objects, labels = self._truth(row, prediction.size)
        self.truths.append(
            (
                objects.boxes.astype(numpy.float32),
                numpy.array(labels, dtype=numpy.int16),
                objects.crowd,
                objects.areas.astype(numpy.float32),
            )
        )
        best = numpy.argsort(-prediction.scores, kind="stable")[:_MOST]
        self.found.append(
            (
                prediction.scores[best].astype(numpy.float32),
                prediction.labels[best].astype(numpy.int16),
                prediction.boxes[best].astype(numpy.float32),
            )
        )

    def merge(self, other: CocoMetric) -> None:
        self.found += other.found
        self.truths += other.truths

    def result(self) -> dict[str, Json]:
        import numpy

        if not any(len(labels) for _, labels, _, _ in self.truths):
            return dict.fromkeys(self.keys, math.nan)
        counts = numpy.zeros(len(self.names), dtype=int)
        for _, labels, _, _ in self.truths:
            numpy.add.at(counts, labels, 1)
        precision, stats = self._evaluate()
        result: dict[str, Json] = {key: stats[key] for key in self.keys}
        result["per_label"] = [
            {
                "label": name,
                "map": _mean(precision[:, :, number, 0, -1]),
                "map50": _mean(precision[0, :, number, 0, -1]),
                "objects": int(counts[number]),
            }
            for number, name in enumerate(self.names)
        ]
        return result

    def _evaluate(self) -> tuple[Any, dict[str, float]]:
        """Precision [overlaps, recalls, labels, sizes, most boxes] and the summary."""
        from faster_coco_eval import COCO, COCOeval_faster

        truth = COCO({"images": self._images(), "annotations": self._annotations(), "categories": self._categories()})
        found = [
            {"image_id": image, "category_id": int(label) + 1, "bbox": _as_coco(box), "score": float(score)}
            for image, entries in enumerate(self.found, 1)
            for score, label, box in zip(*entries)
        ]
        if not found:  # the library refuses an empty list; a box of no overlap and no score changes nothing
            found = [{"image_id": 1, "category_id": 1, "bbox": [-2.0, -2.0, 1.0, 1.0], "score": 0.0}]
        evaluation = COCOeval_faster(truth, truth.loadRes(found), iouType="bbox")
        evaluation.run()
        stats = [float(value) for value in evaluation.stats[: len(_STATS)]]
        return evaluation.eval["precision"], {
            key: value if value >= 0 else math.nan for key, value in zip(_STATS, stats)
        }

    def _images(self) -> list[Json]:
        return [{"id": number, "width": 1, "height": 1} for number in range(1, len(self.truths) + 1)]

    def _categories(self) -> list[Json]:
        return [{"id": number, "name": name} for number, name in enumerate(self.names, 1)]

    def _annotations(self) -> list[Json]:
        annotations: list[Json] = []
        for image, entries in enumerate(self.truths, 1):
            for box, label, crowd, area in zip(*entries):
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image,
                        "category_id": int(label) + 1,
                        "bbox": _as_coco(box),
                        "area": float(area),
                        "iscrowd": int(crowd),
                    }
                )
        return annotations


def _as_coco(box: Any) -> list[float]:
    left, top, right, bottom = (float(value) for value in box)
    return [left, top, right - left, bottom - top]


def _mean(values: Any) -> float:
    """Mean of what is defined; COCO writes -1 where there is no truth."""
    values = values[values > -1]
    return float(values.mean()) if values.size else math.nan


def coco_rows(source: str, options: RowsOptions) -> Any:
    """Rows of a COCO annotation file (`format: coco`): image, image_id, objects {bbox, category, area, iscrowd}.

    The pictures lie beside the file, or where `options: {images: folder}` says.

    Raises:
        DataError: the file is no COCO annotation file, or a picture is missing; names the entry.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        raise UsageError(f"there is no file `{source}`", mend="`format: coco` reads an annotation file")
    folder = Path(options.options.get("images", path.parent)).expanduser()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        categories = sorted(found["categories"], key=lambda entry: entry["id"])
        images = {entry["id"]: folder / entry["file_name"] for entry in found["images"]}
        objects: dict[Any, dict[str, list]] = {
            image: {"bbox": [], "category": [], "area": [], "iscrowd": []} for image in images
        }
        places = {entry["id"]: place for place, entry in enumerate(categories)}
        for entry in found["annotations"]:
            target = objects[entry["image_id"]]
            target["bbox"].append([float(value) for value in entry["bbox"]])
            target["category"].append(places[entry["category_id"]])
            target["area"].append(float(entry.get("area", entry["bbox"][2] * entry["bbox"][3])))
            target["iscrowd"].append(int(entry.get("iscrowd", 0)))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(
            f"{path}: is no COCO annotation file ({type(error).__name__}: {error})",
            mend="it needs images, annotations and categories that name each other",
        ) from error
    missing = [str(file) for file in images.values() if not file.is_file()]
    if missing:
        raise DataError(f"{path}: the picture {missing[0]} is missing", mend="set `options: {images: folder}`")
    names = [str(entry["name"]) for entry in categories]
    files = [str(file) for file in images.values()]
    return detection_rows(files, list(images), [objects[image] for image in images], names, options)


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
    import datasets

    columns = {"image": list(files), "image_id": list(numbers), "objects": list(objects)}
    made = datasets.Dataset.from_dict(columns, features=_coco_features(names))
    return made.to_iterable_dataset() if options.streaming else made


def _coco_features(names: list[str]) -> Any:
    import datasets

    number = datasets.Value("float32")
    return datasets.Features(
        {
            "image": datasets.Image(),
            "image_id": datasets.Value("int64"),
            "objects": {
                "bbox": datasets.List(datasets.List(number, length=4)),
                "category": datasets.List(datasets.ClassLabel(names=names)),
                "area": datasets.List(number),
                "iscrowd": datasets.List(datasets.Value("int8")),
            },
        }
    )
