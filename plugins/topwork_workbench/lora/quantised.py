"""Quantised weights of a model: whether it has any, and their plain numbers.

Entry points: `is_quantised`, `dequantise`, `plain`. torchao's tensors dequantise by themselves, in the module that they
were in; those of bitsandbytes belong to modules of its own, which become plain linear layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def is_quantised(model: nn.Module) -> bool:
    """Return whether some parameter of a model is quantised."""
    tensors = any(plain(parameter) is not parameter for parameter in model.parameters())
    return tensors or any(True for _ in _packed(model))


def quantises_inputs(model: nn.Module) -> bool:
    """Return whether some module rounds its inputs to few bits too, as those of bitsandbytes with 8 bits do."""
    return any(hasattr(module._parameters["weight"], "SCB") for _, module in _packed(model))


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of plain numbers; one that dequantises by itself dequantised."""
    few_bits = type(tensor).dequantize is not torch.Tensor.dequantize
    return tensor.dequantize() if few_bits else tensor


def plain_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the state dict with the entries that a plain model has: modules of bitsandbytes as linear layers."""
    state = model.state_dict()
    for path, module in _packed(model):
        for name in [name for name in state if name.startswith(f"{path}.")]:
            del state[name]
        state.update(_linear(module).state_dict(prefix=f"{path}."))
    return state


def dequantise(model: nn.Module, names: set[str] | None = None) -> None:
    """Make quantised parameters plain ones, in place.

    Args:
        model: the model.
        names: of the parameters; None for all, after which the model is not a quantised one for transformers either.
    """
    linear = {id(module): _linear(module) for path, module in _packed(model) if _is_named(f"{path}.weight", names)}
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if id(module) in linear:
            parent, _, leaf = path.rpartition(".")
            setattr(model.get_submodule(parent), leaf, linear[id(module)])
    for name, parameter in list(model.named_parameters()):
        if _is_named(name, names) and plain(parameter) is not parameter:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, nn.Parameter(plain(parameter.detach()), requires_grad=False))
    for part in model.modules() if names is None else ():
        for entry in ("hf_quantizer", "is_quantized", "quantization_method", "is_loaded_in_4bit", "is_loaded_in_8bit"):
            part.__dict__.pop(entry, None)
        config = getattr(part, "config", None)
        if config is not None and hasattr(config, "quantization_config"):
            del config.quantization_config


def _is_named(name: str, names: set[str] | None) -> bool:
    return names is None or name in names


def _packed(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of bitsandbytes, whose weights are packed and cannot be read without the module."""
    for path, module in model.named_modules():
        weight = module._parameters.get("weight")
        if weight is not None and (hasattr(weight, "quant_state") or hasattr(weight, "SCB")):
            yield path, module


def _linear(module: Any) -> nn.Linear:
    """Return the plain linear layer of a module of bitsandbytes, in the dtype in which it computes."""
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    weight = dequantize_bnb_weight(module.weight, getattr(module, "state", None))
    bias = module._parameters.get("bias")
    dtype = torch.get_default_dtype() if bias is None else bias.dtype
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().to(dtype), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer.train(module.training)
