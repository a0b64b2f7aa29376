"""Faithfulness of relevance: what a prediction loses when the positions that are called relevant go first.

Entry points: `deletion_curve`, `deletion_gain`. A position is deleted where the first layer reads it: its embedding
becomes the mean over the positions of its row, which works for tokens, patches and frames alike (Samek et al. 2017 for
pixels, DeYoung et al. 2020, "comprehensiveness", for tokens).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from topwork_lens.look import Look


def deletion_curve(
    look: Look, stack: str, order: Sequence[int], evaluate: Callable[[], float], steps: int = 10
) -> list[float]:
    """Return what is measured with no position deleted, and with more and more of them, up to all that are named.

    Args:
        look: at the model.
        stack: path of the stack of layers that reads the positions.
        order: positions, the first to be deleted first.
        evaluate: measures the model on the row.
        steps: points behind the first.
    """
    values = [evaluate()]
    for step in range(1, steps + 1):
        deleted = list(order[: round(len(order) * step / steps)])

        def without(state: torch.Tensor, positions: list[int] = deleted) -> torch.Tensor:
            result = state.clone()
            result[:, positions] = state.mean(1, keepdim=True)
            return result

        with look.patch("hidden_states", {(stack, 0): without}):
            values.append(evaluate())
    return values


def deletion_gain(curve: Sequence[float]) -> float:
    """Return the mean loss of the measurement along a deletion curve: the larger, the more faithful the order."""
    return curve[0] - sum(curve[1:]) / max(1, len(curve) - 1)
