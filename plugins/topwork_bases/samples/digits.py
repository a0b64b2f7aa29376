"""Real handwritten digits: scikit-learn's copy of the UCI set, 8 x 8 pixels, 17 grey levels.

Every fifth image of a digit, in the order of the file, is a test image: fixed, stratified, and the same on every
machine.
"""

from __future__ import annotations

from typing import Any


def digits_dataset(split: str) -> Any:
    """Return the rows `image` (PIL, mode L, 8 x 8) and `label` of a split, "train" or "test"."""
    import datasets
    from PIL import Image

    arrays, labels = digit_arrays(split)
    names = [str(digit) for digit in range(10)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    columns = {"image": [Image.fromarray(array) for array in arrays], "label": labels.tolist()}
    return datasets.Dataset.from_dict(columns, features=features)


def digit_arrays(split: str) -> tuple[Any, Any]:
    """Return the images of a split, [n, 8, 8] uint8 (white ink on black), and their digits, [n] int64."""
    import numpy
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = numpy.rint(bunch.images * 255 / 16).astype(numpy.uint8)
    labels = bunch.target.astype(numpy.int64)
    is_test = numpy.zeros(len(labels), bool)
    for digit in range(10):
        is_test[numpy.flatnonzero(labels == digit)[::5]] = True
    chosen = is_test if split == "test" else ~is_test
    return images[chosen], labels[chosen]
