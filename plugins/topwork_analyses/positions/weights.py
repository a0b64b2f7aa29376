"""Attention weights of one run in which each layer attends once, to all positions.

Entry point: `whole_weights`.
"""

from __future__ import annotations

import torch

from topwork import Refused
from topwork_lens.capture.result import Captured


def whole_weights(seen: Captured, path: str) -> torch.Tensor:
    """Return the attention weights of a layer [items, heads, queries, keys].

    Raises:
        Refused: the layer attends in several steps, such as to a window and to global positions apart.
    """
    calls = seen.calls("weights", path)
    if len(calls) != 1:
        cause = f"attention comes in {len(calls)} steps, none of them between all positions"
        hint = "attention_patterns, head_effects and attribution_patching read such layers"
        raise Refused(cause, place=path, reason="no_weights", hint=hint)
    return calls[0]
