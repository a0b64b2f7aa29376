"""Training images blended with others of their batch: mixup and cutmix.

Sources: Zhang et al. 2017, arXiv 1710.09412; Yun et al. 2019, arXiv 1905.04899.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy
    import torch


def mix(inputs: dict[str, Any], labels: int, mixup: float, cutmix: float, seed: int) -> None:
    """Blend each image and its label with those of another row of the batch, all by one share.

    Args:
        inputs: `pixel_values` [items, channels, height, width] and `labels` [items], which become shares [items,
            labels].
        labels: number of labels.
        mixup: alpha of the Beta distribution that the share of mixup is drawn from; 0 for no mixup.
        cutmix: alpha of that of cutmix; where both are given, one of the two is chosen for the batch, each as often.
        seed: of the draws.
    """
    import numpy
    import torch
    from torch.nn import functional

    random = numpy.random.default_rng(seed)
    cuts = cutmix > 0 and (not mixup or random.random() < 0.5)
    alpha = cutmix if cuts else mixup
    share = float(random.beta(alpha, alpha))
    partner = torch.from_numpy(random.permutation(len(inputs["labels"])))
    pixels = inputs["pixel_values"]
    if cuts:
        inputs["pixel_values"], share = _pasted(pixels, pixels[partner], share, random)
    else:
        inputs["pixel_values"] = share * pixels + (1 - share) * pixels[partner]
    truth = functional.one_hot(inputs["labels"], labels).float()
    inputs["labels"] = share * truth + (1 - share) * truth[partner]


def _pasted(
    pixels: torch.Tensor, others: torch.Tensor, share: float, random: numpy.random.Generator
) -> tuple[torch.Tensor, float]:
    """Return the images with a box of the others pasted in, and the share of their own pixels that is left.

    The box has the image's shape and, before it is cut at the edges, 1 - share of its area.
    """
    height, width = pixels.shape[-2:]
    side = (1 - share) ** 0.5
    top, bottom = _span(height, side, random)
    left, right = _span(width, side, random)
    pasted = pixels.clone()
    pasted[..., top:bottom, left:right] = others[..., top:bottom, left:right]
    return pasted, 1 - (bottom - top) * (right - left) / (height * width)


def _span(length: int, side: float, random: numpy.random.Generator) -> tuple[int, int]:
    size, centre = round(length * side), int(random.integers(length))
    start = centre - size // 2
    return max(0, start), min(length, start + size)
