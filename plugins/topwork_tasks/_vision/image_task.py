"""Base class of tasks on images: what follows from the images alone.

Entry points: `ImageTask`, `IMAGE_COLUMN`. A subclass makes `self.inputs`, an `ImageInputs`, and writes the rest of the
contract of `topwork.Task`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from topwork import Column, Item, Row, State, Task, Units
from topwork_tasks._vision.inputs import ImageInputs

IMAGE_COLUMN = Column("an image: PIL, {bytes, path}, a path, or an uint8 array", lazy=True, kind="image")


class ImageTask(Task):
    """Task whose items are images, read and resized by `inputs`.

    Attributes:
        inputs: image processor, sizes, costs and patches.
        state: has the image processor as `image_processor`.
    """

    cost_unit = "pixels"
    inputs: ImageInputs
    state: State

    @property
    def processor(self) -> Any:
        """The image processor of transformers."""
        return self.state.processors["image_processor"]

    @override
    def costs(self, rows: Sequence[Row]) -> list[list[int]] | None:
        return self.inputs.costs(rows)

    @override
    def cost_budget(self, device: str) -> int | None:
        return self.inputs.cost_budget(device)

    @override
    def units(self, item: Item) -> Units:
        return self.inputs.units(self.base, item.inputs["pixel_values"])
