"""depth-estimation: the distance of every pixel.

The task head is the architecture's own (GLPN, DPT, Depth Anything), or a dense one on the feature maps of any backbone,
whose decoder may be that of DPT. transformers' classes have no training loss, or one without a mask of invalid pixels:
the losses here are topwork's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import PositiveFloat
from typing_extensions import override

import topwork as tw
from topwork_tasks._vision import augmentation, batches, inputs
from topwork_tasks._vision.headers import may_be_refused, orientation_of
from topwork_tasks._vision.image_task import IMAGE_COLUMN, ImageTask
from topwork_tasks._vision.maps import shrink_map
from topwork_tasks._vision.preview import doubts_of_rows
from topwork_tasks.depth_estimation import depth_maps
from topwork_tasks.depth_estimation.examples import depth_examples
from topwork_tasks.depth_estimation.exr import is_exr
from topwork_tasks.depth_estimation.metric import DepthMetric, depth_figures
from topwork_tasks.depth_estimation.options import DepthEstimationOptions
from topwork_tasks.depth_estimation.preview import DepthView

if TYPE_CHECKING:
    import numpy
    import torch
    from torch import nn

HEAD = ("AutoModelForDepthEstimation",)


class DepthEstimation(ImageTask):
    """Estimate the distance of every pixel. `bad_input.md` says what becomes of bad rows."""

    name = "depth-estimation"
    Options = DepthEstimationOptions
    columns: ClassVar[Mapping[str, tw.Column]] = {
        "image": IMAGE_COLUMN,
        "depth": tw.Column(
            "depth of each pixel: an image of mode I;16, I or F, a path (.npy, .exr too), an array or nested lists",
            target=True,
            lazy=True,
            kind="depth",
        ),
        "depth_scale": tw.Column(
            "what the numbers of `depth` are divided by, where the source tells it",
            target=True,
            required=False,
            kind="number",
        ),
    }
    state_types: ClassVar[Mapping[str, Any]] = {"typical_depth": PositiveFloat, "pixel_range": list[float] | None}
    rows_view = DepthView()

    # ------------------------------------------------------------------ once

    @classmethod
    @override
    def learn(cls, rows: Any, bases: Mapping[str, Any], options: DepthEstimationOptions) -> tw.State:
        base, notes = bases["base"], doubts_of_rows(cls.rows_view, rows, options)
        processor = inputs.saved_processor(base, options.image_size)
        pixel_range = inputs.find_pixel_range(rows, options, base.config, notes)
        if processor is None:
            processor = inputs.learn_processor(rows, base, options, pixel_range, _make_processor, multiple=32)
            inputs.size_changes(base, options.image_size)
        for name in ("do_center_crop", "do_pad"):
            if getattr(processor, name, False):
                raise tw.UsageError(
                    f"the image processor has `{name}`: depth maps could not follow",
                    place="base.processor",
                    hint=f"save it with `{name}: false`",
                )
        typical = depth_maps.typical_depth(rows, options.depth_scale, options.max_depth, options.hole_values)
        return tw.State({"typical_depth": typical, "pixel_range": pixel_range}, {"image_processor": processor}, notes)

    def __init__(self, bases: Mapping[str, Any], options: DepthEstimationOptions, state: tw.State) -> None:
        super().__init__(bases, options, state)
        self.inputs = inputs.ImageInputs(self.processor, self.base.config, options, state.values)
        self._parts = augmentation.augment_parts(options.augment, augmentation.DEPTH_PARTS)
        self.repeatable = not self._parts

    @override
    def build(self, weights: bool = True) -> nn.Module:
        from topwork_tasks._vision.dense_heads import DepthHead, backbone_with_maps

        typical = self.state.values["typical_depth"]
        changes = inputs.size_changes(self.base, self.options.image_size)
        native = self.base.native(*HEAD, weights=weights, **changes)
        if native is not None:
            if weights and (self.base.scratch or self.base.options.head == "new"):
                depth_maps.start_at_depth(native, typical)
            return native
        backbone = backbone_with_maps(self.base, weights, **changes)
        return DepthHead(backbone, self.options.decoder, self.options.max_depth, typical)

    # ------------------------------------------------------------------ rows -> tensors

    @cached_property
    def _augment(self) -> Any:
        height, width = self.inputs.shape or (480, 640)
        colour = inputs.mean_colour(self.processor)
        return augmentation.make_augmentation(self._parts, height, width, colour, "map", crop=0.6)

    def _truth(self, row: tw.Row, size: tuple[int, int] | None, index: int | None = None) -> numpy.ndarray:
        """Return depth, float32 [height, width], 0 where it is not known."""
        if "depth" not in row:
            raise tw.DataError("is missing", row=index, column="depth", hint="map it in `data.columns`")
        options = self.options
        return depth_maps.open_depth(
            row["depth"],
            index,
            size,
            depth_maps.scale_of(row, options.depth_scale, index),
            options.max_depth,
            options.hole_values,
            lambda: orientation_of(row.get("image")),
        )

    @override
    def precheck(self, row: tw.Row, mode: tw.Mode) -> bool:
        # the header of an EXR file is not read here
        plain = mode == "predict" or is_exr(row.get("depth"))
        if mode != "predict" and depth_maps.has_bad_scale(row, self.options.depth_scale):
            return True
        return may_be_refused(row, *(() if plain else ("depth",)))

    @override
    def encode(self, rows: Sequence[tw.Row], mode: tw.Mode, seed: int) -> list[tw.Item]:
        items = []
        for index, row in enumerate(rows):
            image, size = self.inputs.open(row, index)
            truth = None
            if mode != "predict":
                truth = self._truth(row, size, index)
                if not (truth > 0).any():
                    raise tw.DataError("has no valid pixel", row=index, column="depth", hint="leave the row out")
                truth = shrink_map(truth, image.size)
            if mode == "train" and truth is not None and self._augment is not None:
                with augmentation.seeding_torch(augmentation.row_seed(seed, image)):
                    image, truth = augmentation.augment_map(self._augment, image, truth)
            tensors = self.inputs.features(image, index)
            if truth is not None:
                tensors["labels"] = depth_maps.resize_depth(truth, tensors["pixel_values"].shape[-2:])
            items.append(tw.Item(index, tensors, cost=self.inputs.cost(size), extra=size))
        return items

    @override
    def collate(self, items: Sequence[tw.Item], mode: tw.Mode) -> tw.Batch:
        tensors = batches.side_by_side(items)
        if mode != "predict":
            import torch

            labels = [item.inputs["labels"] for item in items]
            tensors["labels"] = torch.stack(labels) if len({depth.shape for depth in labels}) == 1 else labels
        return tw.Batch(tensors, items)

    # ------------------------------------------------------------------ tensors -> numbers

    @override
    def output_kinds(self) -> dict[str, tw.OutputKind]:
        return {"predicted_depth": "values"}

    @override
    def loss(self, model: nn.Module, batch: tw.Batch) -> torch.Tensor:
        return self.row_losses(model, batch).mean()

    def row_losses(self, model: nn.Module, batch: tw.Batch) -> torch.Tensor:
        """Return the loss of each row: rows do not influence each other, so one forward for the images of each size."""
        import torch

        losses: list[Any] = [None] * len(batch)
        for indices, tensors in batches.by_shape(batches.model_tensors(batch, model)):
            labels = tensors.pop("labels")
            predicted = model(**tensors).predicted_depth
            by_item = depth_maps.depth_losses(predicted, labels, self.options.loss, self.options.silog_share)
            for index, loss in zip(indices, by_item):
                losses[index] = loss
        return batch.mean_by_row(torch.stack(losses))

    @property
    @override
    def single_row_losses(self) -> bool:
        return self.inputs.shape is None

    @override
    def predict(self, model: nn.Module, batch: tw.Batch) -> list[Any]:
        parts: list[Any] = [None] * len(batch)
        for indices, tensors in batches.by_shape(batches.model_tensors(batch, model, "labels")):
            for index, depth in zip(indices, model(**tensors).predicted_depth):
                parts[index] = depth_maps.to_image_size(depth, batch.items[index].extra)
        return parts

    @override
    def merge(self, row: tw.Row, parts: Sequence[Any]) -> depth_maps.Depth:
        return depth_maps.Depth(super().merge(row, parts))

    # ------------------------------------------------------------------ predictions -> readers

    @override
    def metric(self) -> DepthMetric:
        return DepthMetric(self._truth, self.options.min_depth, self.options.max_depth, self.options.align)

    @override
    def write(self, prediction: depth_maps.Depth, folder: Path, name: str) -> tw.Json:
        return depth_maps.write_depth(prediction, folder, name, self.options.write_as, self.options.png_scale)

    @override
    def draw(self, row: tw.Row, prediction: depth_maps.Depth) -> tw.Picture:
        image, size = self.inputs.open(row, None, "RGB")
        predicted, options = prediction["predicted_depth"], self.options
        caption, maps, badness = f"depth from {predicted.min():.3g} to {predicted.max():.3g}", [predicted], 0.0
        if row.get("depth") is not None:
            truth = self._truth(row, size)
            valid = truth > 0
            maps = [truth, predicted]
            if valid.any():
                pair = predicted[valid].astype(float), truth[valid].astype(float)
                badness = depth_figures(*pair, options.min_depth, options.max_depth, options.align)[0]
            caption += f", off by {badness:.1%} on the mean (image, truth, prediction; near is bright)"
        deepest = max(float(depth.max()) for depth in maps)
        facts = {"nearest": float(predicted.min()), "deepest": float(predicted.max())}
        facts |= {"relative error": badness} if len(maps) == 2 else {}
        drawn = depth_maps.draw_depths(image, maps, deepest)
        return tw.Picture(caption, badness, drawn, facts=facts, measure="mean relative error")

    @classmethod
    @override
    def example_rows(cls) -> list[tw.Row]:
        return depth_examples()


def _make_processor(height: int, width: int, mean: list[float], deviation: list[float]) -> Any:
    """Make an image processor that plain transformers' pipeline can use."""
    from transformers import DPTImageProcessor

    sizes = {"height": height, "width": width}
    return DPTImageProcessor(size=sizes, image_mean=mean, image_std=deviation, do_normalize=True)
