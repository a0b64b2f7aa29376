"""object-detection: boxes with labels, by transformers' detectors (DETR and its descendants, YOLOS), or by DETR's
transformer on any other backbone: transformers' or timm's, convolutional or a plain vision transformer.

Detectors end in one of two ways: a softmax over the labels and "no object", or a sigmoid for each label. The number of
outputs tells which, so predictions are right whatever image processor the base came with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from topwork import (
    Batch,
    Column,
    DataError,
    Item,
    Mode,
    Picture,
    Row,
    RowsOptions,
    State,
    Task,
    TaskOptions,
    Units,
    UsageError,
    hookimpl,
)
from topwork_tasks._classification.labels import label_number
from topwork_tasks._vision import boxes as _boxes
from topwork_tasks._vision import headers as _headers
from topwork_tasks._vision import images as _image
from topwork_tasks._vision.patches import patch_units
from topwork_tasks.object_detection import detectors as _detectors
from topwork_tasks.object_detection import processors as _detector_processors
from topwork_tasks.object_detection.coco_files import coco_rows, format_of
from topwork_tasks.object_detection.metric import CocoMetric, Detections
from topwork_tasks.object_detection.voc_files import voc_rows

if TYPE_CHECKING:
    import torch
    from torch import nn

HEAD = ("AutoModelForObjectDetection",)


class ObjectDetectionOptions(TaskOptions):
    """Options of object-detection."""

    box_format: _boxes.BoxFormat = Field("coco", description=_boxes.BOX_FORMAT_HELP)
    bad_boxes: Literal["refuse", "drop"] = Field("refuse", description="boxes without area or outside their picture")
    label_names: list[str] | None = Field(None, description="what the data's integers stand for, in order")
    augment: _image.Augment = Field("none", description=_image.AUGMENT_HELP)
    image_size: PositiveInt | None = Field(None, description="pixels; for bases without an image processor")
    detr_head: _detectors.DetrHeadOptions | None = Field(
        None, description="size of the task head on a base without a detector of its own; as in DETR's paper by default"
    )
    threshold: float = Field(0.5, ge=0, lt=1, description="least score of a box in a prediction; metrics use them all")


class ObjectDetection(Task):
    """Find objects in pictures.

    | bad input | what happens |
    |---|---|
    | `image`, `objects`: missing | refused |
    | `image`: None; a number; of floats; of no pixels; neither bytes nor a path | refused |
    | `image`: no such file; no image; cut short | refused |
    | `image`: grey; palette; transparent; 16-bit; CMYK | handled: converted |
    | `image`: of one pixel; very wide | handled: resized by the image processor, the prediction back again |
    | `objects`: None; a number; a text; a list of texts; no lists; no `category`; fewer categories | refused |
    | `objects`: a box None; a box of texts; a box of three numbers; a box with NaN | refused |
    | `objects`: a box of no width; a box of negative size; a box outside its picture | refused |
    | `objects`: a bad box with `bad_boxes: drop` | handled: left out |
    | `objects`: a box that sticks out | handled: cut at the edge |
    | `objects`: unknown; None as category; a float as category; a list as category | refused: the known labels |
    | `objects`: an integer as category | refused, unless the data set or `label_names` names it |
    | `objects`: an area that is no number; fewer `iscrowd` | refused |
    | `objects`: none; an empty list | handled: a picture of background |
    | `objects`: crowd | handled: not learned from; boxes on it count neither as right nor as wrong |
    """

    name = "object-detection"
    Options = ObjectDetectionOptions
    columns: ClassVar[Mapping[str, Column]] = {
        "image": Column("a picture: PIL, {bytes, path}, a path, or an uint8 array", lazy=True),
        "objects": Column("{bbox: [[4 numbers]], category: [name or number]}, or a list of such dicts", target=True),
    }
    cost_unit = "pixels"

    # ------------------------------------------------------------------ once

    @classmethod
    def learn(cls, rows: Any, bases: Mapping[str, Any], options: ObjectDetectionOptions) -> State:
        base = bases["base"]
        declared = options.label_names or _detectors.declared_names(rows)
        names = _detectors.learn_names(rows, base, HEAD, declared)
        native = _detector_processors.is_native(base.config)
        if native and options.detr_head is not None:
            raise UsageError(
                f"`{base.config.model_type}` has a detector of its own",
                place="task.detr_head",
                hint="leave `detr_head` out; its size stands in the base's config (`base.changes`)",
            )
        saved = _image.saved_processor if native else _detector_processors.backbone_processor
        processor = saved(base, options.image_size)
        if processor is None:
            processor = _detector_processors.learned_processor(rows, base, options.image_size)
        _detector_processors.check_processor(base.config, processor)
        values = {"label_names": names, "declared": declared, "all_trainable": bool(base.scratch)}
        return State(values, {"image_processor": processor})

    def build(self, weights: bool = True) -> nn.Module:
        numbered = dict(enumerate(self.label_names))
        changes: dict[str, Any] = {
            "id2label": numbered,
            "label2id": {name: number for number, name in numbered.items()},
        }
        model = self.base.native(*HEAD, weights=weights, **changes)
        if model is None:
            from topwork_tasks.object_detection.detr_head import DetrHead

            size = self.options.detr_head or _detectors.DetrHeadOptions()
            model = DetrHead(self.base.backbone(weights=weights, maps=(-1,)), size, len(numbered))
        if self.state.values["all_trainable"]:
            # DETR's classes freeze a convolutional backbone that they expect to be pretrained: here it is random
            model.requires_grad_(True)
        return model

    @property
    def label_names(self) -> list[str]:
        """In the order of the model's outputs."""
        return self.state.values["label_names"]

    @property
    def processor(self) -> Any:
        return self.state.processors["image_processor"]

    # ------------------------------------------------------------------ rows -> tensors

    @property
    def repeatable(self) -> bool:  # type: ignore[override]
        return self.options.augment == "none"

    @cached_property
    def _shape(self) -> tuple[int, int] | None:
        """Height and width of what the image processor makes, None when that depends on the picture."""
        from PIL import Image

        shapes = [self._process(Image.new("RGB", size))["pixel_values"].shape for size in ((40, 60), (60, 40))]
        return (shapes[0][1], shapes[0][2]) if shapes[0] == shapes[1] else None

    @cached_property
    def _augment(self) -> Any:
        height, width = self._shape or (224, 224)
        return _image.augmentation(self.options.augment, height, width, boxes=True)

    def _process(self, image: Any) -> dict[str, torch.Tensor]:
        found = self.processor(images=image, return_tensors="pt")
        return {name: found[name][0] for name in ("pixel_values", "pixel_mask") if name in found}

    def _objects(self, row: Row, size: tuple[int, int], number: int | None = None) -> tuple[_boxes.Objects, list[int]]:
        """A row's objects and the numbers of their labels."""
        drop = self.options.bad_boxes == "drop"
        objects = _boxes.objects_of(row, number, size, self.options.box_format, drop)
        declared = self.state.values["declared"]
        labels = [label_number(value, self.label_names, declared, number, "objects") for value in objects.categories]
        return objects, labels

    def precheck(self, row: Row, mode: Mode) -> bool:
        return _headers.doubtful(row, truth=None if mode == "predict" else self._objects)

    def encode(self, rows: Sequence[Row], mode: Mode, seed: int) -> list[Item]:
        items = []
        for number, row in enumerate(rows):
            image = _image.open_image(row.get("image"), number, "image", _image.mode_of(self.base.config))
            size = image.size
            inputs: dict[str, Any] = {}
            if mode != "predict":
                objects, _ = self._objects(row, size, number)
                if mode == "train" and self._augment is not None:
                    with _image.seeded(_image.row_seed(seed, image)):
                        image, objects = _boxes.augmented(self._augment, image, objects)
                inputs["labels"] = self._targets(objects, image.size)
            try:
                inputs |= self._process(image)
            except ValueError as error:
                raise DataError(
                    f"the image processor refuses it: {error}", row=number, column="image", hint="leave the row out"
                ) from error
            # random crops must not change the cost, so it is told from the picture as it came
            height, width = self._shape or (size[1], size[0])
            items.append(Item(number, inputs, cost=height * width, extra=size))
        return items

    def _targets(self, objects: _boxes.Objects, size: tuple[int, int]) -> dict[str, torch.Tensor]:
        """What transformers' detectors want: `class_labels` [n], `boxes` [n, 4] in shares; crowds are left out."""
        import torch

        declared = self.state.values["declared"]
        labels = [
            label_number(value, self.label_names, declared, None, "objects")
            for value, crowd in zip(objects.categories, objects.crowd)
            if not crowd
        ]
        return {
            "class_labels": torch.tensor(labels, dtype=torch.long),
            "boxes": _boxes.to_target(objects.boxes[~objects.crowd], size),
        }

    def collate(self, items: Sequence[Item], mode: Mode) -> Batch:
        if mode == "predict":
            return Batch(_detectors.side_by_side(items), items)
        inputs, shares = _detectors.padded(items, _detector_processors.reads_mask(self.base.config))
        inputs["labels"] = [
            {**item.inputs["labels"], "boxes": item.inputs["labels"]["boxes"] * share}
            for item, share in zip(items, shares)
        ]
        return Batch(inputs, items)

    def cost_budget(self, device: str) -> int | None:
        return _image.cost_budget(device)

    def costs(self, rows: Sequence[Row]) -> list[list[int]] | None:
        if self._shape is None:
            return None
        return [[self._shape[0] * self._shape[1]] for _ in range(len(rows))]

    # ------------------------------------------------------------------ tensors -> numbers

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return model(**_image.model_tensors(batch, model)).loss

    def loss_terms(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, ...]:
        outputs = model(**_image.model_tensors(batch, model))
        if self._queries is None:
            return (outputs.loss,)
        entropy = sum(loss for name, loss in outputs.loss_dict.items() if name.startswith("loss_ce"))
        return entropy, outputs.loss - entropy

    def target_counts(self, batch: Batch) -> tuple[float, ...]:
        return _detectors.target_counts(batch, self._queries, self.base.config)

    @property
    def _queries(self) -> int | None:
        """Queries of a detector of DETR's kind, whose cross-entropy is a mean over queries; None for others."""
        config = self.base.config
        if not _detector_processors.is_native(config):
            return (self.options.detr_head or _detectors.DetrHeadOptions()).queries
        if config.model_type == "yolos":
            return config.num_detection_tokens
        return config.num_queries if config.model_type in ("detr", "table-transformer") else None

    def predict(self, model: nn.Module, batch: Batch) -> list[Any]:
        inputs = _image.model_tensors(batch, model)
        parts: list[Any] = [None] * len(batch)
        for places, tensors in _detectors.by_shape(inputs):
            outputs = model(**tensors)
            sizes = [batch.items[place].extra for place in places]
            most = _detector_processors.most_boxes(self.processor, outputs.logits.shape[1])
            found = _detectors.detections(outputs.logits, outputs.pred_boxes, sizes, len(self.label_names), most)
            for place, part in zip(places, found):
                parts[place] = part
        return parts

    def merge(self, row: Row, parts: Sequence[Any]) -> Detections:
        scores, labels, boxes, size = super().merge(row, parts)
        return Detections(scores, labels, boxes, size, self.label_names, self.options.threshold)

    # ------------------------------------------------------------------ numbers -> people

    def metric(self) -> CocoMetric:
        return CocoMetric(self.label_names, self._objects)

    def units(self, item: Item) -> Units:
        units = patch_units(self.base, item.inputs["pixel_values"], self.processor)
        queries = getattr(self.base.config, "num_detection_tokens", 0)
        if units.grid is None or not queries:
            return Units("patch", image=units.image)
        last = len(units.special) + units.grid[0] * units.grid[1]
        return Units(
            "patch", special=(*units.special, *range(last, last + queries)), grid=units.grid, image=units.image
        )

    def draw(self, row: Row, prediction: Detections) -> Picture:
        image = _image.open_image(row.get("image"), None, "image")
        found = [(list(entry["box"].values()), entry) for entry in prediction]
        boxes = [(box, f"{entry['label']} {entry['score']:.2f}", "orange") for box, entry in found]
        big = _image.enlarged(image, 320)
        factor = big.width / image.width
        caption = f"found {len(found)}"
        badness = 0.0
        if row.get("objects") is not None:
            objects, labels = self._objects(row, image.size)
            names = [self.label_names[label] for label in labels]
            boxes = [(box, name, "lime") for box, name in zip(objects.boxes.tolist(), names)] + boxes
            badness = _detectors.mistakes(objects.boxes, names, [(box, entry["label"]) for box, entry in found])
            caption = f"found {len(found)} (orange) of {len(names)} (green), {badness:.0f} missed or wrong"
        return Picture(caption=caption, badness=badness, image=_boxes.draw_boxes(big, boxes, factor))

    @classmethod
    def example_rows(cls) -> list[Row]:
        return _detectors.example_rows()


@hookimpl
def register_tasks() -> list[type[Task]]:
    return [ObjectDetection]


@hookimpl
def load_rows(source: str, options: RowsOptions) -> Any | None:
    """COCO files of boxes, instances or panoptic segments (`format: coco`), and Pascal VOC folders (`format: voc`)."""
    form = format_of(source, options)
    if form == "coco" and options.split not in (None, "train"):
        raise UsageError("a COCO file has no splits", place=source, hint="give each split's file its own `path`")
    read = {"voc": voc_rows, "coco": coco_rows}.get(form or "")
    return None if read is None else read(source, options)
