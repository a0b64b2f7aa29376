"""What is particular to detectors: label names, padding, what outputs mean, and the size of the generic task head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, model_validator

from topwork import Base, Batch, DataError, Item, Row, TopworkError
from topwork_tasks._classification.labels import check_alike
from topwork_tasks._vision import boxes as _boxes
from topwork_tasks.object_detection.processors import MOST


class DetrHeadOptions(BaseModel):
    """Size of DETR's transformer on a backbone that has no detector of its own; as large as in the paper by default."""

    model_config = ConfigDict(extra="forbid")

    queries: PositiveInt = Field(100, description="most objects that can be found in a picture")
    encoder_layers: NonNegativeInt = 6
    decoder_layers: PositiveInt = 6
    width: PositiveInt = Field(256, description="of the transformer's vectors: a multiple of 4 and of attention_heads")
    attention_heads: PositiveInt = 8
    feed_forward: PositiveInt = Field(2048, description="width inside the layers")
    dropout: float = Field(0.1, ge=0, lt=1)
    auxiliary_loss: bool = Field(True, description="every decoder layer is taught, not only the last")

    @model_validator(mode="after")
    def _divides(self) -> DetrHeadOptions:
        if self.width % 4 or self.width % self.attention_heads:
            raise ValueError(f"width {self.width} is no multiple of 4 and of {self.attention_heads} attention heads")
        return self


# ---------------------------------------------------------------- label names


def declared_names(rows: Any, column: str = "objects") -> list[str] | None:
    """Names of the integers in a column of entries, where the data set declares them (`ClassLabel`)."""
    feature = (getattr(rows, "features", None) or {}).get(column)
    inner = getattr(feature, "feature", feature)
    inner = inner[0] if isinstance(inner, list) and inner else inner
    if not isinstance(inner, Mapping):
        return None
    for entry in inner.values():
        names = getattr(getattr(entry, "feature", entry), "names", None)
        if names:
            return [str(name) for name in names]
    return None


def learn_names(rows: Any, base: Base, auto: Sequence[str], declared: Sequence[str] | None) -> list[str]:
    """Label names in the order of the outputs: of the trained checkpoint, as declared, or the distinct ones, sorted."""
    trained = base.trained_labels(*auto)
    if trained is not None:
        return list(trained)
    if declared is not None:
        return list(declared)
    if rows is None:
        raise TopworkError(
            "the label names are not known",
            hint="give training rows, `label_names`, or a base with a trained task head",
        )
    values: set[Any] = set()
    only = rows.select_columns(["objects"]) if hasattr(rows, "select_columns") else rows
    for number, row in enumerate(only):
        for value in _boxes.categories_of(row.get("objects"), number):
            check_alike(value, values, number, "objects")
            values.add(value)
    if not values:
        raise DataError("no row has an object", column="objects", hint="give rows with objects, or `label_names`")
    return [str(value) for value in sorted(values)]


#: detectors whose loss counts the boxes of its own process only
_OWN_COUNTS = ("rt_detr", "rt_detr_v2", "d_fine", "deimv2")

# ---------------------------------------------------------------- batches


def side_by_side(items: Sequence[Item]) -> dict[str, Any]:
    """Inputs for prediction: stacked where all pictures have one size, else lists: padding would change predictions."""
    import torch

    names = [name for name in ("pixel_values", "pixel_mask") if name in items[0].inputs]
    tensors: dict[str, Any] = {name: [item.inputs[name] for item in items] for name in names}
    if len({entry.shape for entry in tensors["pixel_values"]}) == 1:
        return {name: torch.stack(entries) for name, entries in tensors.items()}
    return tensors


def by_shape(inputs: Mapping[str, Any]) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """(positions in the batch, stacked inputs) of the pictures of each size."""
    import torch

    pixels = inputs["pixel_values"]
    if isinstance(pixels, torch.Tensor):
        yield list(range(len(pixels))), dict(inputs)
        return
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, entry in enumerate(pixels):
        groups.setdefault(tuple(entry.shape), []).append(place)
    for places in groups.values():
        yield places, {name: torch.stack([entries[place] for place in places]) for name, entries in inputs.items()}


def padded(items: Sequence[Item], masked: bool) -> tuple[dict[str, Any], list[Any]]:
    """Inputs for training, padded with zeros at the right and below.

    Returns:
        the inputs, with `pixel_mask` for detectors that read it; and for each item what its boxes are multiplied by:
        detectors without a mask take the padded picture for the whole. (DETR's image processor gives shares of the
        padded picture with a mask too; then the boxes of a picture would depend on what else is in its batch, and
        the way back to pixels, which knows the picture alone, would be wrong.)
    """
    import torch

    pixels = [item.inputs["pixel_values"] for item in items]
    height, width = (max(entry.shape[axis] for entry in pixels) for axis in (-2, -1))
    canvas = pixels[0].new_zeros(len(items), pixels[0].shape[0], height, width)
    mask = torch.zeros(len(items), height, width, dtype=torch.long)
    shares = []
    for number, (item, entry) in enumerate(zip(items, pixels)):
        canvas[number, :, : entry.shape[-2], : entry.shape[-1]] = entry
        own = item.inputs.get("pixel_mask")
        mask[number, : entry.shape[-2], : entry.shape[-1]] = 1 if own is None else own
        across, down = entry.shape[-1] / width, entry.shape[-2] / height
        shares.append(torch.ones(4) if masked else torch.tensor([across, down, across, down]))
    if masked:
        return {"pixel_values": canvas, "pixel_mask": mask}, shares
    return {"pixel_values": canvas}, shares


