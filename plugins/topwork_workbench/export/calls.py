"""Forward calls of a model while its task predicts rows: what an export must reproduce. Entry point: `record`.

A model that generates is recorded without a cache, so that each call takes the whole sequence; that of an encoder and
a decoder is recorded in both.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from topwork import Refused

if TYPE_CHECKING:
    import torch
    from torch import nn

    from topwork import Batch, Row, Task

#: arguments of a forward that change nothing of its result, or only how much of it is returned
IGNORED = frozenset(
    (
        *("use_cache", "past_key_values", "cache_position", "logits_to_keep", "return_dict"),
        *("output_attentions", "output_hidden_states", "return_loss", "next_sequence_length", "is_first_iteration"),
    )
)
#: the argument in which a decoder gets the states of its encoder
ENCODED = "encoder_outputs"
#: forward calls of one batch of a model that generates, after which it has enough
_STEPS = 4


@dataclass
class Call:
    """One forward call.

    Args:
        inputs: its tensors by name; of `encoder_outputs` the last hidden state.
        constants: its other arguments that are not None.
        outputs: the tensors that come out, by name, once the part is traced. They are computed of the inputs alone: a
            task may choose positions by a hook, or ask for the last logits only.
    """

    inputs: dict[str, torch.Tensor]
    constants: dict[str, Any]
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass
class Recorded:
    """Calls of one module.

    Args:
        name: of the part: "model", or "encoder" and "decoder".
        path: of the module in the model; "" for the model itself.
        module: the module.
        calls: in their order.
    """

    name: str
    path: str
    module: nn.Module
    calls: list[Call] = field(default_factory=list)


class _Enough(BaseException):
    """End of a generation whose first steps are recorded; no `Exception`, so that nothing takes it for a failure."""


def record(task: Task, model: nn.Module, rows: Sequence[Row]) -> list[Recorded]:
    """Return the forward calls of a model while its task predicts rows, in batches of several sizes and lengths.

    Args:
        task: of the model.
        model: in evaluation mode.
        rows: a few rows.

    Raises:
        Refused: the model generates in a loop that does not go through its own forward step by step.
    """
    import torch

    parts = [Recorded("model", "", model)]
    if (encoder := _encoder(model)) is not None:
        parts = [Recorded("encoder", encoder[0], encoder[1]), Recorded("decoder", "", model)]
    with torch.no_grad(), _recording(parts), _without_cache(model):
        for batch in _batches(task, rows, next(model.parameters()).device):
            try:
                task.predict(model, batch)
            except _Enough:
                continue
    used = [part for part in parts if part.calls]
    if len(used) == 1:
        used[0].name = "model"
    if not any(part.path == "" for part in used):
        raise Refused(
            f"{type(model).__name__} predicts without calling its forward",
            place=f"task {task.name}",
            reason="own_loop",
            hint="export the model by hand",
        )
    return used


def tensors_of(module: Any, arguments: tuple, named: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tensors and the other arguments of a forward call, by name.

    Raises:
        Refused: an argument is neither a tensor nor a plain value.
    """
    import torch

    names = [name for name in inspect.signature(module.forward).parameters if name != "self"]
    given = {**dict(zip(names, arguments)), **named}
    tensors: dict[str, Any] = {}
    constants: dict[str, Any] = {}
    for name, value in given.items():
        if name == ENCODED and value is not None:
            tensors[name] = value[0]
        elif name in IGNORED or value is None or value is False:
            continue
        elif isinstance(value, torch.Tensor):
            tensors[name] = value
        elif isinstance(value, bool | int | float | str):
            constants[name] = value
        else:
            raise Refused(
                f"{type(module).__name__} is called with `{name}` of the type {type(value).__name__}",
                reason="argument",
                hint="only tensors and plain values can be exported",
            )
    return tensors, constants


def output_tensors(output: Any) -> dict[str, Any]:
    """Return the tensors at the top of a model's output, by name."""
    import torch

    fields = output if isinstance(output, Mapping) else vars(output) if hasattr(output, "__dict__") else {}
    return {name: value for name, value in fields.items() if isinstance(value, torch.Tensor) and value.ndim}


def _encoder(model: Any) -> tuple[str, nn.Module] | None:
    """Return path and module of the encoder of a model that generates behind it, else None."""
    config = getattr(model, "config", None)
    if not getattr(config, "is_encoder_decoder", False) or not generates(model):
        return None
    wanted = model.get_encoder()
    return next(((path, module) for path, module in model.named_modules() if module is wanted), None)


def generates(model: Any) -> bool:
    """Return whether a model writes in a loop of steps (`generate` of transformers)."""
    return hasattr(model, "can_generate") and bool(type(model).can_generate())


def _batches(task: Task, rows: Sequence[Row], device: Any) -> Iterator[Batch]:
    """Yield batches of all rows, of two, and of one."""
    for size in dict.fromkeys((len(rows), min(2, len(rows)), 1)):
        for start in range(0, min(len(rows), 2 * size), size):
            items = task.encode(rows[start : start + size], "predict", 0)
            yield task.collate(items, "predict").to(device)


class _Recorder:
    """Forward hook that appends each call to a part.

    Args:
        part: whose calls.
        limit: calls after which a batch has enough, None for all.
    """

    def __init__(self, part: Recorded, limit: int | None) -> None:
        self.part, self.limit, self.count = part, limit, 0

    def __call__(self, module: nn.Module, arguments: tuple, named: dict[str, Any], output: Any) -> None:
        tensors, constants = tensors_of(module, arguments, named)
        inputs = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        self.part.calls.append(Call(inputs, constants))
        self.count += 1
        if self.limit is not None and self.count >= self.limit:
            self.count = 0
            raise _Enough


@contextmanager
def _recording(parts: Sequence[Recorded]) -> Iterator[None]:
    handles = []
    for part in parts:
        limit = _STEPS if generates(part.module) and part.path == "" else None
        handles.append(part.module.register_forward_hook(_Recorder(part, limit), with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _without_cache(model: Any) -> Iterator[None]:
    settings = getattr(model, "generation_config", None)
    if settings is None:
        yield
        return
    before, settings.use_cache = settings.use_cache, False
    try:
        yield
    finally:
        settings.use_cache = before
