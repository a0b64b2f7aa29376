"""Linear layers and convolutions of single pixels through oneDNN, forward and backward, in float32.

On some CPUs torch's matrix library (MKL) leaves half of the speed unused (EPYC, one thread, 384 x 1536 weights: 111
GFLOP/s with MKL, 243 with oneDNN). Numbers differ in the last digits, as they do between two sizes of a batch. Entered
by `topwork.accelerated` where a measurement says so.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import Parameter
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

#: fewer rows than this, or products than that: calling oneDNN costs more (15 microseconds) than it wins
LEAST_ROWS = 8
LEAST_PRODUCTS = 2**20


def is_available() -> bool:
    """Return whether torch can be told to take oneDNN for linear layers."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class OneDnnMode(TorchFunctionMode):
    """Mode in which `linear`, `addmm` and `conv2d` with kernels of one pixel go through oneDNN.

    Their tensors must be float32 on the CPU; others go the usual way. Gradients are right, those of gradients refused.
    """

    @staticmethod
    def linear(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Multiply as the mode does, while no mode is entered: [..., inputs] x [outputs, inputs] + [outputs]."""
        return _linear(values, weight, bias) if _fits(values, weight) else linear(values, weight, bias)

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if not kwargs and function is linear and _fits(*args[:2]):
            return _linear(args[0], args[1], args[2] if len(args) > 2 else None)
        # a layer whose weight is stored the other way round: [inputs, outputs]
        if not kwargs and function is torch.addmm and len(args) == 3 and args[0].dim() == 1:
            weight = args[2].t()
            if _fits(args[1], weight):
                return _linear(args[1], weight, args[0])
        # other kernels go there already
        if not kwargs and function is torch.conv2d and len(args) == 7 and _fits_pixels(*args):
            values, weight, bias, stride, padding, dilation, groups = args
            return torch.mkldnn_convolution(values, weight, bias, padding, stride, dilation, groups)
        return function(*args, **(kwargs or {}))


def _fits_pixels(values: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: Any) -> bool:
    if weight.dim() != 4 or tuple(weight.shape[2:]) != (1, 1) or groups != 1 or values.dim() != 4:
        return False
    simple = all(isinstance(option, tuple) for option in (stride, padding, dilation))
    return simple and _float32(values, weight) and values.numel() * weight.shape[0] >= LEAST_PRODUCTS


def _fits(values: Any, weight: Any) -> bool:
    """Return whether oneDNN takes these tensors and is faster: [..., inputs] by [outputs, inputs]."""
    if not _float32(values, weight) or weight.dim() != 2 or values.dim() < 2:
        return False
    if not weight.shape[1] or values.shape[-1] != weight.shape[1]:
        return False
    rows = values.numel() // weight.shape[1]
    return rows >= LEAST_ROWS and rows * weight.numel() >= LEAST_PRODUCTS


def _float32(values: Any, weight: Any) -> bool:
    """Return whether these are plain float32 tensors on the CPU, and stay so."""
    if torch.is_autocast_enabled("cpu"):
        return False
    if type(values) is not torch.Tensor or type(weight) not in (torch.Tensor, Parameter):
        return False
    return all(tensor.dtype is torch.float32 and tensor.device.type == "cpu" for tensor in (values, weight))


def _linear(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    tensors = [tensor for tensor in (values, weight, bias) if tensor is not None]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        # as a matrix: an autograd function must not return a view, which models may then change in place
        return _Linear.apply(values.flatten(0, -2), weight, bias).unflatten(0, values.shape[:-1])
    return product(values, weight, bias)


def product(values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Multiply by oneDNN, without a gradient: [..., inputs] x [outputs, inputs] -> [..., outputs]."""
    return torch.ops.mkldnn._linear_pointwise(values, weight, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    """y = x W' + b, with dx = dy W, dW = dy' x, db = the sum of dy."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        # what stays frozen needs no inputs kept
        values_wanted, weight_wanted, _ = ctx.needs_input_grad
        ctx.save_for_backward(values if weight_wanted else None, weight if values_wanted else None)
        return product(values, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, change: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        flat = change.reshape(-1, change.shape[-1])
        return (
            product(change, weight.t()) if wanted[0] else None,
            product(flat.t(), values.reshape(-1, values.shape[-1]).t()) if wanted[1] else None,
            flat.sum(0) if wanted[2] else None,
        )
