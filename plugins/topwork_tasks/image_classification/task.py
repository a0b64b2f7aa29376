"""image-classification: one label, or any number of labels, for an image.

The task head is the architecture's own where transformers (or timm) has one, else a linear layer on the pooled
backbone. When the base is a config, size, mean and deviation of the pictures are learned from the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from topwork import Batch, Column, Item, Mode, Picture, Row, State, UsageError
from topwork_tasks._classification.classifier import Classifier, ClassifierOptions
from topwork_tasks._classification.scores import logits_to_scores
from topwork_tasks._classification.view import LabelsView
from topwork_tasks._vision import augmentation, inputs
from topwork_tasks._vision.batches import model_tensors, stack
from topwork_tasks._vision.headers import may_be_refused
from topwork_tasks._vision.image_task import IMAGE_COLUMN, ImageTask
from topwork_tasks._vision.images import magnified
from topwork_tasks._vision.preview import ImageView
from topwork_tasks.image_classification.mixup import mix

if TYPE_CHECKING:
    import torch
    from torch import nn


class ImageClassificationOptions(ClassifierOptions, inputs.ImageOptions):
    """Options of image-classification."""

    mixup: float = Field(0.0, ge=0, description="alpha of mixup (Zhang et al. 2017, arXiv 1710.09412); 0: none")
    cutmix: float = Field(0.0, ge=0, description="alpha of cutmix (Yun et al. 2019, arXiv 1905.04899); 0: none")
    augment: augmentation.Augment = Field("none", description=augmentation.augment_help(augmentation.IMAGE_PARTS))
    pooling: Literal["mean", "first", "own"] = Field("mean", description="of the generic task head")
    mirror: bool = Field(
        False, description="predict with the mean of the scores of an image and of its mirror image; metrics too"
    )


class _ClassesView(LabelsView, ImageView):
    """Images, and doubts about their labels."""


class ImageClassification(ImageTask, Classifier):
    """Put labels on images.

    Rows that it refuses or mends: `_classification/bad_input.md`.
    """

    name = "image-classification"
    Options = ImageClassificationOptions
    columns: ClassVar[Mapping[str, Column]] = {
        "image": IMAGE_COLUMN,
        "label": Column("a label's name or number; with multi_label a list of them", target=True, kind="label"),
    }
    rows_view = _ClassesView()
    HEAD = ("AutoModelForImageClassification",)
    usual_top = 5  # as the Hub's pipeline

    # ------------------------------------------------------------------ once

    @classmethod
    @override
    def learn(cls, rows: Any, bases: Mapping[str, Any], options: ImageClassificationOptions) -> State:
        base = bases["base"]
        if cls.target_kind(base, options) == "multi" and (options.mixup or options.cutmix):
            raise UsageError("mixup and cutmix are for one label a row", place="task", hint="leave them out")
        labels, notes = cls.learn_labels(rows, base, options)
        processor = inputs.saved_processor(base, options.image_size)
        pixel_range = inputs.find_pixel_range(rows, options, base.config, notes)
        if processor is None:
            make = partial(_make_processor, base.config)
            processor = inputs.learn_processor(rows, base, options, pixel_range, make)
            inputs.size_changes(base, options.image_size)
        return State({**labels, "pixel_range": pixel_range}, {"image_processor": processor}, notes)

    def __init__(self, bases: Mapping[str, Any], options: ImageClassificationOptions, state: State) -> None:
        super().__init__(bases, options, state)
        self.inputs = inputs.ImageInputs(self.processor, self.base.config, options, state.values)
        self._parts = augmentation.augment_parts(options.augment, augmentation.IMAGE_PARTS)
        self._mixes = options.mixup > 0 or options.cutmix > 0
        self.repeatable = not self._parts and not self._mixes

    @override
    def build(self, weights: bool = True) -> nn.Module:
        from topwork.task_heads import PooledHead

        size_changes = inputs.size_changes(self.base, self.options.image_size)
        changes = {**self.head_config(), **inputs.config_entries(self.base.config, self.processor), **size_changes}
        native = self.base.native(*self.HEAD, weights=weights, **changes)
        if native is not None:
            return native
        # a masked autoencoder would hide most of the image from its task head
        sees_all: dict[str, Any] = {"mask_ratio": 0.0} if hasattr(self.base.config, "mask_ratio") else {}
        backbone = inputs.reading_images(self.base.backbone(weights=weights, **sees_all, **size_changes), self.base)
        return PooledHead(backbone, len(self.names), self.options.pooling, self.options.dropout)

    # ------------------------------------------------------------------ rows -> tensors

    @cached_property
    def _augment(self) -> Any:
        height, width = self.inputs.shape or (224, 224)
        colour = inputs.mean_colour(self.processor)
        return augmentation.make_augmentation(self._parts, height, width, colour)

    @override
    def precheck(self, row: Row, mode: Mode) -> bool:
        return may_be_refused(row, check=None if mode == "predict" else lambda row, _: self.targets.of(row))

    @override
    def encode(self, rows: Sequence[Row], mode: Mode, seed: int) -> list[Item]:
        items = []
        for index, row in enumerate(rows):
            target = {} if mode == "predict" else {"label": self.targets.of(row, index)}
            image, _ = self.inputs.open(row, index)
            row_seed = augmentation.row_seed(seed, image) if mode == "train" and not self.repeatable else 0
            if mode == "train" and self._augment is not None:
                with augmentation.seeding_torch(row_seed):
                    image = self._augment(image)
            tensors = self.inputs.features(image, index)
            height, width = tensors["pixel_values"].shape[-2:]
            items.append(Item(index, {**target, **tensors}, cost=height * width, extra=row_seed))
        return items

    @override
    def collate(self, items: Sequence[Item], mode: Mode) -> Batch:
        tensors: dict[str, Any] = {"pixel_values": stack([item.inputs["pixel_values"] for item in items])}
        if mode != "predict":
            tensors["labels"] = self.targets.tensor([item.inputs["label"] for item in items])
        if mode == "train" and self._mixes and len(items) > 1:
            options, seed = self.options, sum(item.extra for item in items)
            mix(tensors, len(self.label_names), options.mixup, options.cutmix, seed)
        return Batch(tensors, items)

    # ------------------------------------------------------------------ tensors -> numbers

    @override
    def logits(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return model(**model_tensors(batch, model, "labels")).logits

    @override
    def predict(self, model: nn.Module, batch: Batch) -> list[Any]:
        if not self.options.mirror:
            return super().predict(model, batch)
        pixels = batch.inputs["pixel_values"]
        if pixels.ndim != 4:
            raise UsageError(
                f"`mirror` needs images, and {type(model).__name__} takes patches", place="task", hint="leave it out"
            )
        mirrored = Batch({**batch.inputs, "pixel_values": pixels.flip(-1)}, batch.items)
        both = [logits_to_scores(self.logits(model, given), self.kind) for given in (batch, mirrored)]
        means = ([sum(pair) / 2 for pair in zip(*scores)] for scores in zip(*both))
        return [self.prediction(scores) for scores in means]

    # ------------------------------------------------------------------ predictions -> readers

    @override
    def draw(self, row: Row, prediction: Any) -> Picture:
        return self.drawn(row, prediction, image=magnified(self.inputs.open(row, None, "RGB")[0]))

    @classmethod
    @override
    def example_rows(cls) -> list[Row]:
        from PIL import Image, ImageDraw

        rows: list[Row] = []
        for index in range(9):
            label = ("circle", "square", "cross")[index % 3]
            image = Image.new("RGB", (32, 32), (20 * (index % 4), 30, 60))
            pen, box = ImageDraw.Draw(image), (6 + index % 3, 6, 22 + index % 4, 22 + index % 3)
            if label == "circle":
                pen.ellipse(box, fill="white")
            elif label == "square":
                pen.rectangle(box, fill="white")
            else:
                pen.line((6, 6, 24, 24), fill="white", width=4)
                pen.line((6, 24, 24, 6), fill="white", width=4)
            rows.append({"image": image, "label": label})
        return rows


def _make_processor(config: Any, height: int, width: int, mean: list[float], deviation: list[float]) -> Any:
    return inputs.resizing_processor(config, (height, width), mean, deviation)
