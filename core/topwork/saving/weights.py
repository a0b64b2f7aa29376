"""Tensors of a model to and from one safetensors file: each once, strictly, shared ones shared again.

`save_weights` and `load_weights` are the entry points; `describe_file` and `check_file` prove that a file is the one
that was written, `describe_contents` and `check_content` the same of the files beside the weights.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork.errors import CheckpointError
from topwork.items import Json
from topwork.saving.checksum import describe_files, difference, digest

if TYPE_CHECKING:
    import torch
    from torch import nn


def save_weights(model: nn.Module, file: Path, state: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Write every tensor of the state dict once.

    Args:
        model: whose state dict is written.
        file: where to.
        state: a state dict to write instead of the model's own (gathered from several processes).

    Returns:
        aliases: names of shared tensors -> the name under which the tensor is stored.

    Raises:
        CheckpointError: an entry of the state dict is no plain tensor, as in quantised modules.
    """
    from safetensors.torch import save_file

    state = model.state_dict(keep_vars=True) if state is None else state
    check_tensors(state)
    tensors, aliases = distinct(state)
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(whole, file, metadata={"format": "pt", "producer": "topwork"})
    return aliases


def check_tensors(state: Mapping[str, Any]) -> None:
    """Refuse a state dict that a safetensors file cannot hold.

    Raises:
        CheckpointError: names an entry that is no plain tensor, as in quantised and sparse modules.
    """
    import torch

    for name, tensor in state.items():
        if isinstance(tensor, torch.Tensor) and tensor.is_meta:
            raise CheckpointError(
                f"`{name}` has no values: it lies on the device `meta`", code="no_tensor", hint="load the weights first"
            )
        odd = not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided
        if odd or is_quantised(tensor):
            raise CheckpointError(
                f"`{name}` is no plain tensor ({type(tensor).__name__}): a quantised or sparse module cannot be saved",
                code="no_tensor",
                hint="save the model before it is quantised, and quantise what was loaded",
            )


def is_quantised(tensor: torch.Tensor) -> bool:
    """Return whether a tensor holds numbers of few bits.

    It is one of torch's, of a class that dequantises by itself, or of bitsandbytes: those carry scales as an attribute.
    """
    import torch

    few_bits = tensor.is_quantized or type(tensor).dequantize is not torch.Tensor.dequantize
    return few_bits or hasattr(tensor, "quant_state") or hasattr(tensor, "SCB")


def distinct(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the tensors of a state dict without repetitions, and for each repeated name the one that stands for it."""
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


def load_weights(
    model: nn.Module, file: Path, aliases: Mapping[str, str] | None = None, names: Collection[str] | None = None
) -> None:
    """Put stored tensors into a model of the same shape, strictly.

    Every tensor of the model must be there, of the same shape, and none may be left over. The model takes over the
    stored dtype, which must be of the same kind: floating for floating, integer for integer.

    Args:
        model: takes the tensors.
        file: a safetensors file.
        aliases: names of shared tensors -> the name under which the tensor is stored.
        names: the tensors that the file holds; None for all of the model.

    Raises:
        CheckpointError: names the tensors that are missing, left over, of another shape or another kind of dtype.
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
    if names is not None:
        state = {name: tensor for name, tensor in state.items() if name in names}
    faults = [f"missing {name}" for name in state if name not in stored]
    faults += [f"left over {name}" for name in stored if name not in state]
    faults += [fault for name, tensor in state.items() if name in stored and (fault := _misfit(name, stored, tensor))]
    if faults:
        raise CheckpointError(
            f"the weights do not fit the model: {'; '.join(faults[:5])}", place=str(file), code="misfit"
        )
    moved: dict[int, Any] = {}  # a shared tensor stays shared on whatever device
    with torch.no_grad():
        for name, tensor in state.items():
            source = stored[name]
            tensor.data = moved.setdefault(id(source), source.to(device=tensor.device))
    _forget(model)


def _misfit(name: str, stored: Mapping[str, Any], tensor: Any) -> str | None:
    """Say how a stored tensor differs from that of the model in shape or kind of dtype; None when it fits."""
    source = stored[name]
    if source.shape != tensor.shape:
        return f"{name} is {tuple(source.shape)}, the model wants {tuple(tensor.shape)}"
    floats, wanted = source.is_floating_point(), tensor.is_floating_point()
    other_kind = floats != wanted or source.is_complex() != tensor.is_complex()
    if other_kind or (not floats and source.dtype != tensor.dtype):
        return f"{name} is {source.dtype}, the model wants {tensor.dtype}".replace("torch.", "")
    return None


def _forget(model: nn.Module) -> None:
    """Let modules drop what they keep of their old weights outside training, such as LeViT's attention biases.

    They do when training begins.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    for module, mode in modes:
        module.training = mode


# ---------------------------------------------------------------- proofs


def describe_file(file: Path) -> dict[str, Json]:
    """Return the hash of a safetensors file, and the dtypes of its tensors as the format calls them (`F32`)."""
    return {"sha256": digest(file), "dtypes": sorted(set(dtypes(file).values()))}


def check_file(file: Path, known: Mapping[str, Json]) -> None:
    """Compare a safetensors file with what `describe_file` said of it when it was written.

    Raises:
        CheckpointError: names a tensor whose dtype the file did not have, or says that the content was changed.
    """
    for name, dtype in dtypes(file).items():
        if dtype not in known["dtypes"]:
            saved = ", ".join(map(str, known["dtypes"]))
            raise CheckpointError(
                f"the tensor `{name}` is {dtype}, the tensors that were saved are {saved}", place=str(file)
            )
    if digest(file) != known["sha256"]:
        raise CheckpointError(
            "the weights are not those that were saved: the hash of the file differs from that in the manifest",
            place=str(file),
            hint="copy the folder again; whoever changes weights on purpose saves the model again",
        )


def describe_contents(folder: Path) -> dict[str, Json]:
    """Return size and hash of every file of a model folder but the weights, by path relative to it."""
    return describe_files(folder, lambda file: file.suffix != ".safetensors")


def check_content(file: Path, known: Mapping[str, Json]) -> None:
    """Compare a file of a model folder with what `describe_contents` said of it when it was written.

    Raises:
        CheckpointError: names a file that is missing, cut short or changed.
    """
    if (change := difference(file, known)) is not None:
        hint = "copy the folder again"
        if file.is_file():
            hint += "; whoever changes it on purpose takes it out of `contents` in topwork.json"
        raise CheckpointError(f"a file of the model folder {change}", place=str(file), hint=hint)


def check_numbers(model: nn.Module, location: Path) -> None:
    """Refuse parameters that are no numbers.

    Raises:
        CheckpointError: names the parameter.
    """
    import torch

    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and bool(torch.isnan(parameter.detach()).any()):
            raise CheckpointError(
                f"the weights `{name}` hold NaN", place=str(location), hint="train again with a lower `learning_rate`"
            )


def dtypes(file: Path) -> dict[str, str]:
    """Return the dtypes of the tensors of a safetensors file by their names, as the format calls them (`F32`).

    Raises:
        CheckpointError: the file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as stored:
            return {name: stored.get_slice(name).get_dtype() for name in stored.keys()}  # noqa: SIM118  # no mapping
    except (OSError, SafetensorError) as error:
        hint = "copy the folder again"
        raise CheckpointError(f"cannot read the weights: {error}", place=str(file), hint=hint) from error
