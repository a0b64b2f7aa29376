"""object-detection: boxes with labels.

The model is one of transformers' detectors (DETR and its descendants, YOLOS), or DETR's transformer on any other
backbone: transformers' or timm's, convolutional or a plain vision transformer. Detectors end in one of two ways: a
softmax over the labels and "no object", or a sigmoid for each label. The number of outputs tells which, so predictions
are right whatever image processor the base came with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

import topwork as tw
from topwork_tasks._classification.labels import label_config, label_index
from topwork_tasks._vision import augmentation, batches, inputs
from topwork_tasks._vision import boxes as _boxes
from topwork_tasks._vision.divisors import counting_alone
from topwork_tasks._vision.frames import ANNOTATED_SIZE
from topwork_tasks._vision.headers import may_be_refused
from topwork_tasks._vision.image_task import IMAGE_COLUMN, ImageTask
from topwork_tasks._vision.images import magnified
from topwork_tasks._vision.preview import doubts_of_rows
from topwork_tasks.object_detection import detectors, processors
from topwork_tasks.object_detection.examples import object_examples
from topwork_tasks.object_detection.metric import CocoMetric, Detections
from topwork_tasks.object_detection.options import DetrHeadOptions, ObjectDetectionOptions
from topwork_tasks.object_detection.preview import DetectionView
from topwork_tasks.object_detection.thresholds import choose_threshold

if TYPE_CHECKING:
    import torch
    from torch import nn

HEAD = ("AutoModelForObjectDetection",)


class ObjectDetection(ImageTask):
    """Find objects in images. `bad_input.md` says what becomes of bad rows."""

    name = "object-detection"
    Options = ObjectDetectionOptions
    columns: ClassVar[Mapping[str, tw.Column]] = {
        "image": IMAGE_COLUMN,
        "objects": tw.Column(
            "{bbox: [[4 numbers]], category: [name or number]}, or a list of such dicts", target=True, kind="boxes"
        ),
        "annotated_size": tw.Column(ANNOTATED_SIZE, target=True, required=False),
    }
    state_types: ClassVar[Mapping[str, Any]] = {
        "label_names": tw.OutputNames,
        "declared": tw.OutputNames | None,
        "all_trainable": bool,
        "pixel_range": list[float] | None,
    }
    rows_view = DetectionView()

    # ------------------------------------------------------------------ once

    @classmethod
    @override
    def learn(cls, rows: Any, bases: Mapping[str, Any], options: ObjectDetectionOptions) -> tw.State:
        base = bases["base"]
        notes: list[str] = []
        names, declared = detectors.learn_object_names(rows, base, HEAD, options.label_names, notes)
        notes += doubts_of_rows(cls.rows_view, rows, options)
        native = processors.is_native(base.config)
        if native and options.detr_head is not None:
            raise tw.UsageError(
                f"`{base.config.model_type}` has a detector of its own",
                place="task.detr_head",
                hint="leave `detr_head` out; its size stands in the base's config (`base.changes`)",
            )
        saved = inputs.saved_processor if native else processors.backbone_processor
        processor = saved(base, options.image_size)
        pixel_range = inputs.find_pixel_range(rows, options, base.config, notes)
        if processor is None:
            make = partial(processors.make_processor, base.config)
            processor = inputs.learn_processor(rows, base, options, pixel_range, make, multiple=32)
            inputs.size_changes(base, options.image_size)
        processors.check_processor(base.config, processor)
        values: dict[str, Any] = {"label_names": names, "declared": declared, "all_trainable": bool(base.scratch)}
        values["pixel_range"] = pixel_range
        return tw.State(values, {"image_processor": processor}, notes)

    def __init__(self, bases: Mapping[str, Any], options: ObjectDetectionOptions, state: tw.State) -> None:
        super().__init__(bases, options, state)
        self.label_names: list[str] = state.values["label_names"]
        self.inputs = inputs.ImageInputs(self.processor, self.base.config, options, state.values, self._process)
        self._parts = augmentation.augment_parts(options.augment, augmentation.BOX_PARTS)
        self.repeatable = not self._parts

    @override
    def build(self, weights: bool = True) -> nn.Module:
        size_change = inputs.size_changes(self.base, self.options.image_size)
        changes = {**label_config(self.label_names), **size_change}
        model = self.base.native(*HEAD, weights=weights, **changes)
        if model is None:
            from topwork_tasks.object_detection.detr_head import DetrHead

            size = self.options.detr_head or DetrHeadOptions()
            backbone = self.base.backbone(weights=weights, maps=(-1,), **size_change)
            model = DetrHead(backbone, size, len(self.label_names))
        if self.state.values["all_trainable"]:
            # DETR's classes freeze a convolutional backbone that they expect to be pretrained: here it is random
            model.requires_grad_(True)
        return model

    # ------------------------------------------------------------------ rows -> tensors

    @cached_property
    def _augment(self) -> Any:
        height, width = self.inputs.shape or (224, 224)
        colour = inputs.mean_colour(self.processor)
        return augmentation.make_augmentation(self._parts, height, width, colour, "boxes")

    def _process(self, image: Any) -> dict[str, torch.Tensor]:
        tensors = self.processor(images=image, return_tensors="pt")
        return {name: tensors[name][0] for name in ("pixel_values", "pixel_mask") if name in tensors}

    def _objects(
        self, row: tw.Row, size: tuple[int, int], index: int | None = None
    ) -> tuple[_boxes.Objects, list[int]]:
        """Return a row's objects and the indices of their labels."""
        drop = self.options.bad_boxes == "drop"
        objects = _boxes.objects_of(row, index, size, self.options.box_format, drop)
        return objects, self._label_indices(objects.categories, index)

    def _label_indices(self, categories: Sequence[Any], index: int | None) -> list[int]:
        declared = self.state.values["declared"]
        return [label_index(value, self.label_names, declared, index, "objects") for value in categories]

    @override
    def precheck(self, row: tw.Row, mode: tw.Mode) -> bool:
        return may_be_refused(row, check=None if mode == "predict" else self._objects)

    @override
    def encode(self, rows: Sequence[tw.Row], mode: tw.Mode, seed: int) -> list[tw.Item]:
        items = []
        for index, row in enumerate(rows):
            image, size = self.inputs.open(row, index)
            tensors: dict[str, Any] = {}
            if mode != "predict":
                objects, _ = self._objects(row, size, index)
                if mode == "train" and self._augment is not None:
                    objects = objects.resized(size, image.size)
                    with augmentation.seeding_torch(augmentation.row_seed(seed, image)):
                        image, objects = augmentation.augment_boxes(self._augment, image, objects)
                    tensors["labels"] = self._targets(objects, image.size)
                else:
                    tensors["labels"] = self._targets(objects, size)
            tensors |= self.inputs.features(image, index)
            items.append(tw.Item(index, tensors, cost=self.inputs.cost(size), extra=size))
        return items

    def _targets(self, objects: _boxes.Objects, size: tuple[int, int]) -> dict[str, torch.Tensor]:
        """Return targets of transformers' detectors: `class_labels` [n], `boxes` [n, 4] in shares; without crowds."""
        import torch

        single = [value for value, crowd in zip(objects.categories, objects.crowd) if not crowd]
        return {
            "class_labels": torch.tensor(self._label_indices(single, None), dtype=torch.long),
            "boxes": _boxes.to_target(objects.boxes[~objects.crowd], size),
        }

    @override
    def collate(self, items: Sequence[tw.Item], mode: tw.Mode) -> tw.Batch:
        if mode == "predict":
            return tw.Batch(batches.side_by_side(items), items)
        tensors, shares = batches.padded(items, processors.reads_mask(self.base.config))
        tensors["labels"] = [
            {**item.inputs["labels"], "boxes": item.inputs["labels"]["boxes"] * share}
            for item, share in zip(items, shares)
        ]
        return tw.Batch(tensors, items)

    # ------------------------------------------------------------------ tensors -> numbers

    @override
    def output_kinds(self) -> dict[str, tw.OutputKind]:
        return {"logits": "classes" if processors.has_softmax(self.base.config) else "labels", "pred_boxes": "values"}

    @override
    def loss(self, model: nn.Module, batch: tw.Batch) -> torch.Tensor:
        with counting_alone():
            return model(**batches.model_tensors(batch, model)).loss

    @override
    def loss_terms(self, model: nn.Module, batch: tw.Batch) -> tuple[torch.Tensor, ...]:
        with counting_alone():
            outputs = model(**batches.model_tensors(batch, model))
        if self._queries is None:
            return (outputs.loss,)
        entropy = sum(loss for name, loss in outputs.loss_dict.items() if name.startswith("loss_ce"))
        return entropy, outputs.loss - entropy

    @override
    def target_counts(self, batch: tw.Batch) -> tuple[float, ...]:
        return detectors.target_counts(batch, self._queries, self.base.config)

    @property
    def _queries(self) -> int | None:
        """Queries of a detector of DETR's kind, whose cross-entropy is a mean over queries; None for others."""
        if not processors.is_native(self.base.config):
            return (self.options.detr_head or DetrHeadOptions()).queries
        return detectors.mean_over_queries(self.base.config)

    @override
    def predict(self, model: nn.Module, batch: tw.Batch) -> list[Any]:
        parts: list[Any] = [None] * len(batch)
        for indices, tensors in batches.by_shape(batches.model_tensors(batch, model)):
            outputs = model(**tensors)
            sizes = [batch.items[index].extra for index in indices]
            most = processors.most_boxes(self.processor, outputs.logits.shape[1])
            predicted = detectors.detections(outputs.logits, outputs.pred_boxes, sizes, len(self.label_names), most)
            for index, part in zip(indices, predicted):
                parts[index] = part
        return parts

    def query_boxes(self, model: nn.Module, batch: tw.Batch) -> list[list[tw.QueryBox]]:
        """Return the boxes of all queries, for each item: see `topwork.HasQueryBoxes`."""
        boxes: list[list[tw.QueryBox]] = [[] for _ in batch.items]
        for indices, tensors in batches.by_shape(batches.model_tensors(batch, model)):
            outputs = model(**tensors)
            for index, logits, centres in zip(indices, outputs.logits, outputs.pred_boxes):
                boxes[index] = detectors.query_boxes(logits, centres, self.label_names)
        return boxes

    @override
    def merge(self, row: tw.Row, parts: Sequence[Any]) -> Detections:
        scores, labels, boxes, size = super().merge(row, parts)
        if self.options.suppress is not None:
            kept = detectors.suppress(scores, boxes, self.options.suppress)
            scores, labels, boxes = scores[kept], labels[kept], boxes[kept]
        return Detections(scores, labels, boxes, size, self.label_names, self.options.threshold)

    # ------------------------------------------------------------------ predictions -> readers

    @override
    def metric(self) -> CocoMetric:
        return CocoMetric(self.label_names, self._objects)

    @override
    def choose_thresholds(self, metric: tw.Metric) -> dict[str, Any] | None:
        return {"threshold": choose_threshold(metric)} if isinstance(metric, CocoMetric) else None

    @override
    def units(self, item: tw.Item) -> tw.Units:
        units = super().units(item)
        queries = getattr(self.base.config, "num_detection_tokens", 0)
        if units.grid is None or not queries:
            return tw.Units("patch", image=units.image)
        last = len(units.special) + units.grid[0] * units.grid[1]
        special = (*units.special, *range(last, last + queries))
        return tw.Units("patch", special=special, grid=units.grid, image=units.image)

    @override
    def draw(self, row: tw.Row, prediction: Detections) -> tw.Picture:
        image, size = self.inputs.open(row, None, "RGB")
        predicted = [(list(entry["box"].values()), entry) for entry in prediction]
        boxes = [(box, f"{entry['label']} {entry['score']:.2f}", "orange") for box, entry in predicted]
        caption, badness, facts = f"found {len(predicted)}", 0.0, {"predicted": len(predicted)}
        if row.get("objects") is not None:
            objects, labels = self._objects(row, size)
            names = [self.label_names[label] for label in labels]
            boxes = [(box, name, "lime") for box, name in zip(objects.boxes.tolist(), names)] + boxes
            pairs = [(box, entry["label"]) for box, entry in predicted]
            badness = detectors.count_mistakes(objects.boxes, names, pairs)
            facts = {"true": len(names), **facts, "missed or wrong": int(badness)}
            caption = f"found {len(predicted)} (orange) of {len(names)} (green), {badness:.0f} missed or wrong"
        large = magnified(image, 320)
        drawn = _boxes.draw_boxes(large, boxes, large.width / size[0])
        measure = "number of objects missed or wrong"
        return tw.Picture(caption, badness, drawn, facts=facts, measure=measure)

    @classmethod
    @override
    def example_rows(cls) -> list[tw.Row]:
        return object_examples()
