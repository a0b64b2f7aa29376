"""Tensors of a model to and from one safetensors file: each once, strictly, shared ones shared again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork.errors import CheckpointError

if TYPE_CHECKING:
    from torch import nn


def save_weights(model: nn.Module, file: Path, state: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Write every tensor of the state dict once.

    Args:
        state: a state dict to write instead of the model's own (gathered from several processes).

    Returns:
        aliases: names of shared tensors -> the name under which the tensor is stored.
    """
    from safetensors.torch import save_file

    tensors, aliases = distinct(model.state_dict() if state is None else state)
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(whole, file, metadata={"format": "pt", "producer": "topwork"})
    return aliases


def distinct(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The tensors of a state dict without repetitions, and for each repeated name the one that stands for it."""
    stored: dict[tuple, str] = {}
    aliases: dict[str, str] = {}
    tensors: dict[str, Any] = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and key in stored:
            aliases[name] = stored[key]
        else:
            stored[key] = name
            tensors[name] = tensor
    return tensors, aliases


def load_weights(model: nn.Module, file: Path, aliases: Mapping[str, str] | None = None) -> None:
    """Put stored tensors into a model of the same shape, strictly: every tensor of the model must be there, of the
    same shape, and none may be left over. The model takes over the stored dtype.

    Raises:
        CheckpointError: names the tensors that are missing, left over or of another shape.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read the weights: {error}", place=str(file)) from error
    stored.update({alias: stored[name] for alias, name in (aliases or {}).items() if name in stored})
    state = model.state_dict(keep_vars=True)
    faults = [f"missing {name}" for name in state if name not in stored]
    faults += [f"left over {name}" for name in stored if name not in state]
    faults += [
        f"{name} is {tuple(stored[name].shape)}, the model wants {tuple(tensor.shape)}"
        for name, tensor in state.items()
        if name in stored and stored[name].shape != tensor.shape
    ]
    if faults:
        raise CheckpointError(f"the weights do not fit the model: {'; '.join(faults[:5])}", place=str(file))
    moved: dict[int, Any] = {}  # a shared tensor stays shared on whatever device
    with torch.no_grad():
        for name, tensor in state.items():
            source = stored[name]
            tensor.data = moved.setdefault(id(source), source.to(device=tensor.device))
    _forget(model)


def _forget(model: nn.Module) -> None:
    """Let modules drop what they keep of their old weights outside training, such as LeViT's attention biases: they do
    when training begins."""
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    for module, mode in modes:
        module.training = mode
