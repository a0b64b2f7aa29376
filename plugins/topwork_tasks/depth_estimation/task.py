"""depth-estimation: the distance of every pixel, by the architecture's own class (GLPN, DPT, Depth Anything) or by a
dense task head on the feature maps of any backbone, whose decoder may be that of DPT.

transformers' classes have no training loss, or one without a mask of invalid pixels: the losses here are topwork's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from topwork import (
    Batch,
    Column,
    DataError,
    Item,
    Json,
    Mode,
    Picture,
    Row,
    State,
    Task,
    TaskOptions,
    Units,
    UsageError,
    hookimpl,
)
from topwork_tasks._vision import headers as _headers
from topwork_tasks._vision import images as _image
from topwork_tasks._vision.patches import patch_units
from topwork_tasks._vision.segmentation_views import depth_transform, viewed
from topwork_tasks.depth_estimation import depth_maps as _depth
from topwork_tasks.depth_estimation import learned as _depth_learned
from topwork_tasks.depth_estimation.exr import is_exr
from topwork_tasks.depth_estimation.metric import Align, DepthMetric, measured
from topwork_tasks.object_detection import detectors as _detectors

if TYPE_CHECKING:
    import numpy
    import torch
    from torch import nn

HEAD = ("AutoModelForDepthEstimation",)


class DepthEstimationOptions(TaskOptions):
    """Options of depth-estimation."""

    loss: _depth.Loss = Field(
        "silog", description="silog and l1: depth in the rows' unit; scale_shift_invariant: up to scale and shift"
    )
    silog_share: float = Field(0.5, ge=0, le=1, description="of the squared mean in silog; 1: scale does not count")
    depth_scale: PositiveFloat = Field(
        1.0, description="the data's numbers are divided by it: 1000 for millimetres, 256 for KITTI"
    )
    min_depth: PositiveFloat = Field(1e-3, description="metrics cut predictions to it")
    max_depth: PositiveFloat | None = Field(
        None, description="deeper pixels do not count; the generic task head then ends in a sigmoid times this"
    )
    align: Align = Field("none", description="metrics: fit predictions to the truth of each picture first")
    decoder: Literal["pyramid", "linear", "dpt"] = Field(
        "pyramid", description="of the generic task head: all maps joined; one layer on the last map; DPT's"
    )
    augment: _image.Augment = Field(
        "none", description="light: mirror images, changes of brightness; standard: crops too; strong: colours too"
    )
    image_size: PositiveInt | None = Field(None, description="pixels; for bases without an image processor")
    write_as: Literal["npy", "png16"] = Field("npy", description="files of predictions")
    png_scale: PositiveFloat = Field(1000.0, description="png16: depth is multiplied by it")


class DepthEstimation(Task):
    """Tell the distance of every pixel.

    | bad input | what happens |
    |---|---|
    | `image`, `depth`: missing | refused |
    | `image`: None; a number; of floats; of no pixels; neither bytes nor a path | refused |
    | `image`: no such file; no image; cut short | refused |
    | `image`: grey; palette; transparent; 16-bit; CMYK | handled: converted |
    | `image`: of one pixel; very wide | handled: resized by the image processor, the prediction back again |
    | `depth`: None; a number; texts; no such file; no such array; no map; cut short | refused |
    | `depth`: a colour picture; another size | refused |
    | `depth`: NaN in it; infinite in it; negative in it; 0 in it | handled: such pixels do not count |
    | `depth`: of integers | handled: divided by `depth_scale` |
    | `depth`: without a valid pixel | refused in training, handled in evaluation: `rows_without_depth` |

    An image processor that crops or pads is refused: depth could not follow. Deeper pixels than `max_depth` do not
    count.
    """

    name = "depth-estimation"
    Options = DepthEstimationOptions
    columns: ClassVar[Mapping[str, Column]] = {
        "image": Column("a picture: PIL, {bytes, path}, a path, or an uint8 array", lazy=True),
        "depth": Column(
            "depth of each pixel: an image of mode I;16, I or F, a path (.npy, .exr too), an array or nested lists",
            target=True,
            lazy=True,
        ),
    }
    cost_unit = "pixels"

    # ------------------------------------------------------------------ once

    @classmethod
    def learn(cls, rows: Any, bases: Mapping[str, Any], options: DepthEstimationOptions) -> State:
        base = bases["base"]
        processor = _image.saved_processor(base, options.image_size)
        if processor is None:
            processor = _depth_learned.learned_processor(rows, base, options.image_size)
        for name in ("do_center_crop", "do_pad"):
            if getattr(processor, name, False):
                raise UsageError(
                    f"the image processor has `{name}`: depth maps could not follow",
                    place="base.processor",
                    hint=f"save it with `{name}: false`",
                )
        typical = _depth_learned.typical_depth(rows, options.depth_scale, options.max_depth)
        return State({"typical_depth": typical}, {"image_processor": processor})

    def build(self, weights: bool = True) -> nn.Module:
        from topwork_tasks._vision.dense_heads import DepthHead, backbone_with_maps

        typical = self.state.values["typical_depth"]
        native = self.base.native(*HEAD, weights=weights)
        if native is not None:
            if weights and (self.base.scratch or self.base.options.head == "new"):
                _depth.awaken(native, typical)
            return native
        backbone = backbone_with_maps(self.base, weights)
        return DepthHead(backbone, self.options.decoder, self.options.max_depth, typical)

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

        mode = _image.mode_of(self.base.config)
        shapes = [self._pixels(Image.new(mode, size)).shape for size in ((64, 96), (96, 64))]
        return (shapes[0][1], shapes[0][2]) if shapes[0] == shapes[1] else None

    @cached_property
    def _augment(self) -> Any:
        height, width = self._shape or (480, 640)
        return depth_transform(self.options.augment, height, width)

    def _pixels(self, image: Any) -> torch.Tensor:
        """[channels, height, width]"""
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]

    def _truth(self, row: Row, size: tuple[int, int] | None, position: int | None = None) -> numpy.ndarray:
        """float32 [height, width], 0 where depth is not known."""
        if "depth" not in row:
            raise DataError("is missing", row=position, column="depth", hint="map it in `data.columns`")
        return _depth.open_depth(row["depth"], position, size, self.options.depth_scale, self.options.max_depth)

    def precheck(self, row: Row, mode: Mode) -> bool:
        # the header of an EXR file is not read here
        plain = mode == "predict" or is_exr(row.get("depth"))
        return _headers.doubtful(row, *(() if plain else ("depth",)))

    def encode(self, rows: Sequence[Row], mode: Mode, seed: int) -> list[Item]:
        items = []
        for number, row in enumerate(rows):
            image = _image.open_image(row.get("image"), number, "image", _image.mode_of(self.base.config))
            size, truth = image.size, None
            if mode != "predict":
                truth = self._truth(row, size, number)
                if not (truth > 0).any():
                    raise DataError("has no valid pixel", row=number, column="depth", hint="leave the row out")
            if mode == "train" and truth is not None and self._augment is not None:
                with _image.seeded(_image.row_seed(seed, image)):
                    image, truth = viewed(self._augment, image, truth)
            try:
                inputs = {"pixel_values": self._pixels(image)}
            except (ValueError, RuntimeError) as error:
                raise DataError(
                    f"the image processor refuses it: {error}", row=number, column="image", hint="leave the row out"
                ) from error
            if truth is not None:
                inputs["labels"] = _depth.resized(truth, inputs["pixel_values"].shape[-2:])
            # random crops must not change the cost, so it is told from the picture as it came
            height, width = self._shape or (size[1], size[0])
            items.append(Item(number, inputs, cost=height * width, extra=size))
        return items

    def collate(self, items: Sequence[Item], mode: Mode) -> Batch:
        inputs = _detectors.side_by_side(items)
        if mode != "predict":
            import torch

            labels = [item.inputs["labels"] for item in items]
            inputs["labels"] = torch.stack(labels) if len({entry.shape for entry in labels}) == 1 else labels
        return Batch(inputs, items)

    def cost_budget(self, device: str) -> int | None:
        return _image.cost_budget(device)

    def costs(self, rows: Sequence[Row]) -> list[list[int]] | None:
        if self._shape is None:
            return None
        return [[self._shape[0] * self._shape[1]] for _ in range(len(rows))]

    # ------------------------------------------------------------------ tensors -> numbers

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return self.row_losses(model, batch).mean()

    def row_losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Rows do not touch each other: one forward for the pictures of each size."""
        import torch

        losses: list[Any] = [None] * len(batch)
        for places, tensors in _detectors.by_shape(_image.model_tensors(batch, model)):
            labels = tensors.pop("labels")
            predicted = model(**tensors).predicted_depth
            found = _depth.row_losses(predicted, labels, self.options.loss, self.options.silog_share)
            for place, loss in zip(places, found):
                losses[place] = loss
        return batch.mean_by_row(torch.stack(losses))

    @property
    def single_row_losses(self) -> bool:
        return self._shape is None

    def predict(self, model: nn.Module, batch: Batch) -> list[Any]:
        parts: list[Any] = [None] * len(batch)
        for places, tensors in _detectors.by_shape(_image.model_tensors(batch, model, "labels")):
            for place, depth in zip(places, model(**tensors).predicted_depth):
                parts[place] = _depth.enlarged(depth, batch.items[place].extra)
        return parts

    def merge(self, row: Row, parts: Sequence[Any]) -> _depth.Depth:
        return _depth.Depth(super().merge(row, parts))

    # ------------------------------------------------------------------ numbers -> people

    def metric(self) -> DepthMetric:
        return DepthMetric(self._truth, self.options.min_depth, self.options.max_depth, self.options.align)

    def write(self, prediction: _depth.Depth, folder: Path, name: str) -> Json:
        return _depth.written(prediction, folder, name, self.options.write_as, self.options.png_scale)

    def units(self, item: Item) -> Units:
        return patch_units(self.base, item.inputs["pixel_values"], self.processor)

    def draw(self, row: Row, prediction: _depth.Depth) -> Picture:
        image = _image.open_image(row.get("image"), None, "image")
        found = prediction["predicted_depth"]
        caption, maps, badness = f"depth from {found.min():.3g} to {found.max():.3g}", [found], 0.0
        if row.get("depth") is not None:
            truth = self._truth(row, image.size)
            valid = truth > 0
            maps = [truth, found]
            if valid.any():
                options = self.options
                badness = measured(
                    found[valid].astype(float),
                    truth[valid].astype(float),
                    options.min_depth,
                    options.max_depth,
                    options.align,
                )[0]
            caption += f", off by {badness:.1%} on the mean (picture, truth, prediction; near is bright)"
        return Picture(caption, badness, _depth.beside(image, maps, max(float(entry.max()) for entry in maps)))

    @classmethod
    def example_rows(cls) -> list[Row]:
        """Bright squares on a dark wall: the larger, the nearer; two pixels without depth."""
        import numpy
        from PIL import Image

        rows: list[Row] = []
        for number in range(8):
            pixels = numpy.full((40, 48, 3), (30, 40, 60), numpy.uint8)
            depth = numpy.full((40, 48), 5.0 + number % 3, numpy.float32)
            side, left = 10 + 3 * (number % 5), 2 + 2 * number
            pixels[6 : 6 + side, left : left + side] = (90 + 15 * number, 200, 120)
            depth[6 : 6 + side, left : left + side] = 30.0 / side
            depth[0, :2] = (0.0, numpy.nan)
            rows.append({"image": Image.fromarray(pixels), "depth": depth})
        return rows


@hookimpl
def register_tasks() -> list[type[Task]]:
    return [DepthEstimation]
