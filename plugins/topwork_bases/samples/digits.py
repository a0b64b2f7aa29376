"""Real handwritten digits: scikit-learn's copy of the UCI set, 8 x 8 pixels, 17 grey levels.

Every fifth picture of a digit, in the order of the file, is a test picture: fixed, stratified, and the same on every
machine.
"""

from __future__ import annotations

from typing import Any


def digits(split: str) -> tuple[list[Any], list[int]]:
    """Pictures (PIL, mode L, 8 x 8) and digits of a split, "train" or "test"."""
    from PIL import Image

    arrays, labels = digit_arrays(split)
    return [Image.fromarray(array) for array in arrays], labels.tolist()


def digit_arrays(split: str) -> tuple[Any, Any]:
    """[n, 8, 8] uint8 (white ink on black) and [n] int64."""
    import numpy
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pictures = numpy.rint(bunch.images * 255 / 16).astype(numpy.uint8)
    labels = bunch.target.astype(numpy.int64)
    is_test = numpy.zeros(len(labels), bool)
    for digit in range(10):
        is_test[numpy.flatnonzero(labels == digit)[::5]] = True
    chosen = is_test if split == "test" else ~is_test
    return pictures[chosen], labels[chosen]
