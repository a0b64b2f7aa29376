"""Preconditions of pruning: what would be cut are plain parameters of the module itself.

Entry points: `not_plain` and `none_found`. A weight that is computed whenever it is read (weight norm, a pruning mask,
an adapter around a linear layer), that is quantised or packed, or that has no numbers yet, is not where a slice of it
would be one attention head. Such a layer can be seen and masked; it is never pruned.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from topwork import Refused, UsageError
from topwork_lens.layers.context import Unit
from topwork_lens.layers.description import resolve
from topwork_lens.layers.name_matching import FUSED, QUERIES
from topwork_lens.layers.projections import is_packed, is_projection
from topwork_lens.pruning.soft import Scatter
from topwork_lens.refusals import refuse

_PLAIN = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def not_plain(model: nn.Module, layer: Unit) -> Refused | None:
    """Return why the parameters of a layer cannot be cut, or None."""
    for parameter in dict.fromkeys(piece.parameter for piece in layer.slices):
        owner_path, _, name = parameter.rpartition(".")
        owner: Any = resolve(model.get_submodule(layer.inside), owner_path)
        obstacle = _obstacle(owner, name)
        if obstacle is not None:
            location = ".".join(part for part in (layer.inside, owner_path) if part)
            cause, hint = obstacle
            return refuse("unknown_layout", f"`{name}` of this {_class_name(owner)} {cause}", place=location, hint=hint)
    return None


def none_found(model: nn.Module) -> UsageError:
    """Return the error for a model without attention layers; it names a projection of attention that is not linear."""
    for path, module in model.named_modules():
        odd = not is_projection(module) and (hasattr(module, "weight") or hasattr(module, "base_layer"))
        if odd and path.rpartition(".")[2] in {*QUERIES, *FUSED}:
            kind = f"{type(module).__module__}.{type(module).__name__}"
            cause = f"no attention layer was found in this model: this is a {kind}, no plain linear layer"
            return UsageError(cause, place=path, hint="prune before it is quantised, merge adapters first")
    hint = "teach it by the hook `attention_layer`"
    return UsageError("no attention layer was found in this model", hint=hint)


def _class_name(owner: Any) -> str:
    bases = type(owner).__mro__ if parametrize.is_parametrized(owner) else (None, type(owner))
    return bases[1].__name__


def _obstacle(owner: Any, name: str) -> tuple[str, str] | None:
    """Return cause and hint."""
    if parametrize.is_parametrized(owner, name):
        steps = [type(step).__name__ for step in owner.parametrizations[name] if not isinstance(step, Scatter)]
        hint = "torch.nn.utils.parametrize.remove_parametrizations, then prune; or mask it instead"
        return (f"is computed by {steps[0]} whenever it is read", hint) if steps else None
    value = getattr(owner, name)
    if isinstance(getattr(type(owner), name, None), property):
        hint = "merge what was put around it first (merge_and_unload in peft); or mask it instead"
        return "belongs to a module inside it", hint
    if is_packed(owner):
        kind = str(owner.weight().dtype).removeprefix("torch.")
        return f"is quantised or packed ({kind})", "prune the model before it is quantised; or mask it instead"
    if name not in owner._parameters and name not in owner._buffers:
        return "is computed before every call", "make it a plain parameter first; or mask it instead"
    if type(value) not in (torch.Tensor, nn.Parameter, nn.Buffer) or value.dtype not in _PLAIN:
        kind = type(value).__name__ if value.dtype in _PLAIN else str(value.dtype).removeprefix("torch.")
        return f"is quantised or packed ({kind})", "prune the model before it is quantised; or mask it instead"
    if value.is_meta:
        return "has no numbers yet (device meta)", "load the weights first"
    return None
