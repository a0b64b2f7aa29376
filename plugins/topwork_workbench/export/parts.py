"""Parts of a model as modules of tensors alone, ready for tracing, and their programs. Entry point: `trace`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram, export
from transformers.modeling_outputs import BaseModelOutput

from topwork import Json, Refused
from topwork_workbench.export.calls import ENCODED, Call, Recorded, output_tensors

#: what names the axes of an input of so many axes; the first is the batch
_AXES: dict[int, tuple[str, ...]] = {2: ("length",), 4: ("channels", "height", "width")}


#: inputs [batch, length, ...] beside which no mask means that nothing is padding
_MASKED = ("input_ids", "decoder_input_ids", "input_values", "input_features")


@dataclass
class Part:
    """A traced part of a model.

    Args:
        recorded: the module and its calls, each with the same inputs.
        inputs: name -> {"dtype", "shape"}, where an axis of any size has a name and a fixed one a number.
        outputs: names of the tensors that come out, in their order.
        program: of torch.export.
    """

    recorded: Recorded
    inputs: dict[str, dict[str, Json]]
    outputs: list[str]
    program: ExportedProgram

    def described(self, file: str) -> dict[str, Json]:
        """Return what the manifest says of the part."""
        return {"module": self.recorded.path, "file": file, "inputs": self.inputs, "outputs": self.outputs}


class _Traced(nn.Module):
    """A module that takes tensors by position and returns a tuple of tensors.

    Args:
        module: what is called.
        names: of the tensors.
        constants: the other arguments.
        outputs: names of the tensors to return.
    """

    def __init__(self, module: nn.Module, names: Sequence[str], constants: dict[str, Any], outputs: Sequence[str]):
        super().__init__()
        self.module, self.names, self.constants, self.outputs = module, list(names), constants, list(outputs)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Call the module."""
        fields = output_tensors(self.module(**_arguments(dict(zip(self.names, tensors))), **self.constants))
        return tuple(fields[name] for name in self.outputs)


def trace(recorded: Recorded) -> Part:
    """Trace a part of a model by torch.export, every axis of any size that can have any.

    Raises:
        Refused: the module cannot be traced, or takes batches of one size only.
    """
    names = list(dict.fromkeys(name for call in recorded.calls for name in call.inputs))
    for call in recorded.calls:
        call.inputs = completed(call.inputs, names, type(recorded.module).__name__)
    constants = _constants(recorded)
    if "use_cache" in inspect.signature(recorded.module.forward).parameters:
        constants["use_cache"] = False
    outputs = _compute(recorded, constants)
    example = _example(recorded.calls)
    axes = (tuple(dict.fromkeys(range(tensor.ndim), Dim.AUTO) for tensor in example.values()),)
    traced = _Traced(recorded.module, names, constants, outputs)
    try:
        with torch.no_grad():
            program = export(traced, tuple(example.values()), dynamic_shapes=axes, strict=False)
    except Exception as error:
        raise not_exported(recorded, error) from error
    inputs = _inputs(program, example, recorded)
    program.example_inputs = None  # rows of the data, which would be written into the file
    return Part(recorded, inputs, outputs, program)


def _compute(recorded: Recorded, constants: Mapping[str, Any]) -> list[str]:
    """Let the module compute the outputs of each call, and return the names of those that all calls have.

    Raises:
        Refused: nothing comes out that has a name.
    """
    names: list[str] = []
    with torch.no_grad():
        for call in recorded.calls:
            if not call.outputs:  # a part that is traced again is compared with what the model computed at first
                output = recorded.module(**_arguments(call.inputs), **constants)
                call.outputs = {name: tensor.clone() for name, tensor in output_tensors(output).items()}
            names = [name for name in names or call.outputs if name in call.outputs]
    if not names:
        raise Refused(
            f"{type(recorded.module).__name__} returns no tensors by name",
            reason="no_outputs",
            hint="return a dict, or an object with attributes",
        )
    return names


def _arguments(inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return the arguments of a module for recorded inputs."""
    arguments: dict[str, Any] = dict(inputs)
    if ENCODED in arguments:
        arguments[ENCODED] = BaseModelOutput(last_hidden_state=arguments[ENCODED])
    return arguments


def completed(inputs: Mapping[str, Any], names: Sequence[str], owner: str) -> dict[str, Any]:
    """Return the inputs of a call by all names, those that a model makes by itself included.

    Raises:
        Refused: an input is missing.
    """
    complete = dict(inputs)
    for name in names:
        if name in complete:
            continue
        main = next((complete[key] for key in _MASKED if key in complete), None)
        if name == "position_ids" and main is not None:
            complete[name] = torch.arange(main.shape[1], device=main.device).expand(main.shape[0], -1)
        elif name in ("attention_mask", "decoder_attention_mask") and main is not None:
            complete[name] = torch.ones(main.shape[:2], dtype=torch.long, device=main.device)
        else:
            raise Refused(f"{owner} is called with and without `{name}`", reason="varying_inputs")
    return {name: complete[name] for name in names}


def _constants(recorded: Recorded) -> dict[str, Any]:
    """Return the plain arguments of all calls."""
    constants = recorded.calls[0].constants
    for call in recorded.calls:
        if call.constants != constants:
            names = sorted(name for name in {**call.constants, **constants})
            raise Refused(
                f"{type(recorded.module).__name__} is called with different values of {', '.join(names)}",
                reason="varying_constants",
            )
    return dict(constants)


def _example(calls: Sequence[Call]) -> dict[str, torch.Tensor]:
    """Return the inputs of the largest call, twice where it has a batch of one: an axis of 1 would stay so."""
    largest = max(calls, key=lambda call: sum(tensor.numel() for tensor in call.inputs.values()))
    sizes = {len(tensor) for tensor in largest.inputs.values()}
    repeats = 2 if sizes == {1} else 1
    return {
        name: torch.cat([tensor] * repeats) if repeats > 1 else tensor.contiguous()
        for name, tensor in largest.inputs.items()
    }


def _inputs(
    program: ExportedProgram, example: Mapping[str, torch.Tensor], recorded: Recorded
) -> dict[str, dict[str, Json]]:
    """Return type and axes of the inputs of a program.

    Raises:
        Refused: batches have one size.
    """
    wanted = program.graph_signature.user_inputs
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    described: dict[str, dict[str, Json]] = {}
    for (name, tensor), key in zip(example.items(), wanted):
        names = ("batch", *_AXES.get(tensor.ndim, [f"axis_{axis}" for axis in range(1, tensor.ndim)]))
        sizes = [_fixed(size) for size in nodes[str(key)].meta["val"].shape]
        axes: list[Json] = [names[axis] if size is None else size for axis, size in enumerate(sizes)]
        if axes[0] != "batch" and len(tensor) == max(map(len, example.values())):
            raise Refused(
                f"{type(recorded.module).__name__} takes batches of {axes[0]} only once it is traced (`{name}`)",
                reason="fixed_batch",
                hint="the code of the model depends on the size of the batch",
            )
        described[name] = {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": axes}
    return described


def _fixed(size: Any) -> int | None:
    """Return the size of an axis, None when it can have any."""
    return size if type(size) is int else size.node.maybe_as_int()


def not_exported(recorded: Recorded, error: Exception) -> Refused:
    """Return the refusal for a part that cannot be traced or converted, with the first line of the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    summary = next((line for line in lines if line.startswith("<class")), lines[0] if lines else type(error).__name__)
    return Refused(
        f"{type(recorded.module).__name__} cannot be exported: {summary[:300]}",
        place=f"the {recorded.name}",
        reason="not_traceable",
        hint="try the other format, or attention: eager under `base`",
    )
