"""image-segmentation: a label for every pixel (semantic), a mask for every thing (instance), or both (panoptic).

Semantic segmentation goes by the architecture's own class (SegFormer, UperNet, BEiT, DPT ...), by a universal segmenter
(MaskFormer, Mask2Former), or by a dense task head on the feature maps of any backbone; the other two kinds by
universal segmenters. Truth is a map of numbers; predictions have the size of the original picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from topwork import (
    Batch,
    CheckpointError,
    Column,
    DataError,
    Item,
    Json,
    Metric,
    Mode,
    Picture,
    Row,
    State,
    Task,
    Units,
    UsageError,
    hookimpl,
)
from topwork_tasks import _detectors, _image
from topwork_tasks import _segmentation_drawing as drawing
from topwork_tasks import _segmentation_models as models
from topwork_tasks import _segmentation_predictions as predictions
from topwork_tasks._panoptic import PanopticMetric
from topwork_tasks._patches import patch_units
from topwork_tasks._segmentation_examples import example_rows
from topwork_tasks._segmentation_labels import learn_labels
from topwork_tasks._segmentation_metrics import MaskMetric, SemanticMetric
from topwork_tasks._segmentation_truth import ImageSegmentationOptions, Truth
from topwork_tasks._segmentation_views import transform, viewed

if TYPE_CHECKING:
    import torch
    from torch import nn


class ImageSegmentation(Task):
    """Label the pixels of pictures.

    | bad input | what happens |
    |---|---|
    | mask (or instances, segments_info, objects) missing or None | refused: row and column |
    | image None, corrupt or no image at all | refused: row and column |
    | mask corrupt, of another size than its picture, or a colour picture | refused |
    | number or name in a mask that is no label | refused: the number, the known labels |
    | pixels of `ignore_index` | not learned from, not counted |
    | mask that is `ignore_index` everywhere | used: its loss is 0 and no metric counts it |
    | picture without any instance | used: a picture of background |
    | polygon of two points, run lengths of another size | refused |
    | crowd (`iscrowd`) | not learned from; predictions on it count neither as right nor as wrong |
    | overlapping objects | the smaller one is learned where they overlap; metrics use the whole masks |
    | grey, palette, transparent or 16-bit picture | converted; of a palette mask the numbers count, not the colours |

    UperNet, BEiT and other heads with pooled context normalise over the batch and cannot learn from one row alone: a
    batch of one is doubled, which leaves its loss as it is. Larger batches train better.
    """

    name = "image-segmentation"
    Options = ImageSegmentationOptions
    columns: ClassVar[Mapping[str, Column]] = {
        "image": Column("a picture: PIL, {bytes, path}, a path, or an uint8 array", lazy=True),
        "mask": Column(
            "numbers of labels: an image of mode L, P or I, a path or an array; panoptic: COCO's segment ids",
            target=True,
            required=False,
            lazy=True,
        ),
        "instances": Column("numbers of instances, 0 for none, beside `mask`", target=True, required=False, lazy=True),
        "objects": Column(
            "{segmentation: [polygons or run lengths], category: [name or number]}", target=True, required=False
        ),
        "segments_info": Column("panoptic: [{id, category_id, iscrowd}], as in COCO", target=True, required=False),
    }
    cost_unit = "pixels"
    _dense = False

    # ------------------------------------------------------------------ once

    @classmethod
    def learn(cls, rows: Any, bases: Mapping[str, Any], options: ImageSegmentationOptions) -> State:
        base = bases["base"]
        if options.kind != "semantic" and options.reduce_labels:
            raise UsageError("`reduce_labels` is for semantic masks", place="task.reduce_labels")
        processor = models.find_processor(rows, base, options.image_size)
        reduce = options.reduce_labels
        if reduce is None:
            reduce = options.kind == "semantic" and bool(getattr(processor, "do_reduce_labels", False))
        auto = models.UNIVERSAL if models.is_universal(base.config) else models.SEMANTIC
        names, declared = learn_labels(
            rows, base, auto, options.kind, options.label_names, options.ignore_index, reduce
        )
        for name in options.stuff:
            if name not in names:
                raise UsageError(f"`{name}` is no label", place="task.stuff", mend=f"labels: {', '.join(names)}")
        if options.kind == "semantic" and options.ignore_index < len(names) and not reduce:
            raise UsageError(
                f"`ignore_index` {options.ignore_index} is the number of a label", place="task.ignore_index"
            )
        values = {"label_names": names, "declared": declared, "reduce_labels": reduce}
        return State(values, {"image_processor": processor})

    def build(self, weights: bool = True) -> nn.Module:
        numbered = dict(enumerate(self.label_names))
        changes: dict[str, Any] = {
            "id2label": numbered,
            "label2id": {name: number for number, name in numbered.items()},
        }
        config = self.base.config
        if models.is_universal(config):
            return models.universal(self.base, weights, changes)
        if self.options.kind != "semantic":
            raise CheckpointError(
                f"`{config.model_type}` does not do {self.options.kind} segmentation",
                place=f"task {self.name}",
                mend="choose mask2former or maskformer (with this backbone as `backbone_config`), or `kind: semantic`",
            )
        for name in ("semantic_loss_ignore_index", "loss_ignore_index"):
            if hasattr(config, name):
                changes[name] = self.options.ignore_index
        native = self.base.native(*models.SEMANTIC, weights=weights, **changes)
        if native is not None:
            return native
        from topwork_tasks._dense import DenseHead, backbone_with_maps

        self._dense = True
        return DenseHead(backbone_with_maps(self.base, weights), len(numbered), self.options.decoder)

    @property
    def label_names(self) -> list[str]:
        """In the order of the model's outputs."""
        return self.state.values["label_names"]

    @property
    def processor(self) -> Any:
        return self.state.processors["image_processor"]

    @property
    def _universal(self) -> bool:
        return models.is_universal(self.base.config)

    @cached_property
    def _truth(self) -> Truth:
        return Truth(self.options, self.state.values, self._universal)

    # ------------------------------------------------------------------ rows -> tensors

    @property
    def repeatable(self) -> bool:  # type: ignore[override]
        return self.options.augment == "none"

    @cached_property
    def _shape(self) -> tuple[int, int] | None:
        """Height and width of what the image processor makes, None when that depends on the picture."""
        from PIL import Image

        mode = _image.mode_of(self.base.config)
        shapes = [self._process(Image.new(mode, size))["pixel_values"].shape for size in ((40, 60), (60, 40))]
        return (shapes[0][1], shapes[0][2]) if shapes[0] == shapes[1] else None

    @cached_property
    def _augment(self) -> Any:
        height, width = self._shape or (512, 512)
        fill = 0 if self._universal else self.options.ignore_index
        return transform(self.options.augment, height, width, fill)

    def _process(self, image: Any, truth: Any = None, labels: Mapping[int, int] | None = None) -> dict[str, Any]:
        if self._universal:
            return models.universal_inputs(self.processor, image, truth, labels)
        return models.semantic_inputs(self.processor, image, truth)

    def encode(self, rows: Sequence[Row], mode: Mode, seed: int) -> list[Item]:
        items = []
        for number, row in enumerate(rows):
            image = _image.open_image(row.get("image"), number, "image", _image.mode_of(self.base.config))
            size = image.size
            truth, labels = (None, None) if mode == "predict" else self._truth.target(row, size, number)
            own = 0 if mode == "predict" else _image.row_seed(seed if mode == "train" else 0, image)
            if mode == "train" and truth is not None and self._augment is not None:
                with _image.seeded(own):
                    image, truth = viewed(self._augment, image, truth)
            try:
                inputs = self._process(image, truth, labels)
            except ValueError as error:
                raise DataError(
                    f"the image processor refuses it: {error}", row=number, column="image", mend="leave the row out"
                ) from error
            # random crops must not change the cost, so it is told from the picture as it came
            height, width = self._shape or (size[1], size[0])
            items.append(Item(number, inputs, cost=height * width, beside={"size": size, "seed": own}))
        return items

    def collate(self, items: Sequence[Item], mode: Mode) -> Batch:
        if mode == "predict":
            return Batch(_detectors.side_by_side(items), items)
        inputs, _ = _detectors.padded(items, self._universal)
        height, width = inputs["pixel_values"].shape[-2:]
        if self._universal:
            inputs["mask_labels"] = [_enlarged(item.inputs["mask_labels"], height, width, 0) for item in items]
            inputs["class_labels"] = [item.inputs["class_labels"] for item in items]
        else:
            import torch

            ignored = self.options.ignore_index
            labels = [_enlarged(item.inputs["labels"], height, width, ignored) for item in items]
            inputs["labels"] = torch.stack(labels).long()
        return Batch(inputs, items)

    def costs(self, rows: Sequence[Row]) -> list[list[int]] | None:
        if self._shape is None:
            return None
        return [[self._shape[0] * self._shape[1]] for _ in range(len(rows))]

    # ------------------------------------------------------------------ tensors -> numbers

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        if self._universal:
            return models.universal_loss(model, batch)
        found = None if self._dense else models.native_loss(model, batch, self.options.ignore_index)
        return (
            self._own_losses(model, batch, self.options.dice if self._dense else 0.0).mean() if found is None else found
        )

    def row_losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """At once for the generic task head and for SegFormer; heads with auxiliary outputs and universal segmenters,
        whose loss is divided by the masks of the batch, row by row."""
        if self._dense:
            return self._own_losses(model, batch, self.options.dice)
        if self.base.config.model_type == "segformer" and len(self.label_names) > 1:
            return self._own_losses(model, batch, 0.0)
        return super().row_losses(model, batch)

    def _own_losses(self, model: nn.Module, batch: Batch, dice: float) -> torch.Tensor:
        from topwork_tasks._dense import row_losses

        logits = model(**_image.model_tensors(batch, model, "labels")).logits
        return row_losses(logits, batch.inputs["labels"], self.options.ignore_index, dice)

    def predict(self, model: nn.Module, batch: Batch) -> list[Any]:
        parts: list[Any] = [None] * len(batch)
        for places, tensors in _detectors.by_shape(_image.model_tensors(batch, model, "labels")):
            outputs = model(**tensors)
            sizes = [batch.items[place].beside["size"] for place in places]
            if self._universal:
                pairs = zip(models.one_by_one(outputs), sizes)
                found = [models.read(self.processor, *pair, self.options, self.label_names) for pair in pairs]
            else:
                found = models.semantic_maps(outputs.logits, sizes)
            for place, part in zip(places, found):
                parts[place] = part
        return parts

    def merge(self, row: Row, parts: Sequence[Any]) -> predictions.Segmentation:
        part: Any = super().merge(row, parts)
        if self.options.kind == "semantic":
            return predictions.semantic(part, self.label_names)
        if self.options.kind == "instance":
            labels, scores, rles, size = part
            return predictions.instances(labels, scores, rles, size, self.label_names, self.options.threshold)
        numbers, labels, scores = part
        return predictions.panoptic(numbers, labels, scores, self.label_names)

    # ------------------------------------------------------------------ numbers -> people

    def metric(self) -> Metric:
        if self.options.kind == "semantic":
            return SemanticMetric(self.label_names, self._truth.labels, self.options.ignore_index)
        if self.options.kind == "instance":
            return MaskMetric(self.label_names, self._truth.segments)
        return PanopticMetric(self.label_names, self._truth.segments, self.options.stuff)

    def write(self, prediction: predictions.Segmentation, folder: Path, name: str) -> Json:
        return predictions.written(prediction, folder, name)

    def units(self, item: Item) -> Units:
        return patch_units(self.base, item.inputs["pixel_values"], self.processor)

    def draw(self, row: Row, prediction: predictions.Segmentation) -> Picture:
        image = _image.open_image(row.get("image"), None, "image")
        if row.get("mask") is None and row.get("objects") is None:
            return drawing.alone(image, prediction, self.options.kind)
        if self.options.kind == "semantic":
            truth = self._truth.labels(row, image.size)
            return drawing.semantic(image, prediction, truth, self.options.ignore_index)
        return drawing.segments(image, prediction, self._truth.segments(row, image.size), self.label_names)

    @classmethod
    def example_rows(cls) -> list[Row]:
        return example_rows()


def _enlarged(values: torch.Tensor, height: int, width: int, fill: int) -> torch.Tensor:
    """[..., h, w] -> [..., height, width], filled at the right and below."""
    if tuple(values.shape[-2:]) == (height, width):
        return values
    canvas = values.new_full((*values.shape[:-2], height, width), fill)
    canvas[..., : values.shape[-2], : values.shape[-1]] = values
    return canvas


@hookimpl
def register_tasks() -> list[type[Task]]:
    return [ImageSegmentation]
