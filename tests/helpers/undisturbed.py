"""Models without anything that makes a row's loss depend on chance or on the other rows of its batch."""

from __future__ import annotations

from typing import Any

from torch import nn


def undisturbed(model: nn.Module) -> nn.Module:
    """Take dropout, layer drop and batch norm out of a model, in place."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(module, name, nn.Identity())
            elif isinstance(child, nn.modules.dropout._DropoutNd):
                child.p = 0.0
        for holder in (module, getattr(module, "config", None)):
            for name, value in list(vars(holder).items()) if holder is not None else ():
                if "drop" in name and isinstance(value, float):
                    setattr(holder, name, 0.0)
    return model


def weights_of(model: Any) -> Any:
    """All parameters as one vector, in float64."""
    import torch

    return torch.cat([parameter.detach().double().flatten() for parameter in model.parameters()])
