"""image-segmentation: a label for every pixel (semantic), a mask for every thing (instance), or both (panoptic).

Semantic segmentation goes by the architecture's own class (SegFormer, UperNet, BEiT, DPT ...), by a universal segmenter
(MaskFormer, Mask2Former, EoMT), or by a dense task head on the feature maps of any backbone; the other two kinds by
universal segmenters, or by Mask2Former's decoders on any backbone. Truth is a map of numbers; predictions have the
size of the original picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from topwork import (
    Batch,
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
    hookimpl,
)
from topwork_tasks._vision import headers as _headers
from topwork_tasks._vision import images as _image
from topwork_tasks._vision.batches import batched
from topwork_tasks._vision.patches import patch_units
from topwork_tasks._vision.segmentation_views import transform, viewed
from topwork_tasks.image_segmentation import drawing, models, predictions
from topwork_tasks.image_segmentation import outputs as outputs_of
from topwork_tasks.image_segmentation.examples import example_rows
from topwork_tasks.image_segmentation.learned import learned
from topwork_tasks.image_segmentation.metrics import MaskMetric, SemanticMetric
from topwork_tasks.image_segmentation.options import ImageSegmentationOptions, MaskHeadOptions
from topwork_tasks.image_segmentation.panoptic import PanopticMetric
from topwork_tasks.image_segmentation.truth import Truth
from topwork_tasks.object_detection import detectors as _detectors

if TYPE_CHECKING:
    import torch
    from torch import nn


class ImageSegmentation(Task):
    """Label the pixels of pictures.

    | bad input | what happens |
    |---|---|
    | `image`, `mask`, `instances`, `objects`: missing; None | refused |
    | `image`: a number; of floats; of no pixels; neither bytes nor a path | refused |
    | `image`: no such file; no image; cut short | refused |
    | `image`: grey; palette; transparent; 16-bit; CMYK | handled: converted |
    | `image`: of one pixel; very wide | handled: resized by the image processor, the prediction back again |
    | `mask`, `instances`: a number; texts; no such file; no map; cut short | refused |
    | `mask`, `instances`: another size; fractions; NaN in it | refused |
    | `mask`: a colour picture; a number that is no label; a number below 0 | refused: the known labels |
    | `mask`: of floats; of booleans; palette | handled: whole numbers; of a palette the numbers, not colours |
    | `mask`: `ignore_index` in it; `ignore_index` everywhere | handled: neither learned (loss 0) nor counted |
    | `instances`: of floats | handled: whole numbers |
    | `objects`, `segments_info`: a text; a number; a list of texts; unknown; None as category | refused |
    | `objects`: fewer categories; an empty polygon; a polygon of two points; NaN | refused |
    | `objects`: run lengths of another size; run lengths that end early | refused |
    | `objects`: none; beyond its picture | handled: a picture of background; cut at the edge |
    | `objects`: crowd | handled: not learned from; predictions on it are neither right nor wrong |
    | `segments_info`: None; no `id` | refused |
    | `segments_info`: an id that the mask has not; an empty list | handled: what is not named does not count |

    Where objects overlap, the smaller one is learned; metrics use the whole masks.

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
        "segments_info": Column(
            "panoptic: [{id, category_id, iscrowd, isthing}], as in COCO", target=True, required=False
        ),
    }
    cost_unit = "pixels"
    _dense = False

    # ------------------------------------------------------------------ once

    @classmethod
    def learn(cls, rows: Any, bases: Mapping[str, Any], options: ImageSegmentationOptions) -> State:
        return learned(rows, bases["base"], options)

    def build(self, weights: bool = True) -> nn.Module:
        numbered = dict(enumerate(self.label_names))
        label2id = {name: number for number, name in numbered.items()}
        changes: dict[str, Any] = {"id2label": numbered, "label2id": label2id}
        config = self.base.config
        if models.is_universal(config):
            return models.universal(self.base, weights, changes)
        if self._universal:
            from topwork_tasks._vision.dense_heads import backbone_with_maps
            from topwork_tasks.image_segmentation.mask_head import MaskHead

            size = self.options.mask_head or MaskHeadOptions()
            return MaskHead(backbone_with_maps(self.base, weights), size, len(numbered))
        for name in ("semantic_loss_ignore_index", "loss_ignore_index"):
            if hasattr(config, name):
                changes[name] = self.options.ignore_index
        native = self.base.native(*models.SEMANTIC, weights=weights, **changes)
        if native is not None:
            return native
        from topwork_tasks._vision.dense_heads import DenseHead, backbone_with_maps

        self._dense = True
        return DenseHead(backbone_with_maps(self.base, weights), len(numbered), self.options.decoder)

    @property
    def label_names(self) -> list[str]:
        return self.state.values["label_names"]

    @property
    def _stuff(self) -> list[str]:
        """Labels whose segments are one; a folder of an older version has them in its options alone."""
        return self.state.values.get("stuff", self.options.stuff or [])

    @property
    def processor(self) -> Any:
        return self.state.processors["image_processor"]

    @cached_property
    def _universal(self) -> bool:
        return models.learns_masks(self.base.config, self.options)

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

    def precheck(self, row: Row, mode: Mode) -> bool:
        maps = ("mask",) if self.options.kind == "semantic" else ("mask", "instances")
        return _headers.doubtful(row, *(() if mode == "predict" else maps))

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
                    f"the image processor refuses it: {error}", row=number, column="image", hint="leave the row out"
                ) from error
            # random crops must not change the cost, so it is told from the picture as it came
            height, width = self._shape or (size[1], size[0])
            items.append(Item(number, inputs, cost=height * width, extra={"size": size, "seed": own}))
        return items

    def collate(self, items: Sequence[Item], mode: Mode) -> Batch:
        return batched(items, mode, self._universal, self.options.ignore_index)

    def cost_budget(self, device: str) -> int | None:
        return _image.cost_budget(device)

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

    def target_counts(self, batch: Batch) -> tuple[float | torch.Tensor]:
        if self._universal:  # the losses of masks; the cross-entropy of their labels, a mean over queries, goes along
            return (sum(len(labels) for labels in batch.inputs["class_labels"]),)
        if self._dense or not models.averages_over_pixels(self.base.config, len(self.label_names)):
            return (len(batch),)
        return ((batch.inputs["labels"] != self.options.ignore_index).sum(),)

    def row_losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """At once for the generic task head and for SegFormer; heads with auxiliary outputs and universal segmenters,
        whose loss is divided by the masks of the batch, row by row."""
        if self.single_row_losses:
            return super().row_losses(model, batch)
        return self._own_losses(model, batch, self.options.dice if self._dense else 0.0)

    @property
    def single_row_losses(self) -> bool:
        plain = self.base.config.model_type == "segformer" and len(self.label_names) > 1
        return not (self._dense or plain)

    def _own_losses(self, model: nn.Module, batch: Batch, dice: float) -> torch.Tensor:
        from topwork_tasks._vision.dense_heads import row_losses

        logits = model(**_image.model_tensors(batch, model, "labels")).logits
        return row_losses(logits, batch.inputs["labels"], self.options.ignore_index, dice)

    def predict(self, model: nn.Module, batch: Batch) -> list[Any]:
        parts: list[Any] = [None] * len(batch)
        for places, tensors in _detectors.by_shape(_image.model_tensors(batch, model, "labels")):
            outputs = model(**tensors)
            sizes = [batch.items[place].extra["size"] for place in places]
            if self._universal:
                pairs = zip(outputs_of.one_by_one(outputs), sizes)
                stuff = [self.label_names.index(name) for name in self._stuff]
                found = [outputs_of.read(self.processor, *pair, self.options, stuff) for pair in pairs]
            else:
                found = outputs_of.semantic_maps(outputs.logits, sizes)
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
        return PanopticMetric(self.label_names, self._truth.segments, self._stuff)

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


@hookimpl
def register_tasks() -> list[type[Task]]:
    return [ImageSegmentation]
