"""`WholeLayer`, what a layer is called that a model may do without; and what a layer is given and gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class WholeLayer:
    """A layer that a model may do without.

    Args:
        path: its original path: that of the list, and the index before any layer was left out.
        list_path: module path of the list that it is an entry of.
        index: original index.
        position: index now.
        why: why it cannot be left out, or "".
    """

    path: str
    list_path: str
    index: int
    position: int
    why: str = ""

    @property
    def prunable(self) -> bool:
        """Whether it can be left out."""
        return not self.why


def first_tensor(value: Any) -> torch.Tensor | None:
    """Return the first floating tensor of arguments or of an output."""
    if isinstance(value, torch.Tensor):
        return value if value.is_floating_point() else None
    values = value.values() if hasattr(value, "values") else value if isinstance(value, list | tuple) else ()
    return next((tensor for part in values if (tensor := first_tensor(part)) is not None), None)
