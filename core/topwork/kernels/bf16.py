"""bf16 on a CPU where no parameter needs a gradient: what autocast and torch's attention do there more often or more
slowly than they must.

Autocast keeps a weight that it has cast only if that weight needs a gradient; of a frozen model it casts every weight
for every batch. And the backward pass of torch's fused attention takes five times its forward pass in bf16, on short
sequences twenty times (measured on an EPYC, 12 attention heads of 64): written out as two products and a softmax it is
three to eight times faster. What is written out is the library's eager attention, in the same dtype.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

#: with more keys than this the attention weights, which are kept when it is written out, would take too much memory
MOST_KEYS = 1024


class Narrow(TorchFunctionMode):
    """While it is entered, under autocast to bf16 on the CPU: frozen weights of linear layers are cast once, and
    attention through which a gradient flows is written out.

    The weights must not change meanwhile; they are kept, in bf16, until the mode is left.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cast: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __exit__(self, *told: Any) -> None:
        self.cast.clear()
        super().__exit__(*told)

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16:
            if function is linear or function is torch.addmm:
                args = tuple(self._once(one) for one in args)
            elif function is scaled_dot_product_attention and _can_be_written_out(*args, **kwargs):
                return _written_out(*args, **kwargs)
        return function(*args, **kwargs)

    def _once(self, tensor: Any) -> Any:
        """A frozen weight in bf16; anything else as it is."""
        if type(tensor) is not torch.nn.Parameter or tensor.requires_grad:
            return tensor
        if tensor.dtype is not torch.float32 or tensor.device.type != "cpu":
            return tensor
        if id(tensor) not in self.cast:
            self.cast[id(tensor)] = (tensor, tensor.detach().to(torch.bfloat16))
        return self.cast[id(tensor)][1]


def _can_be_written_out(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> bool:
    """Where a gradient flows, and nothing is asked that the few lines below do not do."""
    states = (query, key, value)
    if not torch.is_grad_enabled() or not any(state.requires_grad for state in states):
        return False
    if any(state.dtype is not torch.bfloat16 or state.device.type != "cpu" or state.dim() != 4 for state in states):
        return False
    if dropout_p or enable_gqa or key.shape[-2] > MOST_KEYS:
        return False
    return attn_mask is None or (attn_mask.dtype is torch.bool and not is_causal)


def _written_out(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """softmax(query key' scale) value; [items, heads, positions, width] each. A query that may attend to nothing gets
    zeros, as from torch."""
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    scores = (query @ key.transpose(-1, -2)) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is None:
        return scores.softmax(-1, dtype=scores.dtype) @ value
    hidden = ~attn_mask
    weights = scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(-1, dtype=scores.dtype)
    nothing = hidden.all(-1, keepdim=True)
    return (weights.masked_fill(nothing, 0) if bool(nothing.any()) else weights) @ value
