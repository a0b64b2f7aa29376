"""image-segmentation: a label for every pixel (semantic), a mask for every thing (instance), or both (panoptic).

Semantic segmentation goes by the architecture's own class (SegFormer, UperNet, BEiT, DPT ...), by a universal segmenter
(MaskFormer, Mask2Former, EoMT), or by a dense task head on the feature maps of any backbone; the other two kinds by
universal segmenters, or by Mask2Former's decoders on any backbone. Truth is a map of numbers; predictions have the
size of the original image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, NonNegativeInt
from typing_extensions import override

import topwork as tw
from topwork_tasks._classification.labels import label_config
from topwork_tasks._vision import augmentation, batches
from topwork_tasks._vision.frames import ANNOTATED_SIZE
from topwork_tasks._vision.headers import may_be_refused
from topwork_tasks._vision.image_task import IMAGE_COLUMN, ImageTask
from topwork_tasks._vision.inputs import ImageInputs, mean_colour, size_changes
from topwork_tasks._vision.maps import shrink_map
from topwork_tasks._vision.preview import doubts_of_rows
from topwork_tasks.image_segmentation import drawing, models, outputs
from topwork_tasks.image_segmentation.examples import mask_examples
from topwork_tasks.image_segmentation.labels import learn_state
from topwork_tasks.image_segmentation.metrics import InstanceMetric, PanopticMetric, SemanticMetric
from topwork_tasks.image_segmentation.options import ImageSegmentationOptions, MaskHeadOptions
from topwork_tasks.image_segmentation.preview import SegmentationView
from topwork_tasks.image_segmentation.truth import SegmentationTruth

if TYPE_CHECKING:
    import torch
    from torch import nn


class ImageSegmentation(ImageTask):
    """Label the pixels of images. `bad_input.md` says what becomes of bad rows.

    UperNet, BEiT and other heads with pooled context normalise over the batch and cannot learn from a single row: a
    batch of one is doubled, which leaves its loss as it is. Larger batches train better.
    """

    name = "image-segmentation"
    Options = ImageSegmentationOptions
    columns: ClassVar[Mapping[str, tw.Column]] = {
        "image": IMAGE_COLUMN,
        "mask": tw.Column(
            "numbers of labels: an image of mode L, P or I, a path or an array; panoptic: COCO's segment ids",
            target=True,
            required=False,
            lazy=True,
            kind="mask",
        ),
        "instances": tw.Column(
            "numbers of instances, 0 for none, beside `mask`", target=True, required=False, lazy=True, kind="mask"
        ),
        "objects": tw.Column(
            "{segmentation: [polygons or run lengths], category: [name or number]}",
            target=True,
            required=False,
            kind="boxes",
        ),
        "segments_info": tw.Column(
            "panoptic: [{id, category_id, iscrowd, isthing}], as in COCO", target=True, required=False, kind="segments"
        ),
        "annotated_size": tw.Column(ANNOTATED_SIZE, target=True, required=False),
        "colour_table": tw.Column(
            "file that names the colours of the mask: lines of name,red,green,blue",
            target=True,
            required=False,
            kind="file",
        ),
    }
    state_types: ClassVar[Mapping[str, Any]] = {
        "label_names": tw.OutputNames,
        "declared": tw.OutputNames | None,
        "reduce_labels": bool,
        "stuff": list[str],
        "pixel_range": list[float] | None,
        "colours": dict[str, Annotated[list[NonNegativeInt], Field(min_length=3, max_length=3)]],
    }
    rows_view = SegmentationView()
    _dense = False

    # ------------------------------------------------------------------ once

    @classmethod
    @override
    def learn(cls, rows: Any, bases: Mapping[str, Any], options: ImageSegmentationOptions) -> tw.State:
        return learn_state(rows, bases["base"], options, doubts_of_rows(cls.rows_view, rows, options))

    def __init__(self, bases: Mapping[str, Any], options: ImageSegmentationOptions, state: tw.State) -> None:
        super().__init__(bases, options, state)
        self.label_names: list[str] = state.values["label_names"]
        # labels whose segments are one; a folder of an older version has them in its options alone
        self._stuff: list[str] = state.values.get("stuff", options.stuff or [])
        self._universal = models.learns_masks(self.base.config, options)
        self._truth = SegmentationTruth(options, state.values, self._universal)
        self.inputs = ImageInputs(self.processor, self.base.config, options, state.values, self._process)
        self._parts = augmentation.augment_parts(options.augment, augmentation.MAP_PARTS)
        self.repeatable = not self._parts

    @override
    def build(self, weights: bool = True) -> nn.Module:
        config, outputs_count = self.base.config, len(self.label_names)
        size_change = size_changes(self.base, self.options.image_size)
        changes: dict[str, Any] = {**label_config(self.label_names), **size_change}
        if models.is_universal(config):
            return models.build_universal(self.base, weights, changes)
        if self._universal:
            from topwork_tasks._vision.dense_heads import backbone_with_maps
            from topwork_tasks.image_segmentation.mask_head import MaskHead

            size = self.options.mask_head or MaskHeadOptions()
            return MaskHead(backbone_with_maps(self.base, weights, **size_change), size, outputs_count)
        for name in ("semantic_loss_ignore_index", "loss_ignore_index"):
            if hasattr(config, name):
                changes[name] = self.options.ignore_index
        native = self.base.native(*models.SEMANTIC, weights=weights, **changes)
        if native is not None:
            return native
        from topwork_tasks._vision.dense_heads import DenseHead, backbone_with_maps

        self._dense = True
        return DenseHead(backbone_with_maps(self.base, weights, **size_change), outputs_count, self.options.decoder)

    # ------------------------------------------------------------------ rows -> tensors

    @cached_property
    def _augment(self) -> Any:
        height, width = self.inputs.shape or (512, 512)
        fill = 0 if self._universal else self.options.ignore_index
        colour = mean_colour(self.processor)
        return augmentation.make_augmentation(self._parts, height, width, colour, "map", fill)

    def _process(self, image: Any, truth: Any = None, labels: Mapping[int, int] | None = None) -> dict[str, Any]:
        if self._universal:
            return models.universal_inputs(self.processor, image, truth, labels)
        return models.semantic_inputs(self.processor, image, truth)

    @override
    def precheck(self, row: tw.Row, mode: tw.Mode) -> bool:
        maps = ("mask",) if self.options.kind == "semantic" else ("mask", "instances")
        if mode == "predict":
            return may_be_refused(row)
        return may_be_refused(row, *maps, check=self._truth.check_declared)

    @override
    def encode(self, rows: Sequence[tw.Row], mode: tw.Mode, seed: int) -> list[tw.Item]:
        items = []
        for index, row in enumerate(rows):
            image, size = self.inputs.open(row, index)
            truth, labels = (None, None) if mode == "predict" else self._truth.target(row, size, index)
            truth = None if truth is None else shrink_map(truth, image.size)
            row_seed = 0 if mode == "predict" else augmentation.row_seed(seed if mode == "train" else 0, image)
            if mode == "train" and truth is not None and self._augment is not None:
                with augmentation.seeding_torch(row_seed):
                    image, truth = augmentation.augment_map(self._augment, image, truth)
            tensors = self.inputs.features(image, index, truth, labels)
            items.append(tw.Item(index, tensors, self.inputs.cost(size), {"size": size, "seed": row_seed}))
        return items

    @override
    def collate(self, items: Sequence[tw.Item], mode: tw.Mode) -> tw.Batch:
        if mode == "predict":
            return tw.Batch(batches.side_by_side(items), items)
        tensors, _ = batches.padded(items, "pixel_mask" in items[0].inputs)
        height, width = tensors["pixel_values"].shape[-2:]
        if self._universal:
            tensors["mask_labels"] = [batches.pad_map(i.inputs["mask_labels"], height, width, 0) for i in items]
            tensors["class_labels"] = [item.inputs["class_labels"] for item in items]
            return tw.Batch(tensors, items)
        ignored = self.options.ignore_index
        maps = [batches.pad_map(item.inputs["labels"], height, width, ignored) for item in items]
        return tw.Batch({**tensors, "labels": batches.stack(maps).long()}, items)

    # ------------------------------------------------------------------ tensors -> numbers

    @override
    def output_kinds(self) -> dict[str, tw.OutputKind]:
        if self._universal:
            return {"class_queries_logits": "classes", "masks_queries_logits": "labels"}
        return {"logits": "maps" if len(self.label_names) > 1 else "labels"}

    @override
    def loss(self, model: nn.Module, batch: tw.Batch) -> torch.Tensor:
        if self._universal:
            return models.universal_loss(model, batch)
        loss = None if self._dense else models.native_loss(model, batch, self.options.ignore_index)
        return self._pixel_losses(model, batch).mean() if loss is None else loss

    @override
    def target_counts(self, batch: tw.Batch) -> tuple[float | torch.Tensor]:
        if self._universal:  # the losses of masks; the cross-entropy of their labels, a mean over queries, goes along
            return (sum(len(labels) for labels in batch.inputs["class_labels"]),)
        if self._dense or not models.averages_over_pixels(self.base.config, len(self.label_names)):
            return (len(batch),)
        return ((batch.inputs["labels"] != self.options.ignore_index).sum(),)

    def row_losses(self, model: nn.Module, batch: tw.Batch) -> torch.Tensor:
        """Return the loss of each row.

        One forward does for the generic task head and for SegFormer; heads with auxiliary outputs and universal
        segmenters, whose loss is divided by the masks of the batch, go row by row.
        """
        return super().row_losses(model, batch) if self.single_row_losses else self._pixel_losses(model, batch)

    @property
    @override
    def single_row_losses(self) -> bool:
        plain = self.base.config.model_type == "segformer" and len(self.label_names) > 1
        return not (self._dense or plain)

    def _pixel_losses(self, model: nn.Module, batch: tw.Batch) -> torch.Tensor:
        from topwork_tasks._vision.dense_heads import row_losses

        logits = model(**batches.model_tensors(batch, model, "labels")).logits
        dice = self.options.dice if self._dense else 0.0
        return row_losses(logits, batch.inputs["labels"], self.options.ignore_index, dice)

    @override
    def predict(self, model: nn.Module, batch: tw.Batch) -> list[Any]:
        parts: list[Any] = [None] * len(batch)
        stuff = [self.label_names.index(name) for name in self._stuff]
        for indices, tensors in batches.by_shape(batches.model_tensors(batch, model, "labels")):
            output = model(**tensors)
            sizes = [batch.items[index].extra["size"] for index in indices]
            if self._universal:
                pairs = zip(outputs.split_outputs(output), sizes)
                results = [outputs.read_universal(self.processor, *pair, self.options, stuff) for pair in pairs]
            else:
                results = outputs.semantic_maps(output.logits, sizes)
            for index, result in zip(indices, results):
                parts[index] = result
        return parts

    @override
    def merge(self, row: tw.Row, parts: Sequence[Any]) -> outputs.Segmentation:
        part: Any = super().merge(row, parts)
        if self.options.kind == "semantic":
            return outputs.semantic_prediction(part, self.label_names)
        if self.options.kind == "instance":
            labels, scores, rles, size = part
            return outputs.instance_prediction(labels, scores, rles, size, self.label_names, self.options.threshold)
        ids, labels, scores = part
        return outputs.panoptic_prediction(ids, labels, scores, self.label_names)

    # ------------------------------------------------------------------ predictions -> readers

    @override
    def metric(self) -> tw.Metric:
        if self.options.kind == "semantic":
            return SemanticMetric(self.label_names, self._truth.labels, self.options.ignore_index)
        if self.options.kind == "instance":
            return InstanceMetric(self.label_names, self._truth.segments)
        return PanopticMetric(self.label_names, self._truth.segments, self._stuff)

    @override
    def write(self, prediction: outputs.Segmentation, folder: Path, name: str) -> tw.Json:
        return outputs.write_masks(prediction, folder, name)

    @override
    def draw(self, row: tw.Row, prediction: outputs.Segmentation) -> tw.Picture:
        image, size = self.inputs.open(row, None, "RGB")
        if row.get("mask") is None and row.get("objects") is None:
            return drawing.draw_prediction(image, prediction, self.options.kind)
        if self.options.kind == "semantic":
            truth = self._truth.labels(row, size)
            return drawing.draw_semantic(image, prediction, truth, self.options.ignore_index)
        return drawing.draw_segments(image, prediction, self._truth.segments(row, size), self.label_names)

    @classmethod
    @override
    def example_rows(cls) -> list[tw.Row]:
        return mask_examples()
