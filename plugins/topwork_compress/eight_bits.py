"""Linear layers with weights of 8 bits, whose inputs become numbers of 8 bits as they come.

Entry points: `quantise`, and `rebuild`, which makes the layers of a saved model. Each output has its own scale, the
inputs of a call have one together (dynamic quantisation). The product is that of `torch.ops.quantized.linear_dynamic`,
on the CPU; anywhere else the weights are multiplied out. The weights are plain integers, so they are saved as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from topwork import UsageError, alterations
from topwork_lens.layers.state import hand_over

#: the model's section of its alterations
SECTION = "int8"
#: layers with fewer inputs or outputs stay: there is no time to save
_LEAST = 16
_LARGEST = 127


class Int8Linear(nn.Module):
    """Linear layer with weights of 8 bits; it cannot be trained.

    Args:
        in_features: inputs.
        out_features: outputs.
        bias: whether there is one.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight: torch.Tensor
        self.scale: torch.Tensor
        self.bias: torch.Tensor | None
        self.register_buffer("weight", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(out_features))
        self.register_buffer("bias", torch.zeros(out_features) if bias else None)
        self._packed: tuple[Any, Any] | None = None

    @classmethod
    def of(cls, linear: nn.Linear) -> Int8Linear:
        """Return the layer that is nearest to a linear layer."""
        layer = cls(linear.in_features, linear.out_features, linear.bias is not None)
        weight = linear.weight.detach()
        layer.scale = weight.abs().amax(1).clamp(min=torch.finfo(weight.dtype).tiny) / _LARGEST
        layer.weight = (weight / layer.scale[:, None]).round().to(torch.int8)
        if linear.bias is not None:
            layer.bias = linear.bias.detach().clone()
        return layer.train(linear.training)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the packed weights: a copy packs its own."""
        return {**self.__dict__, "_packed": None}

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the outputs, in the dtype of the inputs.

        Raises:
            UsageError: gradients are wanted.
        """
        if torch.is_grad_enabled() and (self.training or inputs.requires_grad):
            cause = "weights of 8 bits have no gradients"
            raise UsageError(cause, place="quantize", hint="train, score and attribute before the model is quantised")
        if inputs.device.type != "cpu":
            bias = None if self.bias is None else self.bias.to(inputs)
            return nn.functional.linear(inputs, (self.weight * self.scale[:, None]).to(inputs), bias)
        return self._product(inputs)

    @torch.compiler.disable
    def _product(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = torch.ops.quantized.linear_dynamic(inputs.float().contiguous(), self._pack(), True)
        return outputs.to(inputs.dtype)

    def _pack(self) -> Any:
        """Return the weights in the form of the product; they are packed again when they change."""
        tensors = [tensor for tensor in (self.weight, self.scale, self.bias) if tensor is not None]
        key = [(tensor.data_ptr(), tensor._version) for tensor in tensors]
        if self._packed is None or self._packed[0] != key:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns of these tensors, which only stand between two forms here
                zeros = torch.zeros(self.out_features, dtype=torch.long)
                scale = self.scale.double()
                weight = torch._make_per_channel_quantized_tensor(self.weight, scale, zeros, 0)
                bias = None if self.bias is None else self.bias.float()
                self._packed = key, torch.ops.quantized.linear_prepack(weight, bias)
        return self._packed[1]


def obstacle(model: nn.Module) -> str:
    """Return why a model cannot be quantised here, or ""."""
    values = list(model.parameters())
    if any(value.device.type != "cpu" for value in values):
        return "products of 8 bits run on the CPU alone"
    if any(value.is_floating_point() and value.dtype != torch.float32 for value in values):
        return "its weights are no float32"
    if torch.backends.quantized.engine == "none" or not hasattr(torch.ops.quantized, "linear_dynamic"):
        return "this build of torch has no products of 8 bits"
    return ""


def quantise(model: nn.Module, run: Callable[[], Any]) -> list[str]:
    """Replace the linear layers of a model that run; return their paths.

    Layers stay that share their weight, that hooks or parametrisations sit on, or that are no plain `nn.Linear`.

    Args:
        model: changes.
        run: runs it on some rows.
    """
    linears = {path: module for path, module in model.named_modules() if type(module) is nn.Linear}
    seen: set[str] = set()
    handles = [
        module.register_forward_pre_hook(lambda *_, path=path: seen.add(path)) for path, module in linears.items()
    ]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    uses: dict[int, int] = {}
    for _, value in model.named_parameters(remove_duplicate=False):
        uses[value.data_ptr()] = uses.get(value.data_ptr(), 0) + 1
    chosen = [path for path, module in linears.items() if path in seen and _fits(module, uses)]
    _replace(model, chosen)
    return chosen


def _fits(linear: nn.Linear, uses: dict[int, int]) -> bool:
    hooks = (linear._forward_hooks, linear._forward_pre_hooks, linear._backward_hooks, linear._backward_pre_hooks)
    wide = min(linear.in_features, linear.out_features) >= _LEAST
    return wide and uses[linear.weight.data_ptr()] == 1 and not any(hooks)


def _replace(model: nn.Module, paths: Sequence[str]) -> None:
    for path in paths:
        linear: Any = model.get_submodule(path)
        _put(model, path, Int8Linear.of(linear))
    if paths:
        alterations(model)[SECTION] = list(paths)


def _put(model: nn.Module, path: str, layer: Int8Linear) -> None:
    hand_over(model.get_submodule(path), layer)
    model.set_submodule(path, layer)


def rebuild(model: nn.Module, paths: Sequence[str]) -> None:
    """Make the layers of a saved model, before its weights come.

    Raises:
        UsageError: the model has no linear layer where one is wanted.
    """
    for path in paths:
        try:
            linear = model.get_submodule(path)
        except AttributeError as error:
            raise UsageError("the model has no such layer", place=path) from error
        if not isinstance(linear, nn.Linear):
            raise UsageError(f"the layer is no linear one, but {type(linear).__name__}", place=path)
        layer = Int8Linear(linear.in_features, linear.out_features, linear.bias is not None)
        _put(model, path, layer.train(linear.training))
    alterations(model)[SECTION] = list(paths)