def target_counts(batch: Batch, queries: int | None, config: Any) -> tuple[float, ...]:
    """What the terms of a set loss are divided by.

    DETR (Carion et al. 2020, arXiv 2005.12872, section A.2) divides its cross-entropy by the sum of the weights of all
    queries, where those without an object count `eos_coefficient`, and the losses of boxes by the number of boxes.
    Other detectors divide everything by the number of boxes.

    Args:
        queries: of one image, for a detector of DETR's kind; None for others.
    """
    boxes = [len(target["class_labels"]) for target in batch.inputs["labels"]]
    shared = float(sum(boxes))
    if config.model_type not in _OWN_COUNTS:  # transformers' loss takes the mean over the processes
        from accelerate.utils import reduce

        shared = float(reduce(batch.inputs["pixel_values"].new_tensor([shared]), reduction="mean"))
    if queries is None:
        return (shared,)
    matched = sum(min(count, queries) for count in boxes)
    absent = getattr(config, "eos_coefficient", 0.1)
    return matched + absent * (queries * len(boxes) - matched), shared


# ---------------------------------------------------------------- what outputs mean


def detections(logits: Any, boxes: Any, sizes: Sequence[tuple[int, int]], labels: int, most: int = MOST) -> list[Any]:
    """(scores, labels, corners in pixels, size) of each picture, as numpy arrays of at most `most` boxes.

    Args:
        logits: [items, queries, labels], read by a sigmoid, or [items, queries, labels + 1], by a softmax whose last
            entry is "no object"; then each query has its best label only.
        boxes: [items, queries, 4], centre and size in shares.
        sizes: width and height of the original pictures.
    """
    import torch

    corners = _boxes.to_corners(boxes.float())
    scale = torch.tensor([[*size, *size] for size in sizes], dtype=torch.float32, device=corners.device)
    corners = corners * scale[:, None]
    if logits.shape[-1] == labels + 1:
        scores, found = logits.float().softmax(-1)[..., :-1].max(-1)
        places = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    elif logits.shape[-1] == labels:
        flat = logits.float().sigmoid().flatten(1)
        scores, kept = flat.topk(min(most, flat.shape[1]), dim=1)
        found, places = kept % labels, kept // labels
    else:
        raise TopworkError(
            f"the detector has {logits.shape[-1]} outputs for {labels} labels", place="task object-detection"
        )
    corners = corners.gather(1, places[..., None].expand(-1, -1, 4))
    arrays = [tensor.cpu().numpy() for tensor in (scores, found, corners)]
    return [(*(array[number] for array in arrays), size) for number, size in enumerate(sizes)]


def mistakes(truth: Any, names: Sequence[str], found: Sequence[tuple[Sequence[float], str]]) -> float:
    """Objects that no box of their label overlaps by half, and boxes that are left over."""
    import numpy

    boxes = numpy.array([box for box, _ in found], dtype=float).reshape(-1, 4)
    shared = _boxes.overlaps(truth, boxes)
    free = set(range(len(found)))
    missed = 0
    for place, name in enumerate(names):
        fits = [number for number in free if found[number][1] == name and shared[place, number] >= 0.5]
        if fits:
            free.remove(max(fits, key=lambda number: shared[place, number]))
        else:
            missed += 1
    return float(missed + len(free))


def example_rows() -> list[Row]:
    """Discs, squares and bars on a dark ground; one picture is empty."""
    from PIL import Image, ImageDraw

    rows: list[Row] = []
    for number in range(9):
        image = Image.new("RGB", (64, 64), (10 * number, 30, 50))
        pen = ImageDraw.Draw(image)
        boxes, categories = [], []
        for place in range(min(number % 4, 2)):
            kind = ("disc", "square", "bar")[(number + place) % 3]
            left, top = 4 + 30 * place + number % 3, 6 + 3 * number
            width, height = (24, 10) if kind == "bar" else (20, 20)
            corners = (left, top, left + width - 1, top + height - 1)
            (pen.ellipse if kind == "disc" else pen.rectangle)(corners, fill=("white", "red", "yellow")[number % 3])
            boxes.append([float(left), float(top), float(width), float(height)])
            categories.append(kind)
        rows.append({"image": image, "objects": {"bbox": boxes, "category": categories}})
    return rows
