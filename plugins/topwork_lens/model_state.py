"""Temporary states of a model: evaluation mode, frozen parameters; and where it stands.

Entry points: `quiet`, `frozen`, `device_of`. Both context managers restore what they changed, also after an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from topwork import Batch, UsageError, map_tensors


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's first parameter; the CPU for a model without parameters."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


@contextmanager
def with_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Give a module another `forward` for the time of the block; one that the module had of its own comes back."""
    attributes: Mapping[str, Any] = vars(module)
    before = attributes.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        module.__dict__.pop("forward")
        if before is not None:
            module.__dict__["forward"] = before


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for the time of the block; each module gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()  # also of a model that is in that mode: some drop caches of their parameters then
    try:
        yield
    finally:
        for module, mode in modes:
            if module.training != mode:
                module.training = mode


@contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """Run a model in evaluation mode, without gradients, with the same random numbers every time."""
    devices = {parameter.device for parameter in model.parameters()}
    cuda_indices = sorted({device.index or 0 for device in devices if device.type == "cuda"})
    with torch.no_grad(), torch.random.fork_rng(cuda_indices), evaluating(model):
        seed_for(devices)
        yield


def seed_for(devices: Collection[torch.device]) -> None:
    """Start the random numbers of a run on these devices, the same ones every time."""
    if all(device.type == "cpu" for device in devices):
        torch.default_generator.manual_seed(0)  # a twentieth of the time that seeding all devices takes
    else:
        torch.manual_seed(0)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Run a model in evaluation mode with gradients, none of them for its parameters; no `.grad` is left or changed."""
    needs = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in needs:
        parameter.requires_grad_(False)
    try:
        with torch.enable_grad(), evaluating(model):
            yield
    finally:
        for parameter, need in needs:
            parameter.requires_grad_(need)


def text_config(config: Any) -> Any:
    """Return the part of a config that describes texts: that of the decoder where there are several, else all of it."""
    if not hasattr(config, "get_text_config"):
        return config
    try:
        return config.get_text_config()
    except ValueError:  # transformers finds several and does not choose
        return getattr(config, "decoder", config)


def bare_model(model: Any) -> nn.Module:
    """Return the module itself: of an object that has one, of a compiled model, of a wrapper for several devices."""
    bare = model if isinstance(model, nn.Module) else getattr(model, "model", None)
    while True:
        if isinstance(bare, nn.DataParallel | nn.parallel.DistributedDataParallel):
            bare = bare.module
        elif isinstance(inner := getattr(bare, "_orig_mod", None), nn.Module):
            bare = inner
        elif isinstance(bare, nn.Module):
            if any(hasattr(parameter, "full_tensor") for parameter in bare.parameters()):
                raise UsageError(
                    f"the parameters of {type(bare).__name__} are divided among processes (FSDP)",
                    hint="gather them first: a part of an attention head has no meaning of its own",
                )
            return bare
        else:
            raise UsageError(
                f"a {type(model).__name__} is no model", hint="give an nn.Module, or what topwork.build made"
            )


def plain_inputs(batch: Mapping[str, Any] | Batch) -> Mapping[str, Any]:
    """Return the inputs of a batch, such that gradients can be taken.

    Raises:
        UsageError: it is no batch.
    """
    inputs = batch.inputs if isinstance(batch, Batch) else batch
    if not isinstance(inputs, Mapping):
        cause = f"a batch is a {type(inputs).__name__}"
        raise UsageError(cause, hint="give dicts of tensors, the first dimension the rows")
    # Inference tensors cannot be saved for a backward pass, copies of them can.
    return map_tensors(inputs, lambda tensor: tensor.clone() if tensor.is_inference() else tensor)


#: numbers of a batch beyond which it is not remembered, and not made larger
MOST_NUMBERS = 2**22
#: the last batch that each model ran on where the lens looked
_LAST: WeakKeyDictionary[nn.Module, Mapping[str, Any]] = WeakKeyDictionary()


def remember_batch(model: nn.Module, inputs: Mapping[str, Any]) -> None:
    """Remember a batch that ran, for models of whose inputs nothing else is known; large ones are not kept."""
    numbers = sum(value.numel() for value in inputs.values() if isinstance(value, torch.Tensor))
    if inputs and numbers <= MOST_NUMBERS:
        _LAST[model] = map_tensors(dict(inputs), torch.Tensor.detach)


def remembered_batch(model: nn.Module) -> dict[str, Any] | None:
    """Return the batch that was remembered last, None when there is none."""
    inputs = _LAST.get(model)
    return None if inputs is None else dict(inputs)


@contextmanager
def remembering(model: nn.Module) -> Iterator[None]:
    """Remember the batch of the first run of a model in the block, given by names."""
    runs: list[None] = []

    def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if not runs and not args and "past_key_values" not in kwargs:
            runs.append(None)
            remember_batch(model, kwargs)

    handle = model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
