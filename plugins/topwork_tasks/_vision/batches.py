"""Items of images -> batches: stacked where sizes agree, kept apart for predictions, padded for training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from topwork import Batch, DataError, Item, map_tensors

if TYPE_CHECKING:
    import torch


def stack(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack images of one size.

    Raises:
        DataError: they differ in size.
    """
    import torch

    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1:
        raise DataError(
            f"the image processor makes images of different sizes ({sorted(shapes)[0]}, {sorted(shapes)[1]})",
            column="image",
            hint="choose an image processor that resizes to one size",
        )
    return torch.stack(list(tensors))


def side_by_side(items: Sequence[Item]) -> dict[str, Any]:
    """Return inputs for prediction: stacked where all images have one size, else lists.

    Padding would change predictions.
    """
    import torch

    names = [name for name in ("pixel_values", "pixel_mask") if name in items[0].inputs]
    tensors: dict[str, Any] = {name: [item.inputs[name] for item in items] for name in names}
    if len({pixels.shape for pixels in tensors["pixel_values"]}) == 1:
        return {name: torch.stack(entries) for name, entries in tensors.items()}
    return tensors


def by_shape(inputs: Mapping[str, Any]) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """Yield (indices in the batch, stacked inputs) of the images of each size."""
    import torch

    pixels = inputs["pixel_values"]
    if isinstance(pixels, torch.Tensor):
        yield list(range(len(pixels))), dict(inputs)
        return
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(pixels):
        groups.setdefault(tuple(image.shape), []).append(index)
    for indices in groups.values():
        yield indices, {name: torch.stack([entries[i] for i in indices]) for name, entries in inputs.items()}


def padded(items: Sequence[Item], masked: bool) -> tuple[dict[str, Any], list[Any]]:
    """Return inputs for training, padded with zeros at the right and below.

    Args:
        items: items with `pixel_values` [channels, height, width].
        masked: add `pixel_mask` [items, height, width], 1 where a pixel is no padding.

    Returns:
        the inputs, and for each item what its boxes are multiplied by: detectors without a mask take the padded image
        for the whole. (DETR's image processor gives shares of the padded image with a mask too; then the boxes of an
        image would depend on what else is in its batch, and the way back to pixels, which knows the image alone, would
        be wrong.)
    """
    import torch

    images = [item.inputs["pixel_values"] for item in items]
    height, width = (max(image.shape[axis] for image in images) for axis in (-2, -1))
    canvas = images[0].new_zeros(len(items), images[0].shape[0], height, width)
    mask = torch.zeros(len(items), height, width, dtype=torch.long)
    shares = []
    for index, (item, image) in enumerate(zip(items, images)):
        canvas[index, :, : image.shape[-2], : image.shape[-1]] = image
        item_mask = item.inputs.get("pixel_mask")
        mask[index, : image.shape[-2], : image.shape[-1]] = 1 if item_mask is None else item_mask
        across, down = image.shape[-1] / width, image.shape[-2] / height
        shares.append(torch.ones(4) if masked else torch.tensor([across, down, across, down]))
    if masked:
        return {"pixel_values": canvas, "pixel_mask": mask}, shares
    return {"pixel_values": canvas}, shares


def pad_map(values: torch.Tensor, height: int, width: int, fill: int) -> torch.Tensor:
    """Pad [..., h, w] to [..., height, width] at the right and below."""
    if tuple(values.shape[-2:]) == (height, width):
        return values
    canvas = values.new_full((*values.shape[:-2], height, width), fill)
    canvas[..., : values.shape[-2], : values.shape[-1]] = values
    return canvas


def model_tensors(batch: Batch, model: Any, *without: str) -> dict[str, Any]:
    """Return the inputs of a batch except those named in `without`, floats in the model's dtype."""
    import torch

    dtype = next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), torch.float32)
    chosen = {name: value for name, value in batch.inputs.items() if name not in without}
    if dtype == torch.float32:
        return chosen
    return map_tensors(chosen, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)
