"""Results of measuring whether layers mix attention heads between the weighted sum of values and the output projection.

Such a layer has no slice of the context that is one attention head's: masks, gates, scores and cuts by slice would be
of something else. What a pattern says stands in `AttentionLayer.mixed`; what `capture.head_slices` measured is kept
here for all modules of the same construction, for the lifetime of the process.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

from torch import nn

from topwork import AttentionLayer

#: construction of an attention module -> why it mixes attention heads; empty when it does not
_MEASURED: dict[Hashable, str] = {}


def construction_of(layer: AttentionLayer, module: nn.Module) -> Hashable:
    """Return what decides how a module computes: its classes, its switches, and how it was described."""
    below = tuple((path, type(part)) for path, part in module.named_modules())
    switches = tuple((name, value) for name, value in sorted(vars(module).items()) if type(value) in (bool, str))
    return below, switches, layer.pattern, layer.output, len(layer.kept) > 1


def measured(layer: AttentionLayer, module: nn.Module) -> str | None:
    """Return why a layer mixes attention heads, "" when it does not, None when that was not measured yet."""
    return _MEASURED.get(construction_of(layer, module))


def remember(layer: AttentionLayer, module: nn.Module, reason: str) -> None:
    """Keep the result of a measurement."""
    _MEASURED[construction_of(layer, module)] = reason


def with_mixing(layer: AttentionLayer, module: nn.Module) -> AttentionLayer:
    """Return the description of a layer with what was measured of its construction."""
    reason = measured(layer, module) if _MEASURED else None
    return replace(layer, mixed=reason, prunable="", why=reason) if reason else layer
