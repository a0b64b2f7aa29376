"""Control tasks of probes (Hewitt and Liang 2019): labels that say nothing but which word it is.

Each type (a word, the words of two spans) has one label, drawn at random once, as often as the task's labels occur.
A probe that reaches as much on it as on the task has learned words by heart: selectivity is the difference.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Hashable, Iterable

import numpy as np
import torch


def control_labels(
    types: Iterable[Hashable], labels: torch.Tensor, pool: torch.Tensor | None = None, seed: int = 0
) -> torch.Tensor:
    """Return labels of the control task: for each type those of a target that was drawn at random.

    The draw hangs on the type and the seed alone, so that rows for training and for evaluation agree.

    Args:
        types: of each target.
        labels: [targets, labels] of the task.
        pool: [targets, labels] from which labels are drawn, of the training rows; None for `labels`.
        seed: of the draw.

    Returns:
        [targets, labels].
    """
    source = labels if pool is None else pool
    drawn: dict[Hashable, int] = {}
    chosen = array("q")
    for kind in types:
        if kind not in drawn:
            digest = hashlib.sha256(f"{seed}:{kind!r}".encode()).digest()
            drawn[kind] = int(np.random.default_rng(list(digest[:16])).integers(len(source)))
        chosen.append(drawn[kind])
    return source[torch.from_numpy(np.array(chosen))]
