"""bf16 autocast on CPU for frozen models: avoids two slow paths of PyTorch. Entered by `topwork.accelerated`.

- Autocast caches casts only of weights that require grad, so a frozen model is cast anew for every batch.
  `FrozenBf16Mode` keeps the casts until it exits; weights must not change meanwhile.
- The backward pass of fused attention in bf16 takes 5 to 20 times its forward pass (EPYC, 12 heads of width 64). Where
  a measurement says so, attention with up to `MOST_KEYS` keys is computed unfused, in the same dtype.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

#: with more keys the attention weights, which the unfused backward pass keeps, would take too much memory
MOST_KEYS = 1024


class FrozenBf16Mode(TorchFunctionMode):
    """Mode for frozen models under autocast to bf16 on the CPU: weights of linear layers are cast once.

    The weights must not change while the mode is entered; their casts are kept until it exits.

    Args:
        unfused: compute attention unfused where a gradient flows through it.
    """

    def __init__(self, unfused: bool = True) -> None:
        super().__init__()
        self.unfused = unfused
        self.casts: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __exit__(self, *exception: Any) -> None:
        self.casts.clear()
        super().__exit__(*exception)

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16:
            if function is linear or function is torch.addmm:
                args = tuple(self._cast(argument) for argument in args)
            elif self.unfused and function is scaled_dot_product_attention and _can_be_unfused(*args, **kwargs):
                return unfused_attention(*args, **kwargs)
        return function(*args, **kwargs)

    def _cast(self, tensor: Any) -> Any:
        """Return a frozen weight in bf16, and anything else unchanged."""
        if type(tensor) is not torch.nn.Parameter or tensor.requires_grad:
            return tensor
        if tensor.dtype is not torch.float32 or tensor.device.type != "cpu":
            return tensor
        if id(tensor) not in self.casts:
            self.casts[id(tensor)] = (tensor, tensor.detach().to(torch.bfloat16))
        return self.casts[id(tensor)][1]


def _can_be_unfused(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> bool:
    """Return whether a gradient flows and `unfused_attention` knows all that is requested."""
    states = (query, key, value)
    if not torch.is_grad_enabled() or not any(state.requires_grad for state in states):
        return False
    if any(state.dtype is not torch.bfloat16 or state.device.type != "cpu" or state.dim() != 4 for state in states):
        return False
    if dropout_p or enable_gqa or key.shape[-2] > MOST_KEYS:
        return False
    return attn_mask is None or (attn_mask.dtype is torch.bool and not is_causal)


def unfused_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """Compute softmax(query key' scale) value, as the library's eager attention does, in the same dtype.

    Args:
        query: [items, heads, queries, width].
        key: [items, heads, keys, width].
        value: [items, heads, keys, width].
        attn_mask: boolean, True where a query may attend; a query that may attend to no key gets zeros, as from torch.
        dropout_p: unused, as `_can_be_unfused` allows 0 only.
        is_causal: let a query attend to the keys up to its own position.
        scale: of the scores; 1 / sqrt(width) when None.
        enable_gqa: unused, as `_can_be_unfused` allows False only.
    """
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    scores = (query @ key.transpose(-1, -2)) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is None:
        return scores.softmax(-1, dtype=scores.dtype) @ value
    hidden = ~attn_mask
    weights = scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(-1, dtype=scores.dtype)
    nothing = hidden.all(-1, keepdim=True)
    return (weights.masked_fill(nothing, 0) if bool(nothing.any()) else weights) @ value
