"""FSDP2 of a training: parameters, gradients and optimizer state divided among the processes.

Entry point: `Sharding`. The run's model stays a plain one. A twin of it, which torch's `fully_shard` divides, is
trained; the model itself has no numbers meanwhile. They are gathered where they are needed whole: for an evaluation, a
checkpoint, and at the end. So checkpoints and saved folders are the same as of one process, a training goes on with
another number of processes or without FSDP, and every other stage has a whole model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from topwork.engines import ShardingOptions
from topwork.errors import UsageError
from topwork.training.arguments import quantised_weights

if TYPE_CHECKING:
    from topwork.runs.run import Run
    from topwork.training.options import TrainOptions

#: optimizers that compute each number of a parameter by itself, whatever part of it a process has
_ELEMENTWISE = ("adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop")


class _Step(nn.Module):
    """The root that is divided: its parameters are whole while a loss is computed, however a task uses the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        return compute()


class Sharding:
    """A model that is divided among the processes of a run during a training.

    Args:
        run: whose model is trained; its parameters have no numbers until `whole` or `close`.
        options: how it is divided.

    Attributes:
        model: the twin, which is trained.
        blocks: how many parts of it are gathered one by one; the rest is gathered together.
    """

    def __init__(self, run: Run, options: ShardingOptions) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self.original = run.model
        self._make_equal()
        self.model = _twin(run.model)
        self._step = _Step(self.model)
        parameters: dict[int, tuple[nn.Parameter, nn.Module, str]] = {}
        for module in self.model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    parameters.setdefault(id(parameter), (parameter, module, name))
        self._parameters = list(parameters.values())
        mesh = init_device_mesh(run.device.type, (run.process.count,))
        blocks = _blocks(self.model, options.blocks)
        self.blocks = len(blocks)
        for block in blocks:
            fully_shard(block, mesh=mesh, reshard_after_forward=options.reshard_after_forward)
        fully_shard(self._step, mesh=mesh)
        self._release()

    def loss(self, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return what a function of the twin computes, with the parameters that belong to no block whole."""
        loss: torch.Tensor = self._step(compute)
        return loss

    @contextmanager
    def whole(self, changed: bool = False) -> Iterator[None]:
        """Give the run's model its numbers for the block; every process takes part.

        Args:
            changed: the block changes them, and the twin takes them over.
        """
        self._gather()
        yield
        if changed:
            self._divide()
        self._release()

    def close(self) -> None:
        """Give the run's model its numbers for good."""
        self._gather()

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Let an optimizer give and take its state whole; every process takes part."""
        optimizer.register_state_dict_post_hook(_gather_state)
        optimizer.register_load_state_dict_pre_hook(_divide_state)

    def _make_equal(self) -> None:
        """Give all processes the parameters and buffers of the first, as DDP does."""
        with torch.no_grad():
            for tensor in [*self.original.parameters(), *self.original.buffers()]:
                _broadcast(tensor.data)

    def _gather(self) -> None:
        with torch.no_grad():
            for parameter, module, name in self._parameters:
                parameter.data = _whole(getattr(module, name).detach())
            for buffer in self.original.buffers():  # running statistics are those of the first process, as under DDP
                _broadcast(buffer)

    def _divide(self) -> None:
        with torch.no_grad():
            for parameter, module, name in self._parameters:
                divided: Any = getattr(module, name)
                divided.to_local().copy_(_part(parameter.data, divided).to_local())

    def _release(self) -> None:
        for parameter, _, _ in self._parameters:
            parameter.data = parameter.data.new_empty(0)


def check_sharding(stage: TrainOptions, run: Run) -> None:
    """Refuse options that a divided model cannot have.

    Raises:
        UsageError: names the option.
    """
    hint = "train with DDP: leave FSDP out of the launcher's flags and config"
    if stage.unfreeze:
        raise UsageError(
            "which parameters are trained cannot change under FSDP", place="unfreeze", hint="use two `train` stages"
        )
    if stage.optimizer not in _ELEMENTWISE:
        raise UsageError(
            f"`{stage.optimizer}` needs whole parameters, which FSDP divides",
            place="optimizer",
            hint=f"say one of {', '.join(_ELEMENTWISE)}",
        )
    if stage.compile:
        raise UsageError("a divided model is not compiled", place="compile", hint="leave it out, or train with DDP")
    if stage.precision == "fp16":
        raise UsageError("FSDP trains in bf16 or float32", place="precision", hint="say bf16")
    if stage.teacher is not None and stage.teacher_hidden:
        raise UsageError(
            "layers of a divided model cannot be compared with a teacher's", place="teacher_hidden", hint=hint
        )
    scalar = next((name for name, parameter in run.model.named_parameters() if not parameter.dim()), None)
    if scalar is not None:
        raise UsageError(f"`{scalar}` is a single number, which FSDP cannot divide", place="FSDP", hint=hint)
    if (cause := quantised_weights(run.model)) is not None:
        raise UsageError(cause, place="FSDP", hint=hint)
    dtypes = {parameter.dtype for parameter in run.model.parameters() if parameter.requires_grad}
    if len(dtypes) > 1:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        raise UsageError(f"the trained parameters have several dtypes ({names}), which FSDP cannot divide", hint=hint)
    if (dropped := _layerdrop(getattr(run.model, "config", None))) is not None:
        raise UsageError(
            f"`{dropped}` leaves layers out at random: under FSDP processes would wait for each other for ever",
            place=dropped,
            hint=f"set it to 0: `base: {{config: {{{dropped}: 0.0}}}}`, or train with DDP",
        )


def _layerdrop(config: Any) -> str | None:
    """Return the name of an entry of a config, or of a config within it, by which layers are left out at random."""
    for name, value in sorted(getattr(config, "__dict__", {}).items()):
        if name.endswith("layerdrop") and isinstance(value, float | int) and value > 0:
            return name
        if hasattr(value, "to_dict") and (dropped := _layerdrop(value)) is not None:
            return dropped
    return None


def _twin(model: nn.Module) -> nn.Module:
    """Return a copy of a model's modules, with the same parameters and buffers.

    Raises:
        UsageError: the model cannot be copied.
    """
    same = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    try:
        return copy.deepcopy(model, dict[int, Any](same))
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise UsageError(
            f"{type(model).__name__} cannot be divided: it cannot be copied ({error})",
            hint="train with DDP: leave FSDP out of the launcher's flags and config",
        ) from error


def _blocks(model: nn.Module, classes: tuple[str, ...]) -> list[nn.Module]:
    """Return the modules that are gathered one by one: of these classes, or the layers of transformers' models.

    A module that shares a parameter with one outside of it is none of them, nor is one within another.

    Raises:
        UsageError: no module is of one of these classes.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    known = {type(module).__name__ for module in model.modules()}
    for name in classes:
        if name not in known:
            raise UsageError(
                f"no module of {type(model).__name__} is a `{name}`",
                place="fsdp_transformer_layer_cls_to_wrap",
                hint="leave it out: the layers of transformers' models are known",
            )
    uses: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    chosen: list[nn.Module] = []
    inside: set[int] = set()
    for module in model.modules():
        if id(module) in inside:
            continue
        fits = type(module).__name__ in classes if classes else isinstance(module, GradientCheckpointingLayer)
        if fits and any(True for _ in module.parameters()) and _keeps_to_itself(module, uses):
            chosen.append(module)
            inside |= {id(part) for part in module.modules()}
    return chosen


def _keeps_to_itself(module: nn.Module, uses: Mapping[int, int]) -> bool:
    """Return whether no module outside of this one has one of its parameters."""
    inside: dict[int, int] = {}
    for part in module.modules():
        for parameter in part._parameters.values():
            inside[id(parameter)] = inside.get(id(parameter), 0) + 1
    return all(uses[key] == count for key, count in inside.items())


def _broadcast(tensor: torch.Tensor) -> None:
    if tensor.numel():
        torch.distributed.broadcast(tensor, 0)


def _whole(tensor: Any) -> Any:
    """Return a divided tensor whole, any other value as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def _part(tensor: torch.Tensor, like: Any) -> Any:
    """Return a tensor that every process has, divided like another one."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def _gather_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    whole = {
        index: {name: _whole(value) for name, value in entries.items()} for index, entries in state["state"].items()
    }
    return {**state, "state": whole}


def _divide_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    parameters = {
        index: parameter
        for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True)
        for parameter, index in zip(group["params"], saved["params"], strict=True)
    }
    divided = {
        index: {
            name: _part(value.to(parameters[index].device), parameters[index])
            if isinstance(value, torch.Tensor) and value.dim() and value.shape == parameters[index].shape
            else value
            for name, value in entries.items()
        }
        for index, entries in state["state"].items()
    }
    return {**state, "state": divided}
