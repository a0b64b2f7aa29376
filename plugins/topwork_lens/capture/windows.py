"""From windows back to the image: what was captured of windowed attention (Swin and its kin), in the image's order.

A windowed layer sees an image as windows, which stand in a batch one after another; a shifted layer rolls the image
first. What belongs to a query (an entropy) becomes a map; weights become a matrix over the whole image with zeros
between different windows.
"""

from __future__ import annotations

import torch

from topwork import UsageError


def places(grid: tuple[int, int], window: int, shift: int = 0) -> torch.Tensor:
    """Return the position in the image of each position of each window, row by row.

    Args:
        grid: height and width of the image in patches.
        window: the side of a window.
        shift: by how much the image is rolled up and left before it is cut into windows.

    Returns:
        [windows, window * window]; -1 where the image was padded to whole windows.
    """
    height, width = grid
    numbers = torch.full((height + -height % window, width + -width % window), -1, dtype=torch.long)
    numbers[:height, :width] = torch.arange(height * width).view(height, width)
    rolled = numbers.roll((-shift, -shift), (0, 1))
    return rolled.unflatten(0, (-1, window)).unflatten(2, (-1, window)).transpose(1, 2).reshape(-1, window * window)


def merged(values: torch.Tensor, grid: tuple[int, int], window: int | None, shift: int = 0) -> torch.Tensor:
    """Put what was captured of windows into the order of the image.

    Args:
        values: [items * windows, heads, queries], or weights [items * windows, heads, queries, keys].
        grid: height and width of the image in patches.
        window: side of a window; None where attention is not windowed.
        shift: as for `places`.

    Returns:
        [items, heads, height, width], or [items, heads, height * width, height * width].

    Raises:
        UsageError: the grid and the window do not give that many windows.
    """
    if window is None:
        if values.shape[2] != grid[0] * grid[1]:
            cause = f"{values.shape[2]} positions do not make an image of {grid[0]} x {grid[1]}"
            raise UsageError(cause, hint="leave positions out that are no patches, such as a class token")
        return values if values.dim() == 4 else values.unflatten(-1, grid)
    where = places(grid, window, shift).to(values.device)
    count, size = where.shape
    if values.shape[0] % count or values.shape[2] != size:
        cause = f"{values.shape[0]} windows of {values.shape[2]} positions do not make images of {grid[0]} x {grid[1]}"
        raise UsageError(cause, hint=f"with windows of {window} there are {count} of {size} positions in each")
    items, heads, total = values.shape[0] // count, values.shape[1], grid[0] * grid[1]
    # [items, heads, windows, ...]
    values = values.unflatten(0, (items, count)).transpose(1, 2)
    real = where >= 0
    if values.dim() == 4:
        image = values.new_zeros(items, heads, total)
        image[:, :, where[real]] = values[:, :, real]
        return image.unflatten(-1, grid)
    image = values.new_zeros(items, heads, total, total)
    for window_index in range(count):
        positions, inside = where[window_index][real[window_index]], real[window_index]
        block = values[:, :, window_index][:, :, inside][..., inside]
        image[:, :, positions[:, None], positions[None, :]] = block
    return image
