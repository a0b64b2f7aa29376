"""Multi-head attention of torch, unfolded: the same computation, with the output projection called as a module.

`nn.MultiheadAttention`, and whatever else calls `F.multi_head_attention_forward`, hands the weights of the whole layer
to one function, so that no hook on the output projection fires. Unfolded, such a layer can be seen, gated and cut like
any other; the numbers are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

OUTPUT = "out_proj"


def is_folded(module: Any) -> bool:
    """Return True for a module whose own code calls `F.multi_head_attention_forward`."""
    if not isinstance(getattr(module, OUTPUT, None), nn.Module):
        return False
    methods = [method for kind in type(module).__mro__[:-1] for method in vars(kind).values() if callable(method)]
    return any("multi_head_attention_forward" in getattr(_code(method), "co_names", ()) for method in methods)


def _code(method: Any) -> Any:
    return getattr(method, "__code__", None)


class Unfolded:
    """Replacement for the forward of one module; an object, so that it survives `copy.deepcopy` of the model."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        #: original count of attention heads and indices of those that are left, for a module that goes on counting
        #: and making masks for all of them
        self.remaining: tuple[int, list[int]] | None = None
        #: how many blocks and gates need it
        self.users = 0

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Run the module's forward with the calls of torch's attention redirected."""
        with _Redirect(self.module, self.remaining):
            return type(self.module).forward(self.module, *args, **options)


class _Redirect(TorchFunctionMode):
    def __init__(self, module: nn.Module, remaining: tuple[int, list[int]] | None) -> None:
        super().__init__()
        self.module, self.remaining = module, remaining

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function is functional.multi_head_attention_forward:
            if self.remaining is not None:
                args, kwargs = _fewer(*self.remaining, args, kwargs or {})
            return attend(getattr(self.module, OUTPUT), *args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _fewer(heads: int, kept: Sequence[int], args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[tuple, dict]:
    """Return the call of `F.multi_head_attention_forward` for some of the attention heads that it was written for."""
    mask = kwargs.get("attn_mask")
    if mask is not None and mask.dim() == 3 and mask.shape[0] > 1:
        index = torch.tensor(kept, dtype=torch.long, device=mask.device)
        mask = mask.unflatten(0, (-1, heads)).index_select(1, index).flatten(0, 1)
    return (*args[:4], len(kept), *args[5:]), {**kwargs, "attn_mask": mask}


def attend(
    project: Callable[[torch.Tensor], torch.Tensor],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    width: int,
    heads: int,
    in_proj_weight: torch.Tensor | None,
    in_proj_bias: torch.Tensor | None,
    bias_k: torch.Tensor | None,
    bias_v: torch.Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: torch.Tensor,
    out_proj_bias: torch.Tensor | None,
    training: bool = True,
    key_padding_mask: torch.Tensor | None = None,
    need_weights: bool = True,
    attn_mask: torch.Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: torch.Tensor | None = None,
    k_proj_weight: torch.Tensor | None = None,
    v_proj_weight: torch.Tensor | None = None,
    static_k: Any = None,
    static_v: Any = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Compute `F.multi_head_attention_forward` with `project` for the output projection.

    `project` maps [items, positions, width] to the same shape. The other parameters are those of the function of torch:
    `query`, `key` and `value` are [positions, items, width], or [positions, width] for a single item.

    Returns:
        The output, in the shape of `query`, and the weights [items, queries, keys] (with heads behind the items when
        they are not averaged); None for the weights when they are not needed.
    """
    unbatched = query.dim() == 2
    states = [state.unsqueeze(1) if unbatched else state for state in (query, key, value)]
    projected = _projected(states, in_proj_weight, (q_proj_weight, k_proj_weight, v_proj_weight), in_proj_bias)
    for index, extra in ((1, bias_k), (2, bias_v)):
        if extra is not None:
            projected[index] = torch.cat([projected[index], extra.expand(1, projected[index].shape[1], -1)])
    # [items, heads, positions, width of one]
    split = [state.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3) for state in projected]
    if add_zero_attn:
        split[1:] = [functional.pad(state, (0, 0, 0, 1)) for state in split[1:]]
    mask = _mask(attn_mask, key_padding_mask, split[0], split[1], unbatched)
    scores = split[0] @ split[1].transpose(-1, -2) * split[0].shape[-1] ** -0.5
    weights = (scores if mask is None else scores + mask).softmax(-1)
    kept = functional.dropout(weights, dropout_p, training)
    # items first, as everywhere else: a gate may have a factor for each item
    output = project((kept @ split[2]).permute(0, 2, 1, 3).flatten(2)).transpose(0, 1)
    shown = (kept.mean(1) if average_attn_weights else kept) if need_weights else None
    if unbatched:
        return output.squeeze(1), None if shown is None else shown.squeeze(0)
    return output, shown


def _projected(states: Sequence[Any], fused: Any, separate: Sequence[Any], bias: Any) -> list[torch.Tensor]:
    weights = fused.chunk(3) if separate[0] is None else separate
    biases = (None,) * 3 if bias is None else bias.chunk(3)
    return [functional.linear(*three) for three in zip(states, weights, biases, strict=True)]


def _mask(mask: Any, padding: Any, query: torch.Tensor, key: torch.Tensor, unbatched: bool) -> torch.Tensor | None:
    """Return the summand of the scores, broadcastable to [items, heads, queries, keys]; None without a mask."""
    added = None
    if mask is not None:
        added = _added(mask, query.dtype)
        if added.dim() == 3:
            added = added.unflatten(0, (query.shape[0], -1))
    if padding is not None:
        hidden = _added(padding.unsqueeze(0) if unbatched else padding, query.dtype)[:, None, None]
        added = hidden if added is None else added + hidden
    extra = 0 if added is None else key.shape[2] - added.shape[-1]
    return functional.pad(added, (0, extra)) if extra and added is not None else added


def _added(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, float("-inf"))


def for_good(module: nn.Module, kept: Sequence[int]) -> None:
    """Leave a layer that was cut unfolded (an adapter of pruning)."""
    stay_unfolded(module)


def count_on(module: nn.Module, heads: int, kept: Sequence[int]) -> Callable[[], None]:
    """Let an unfolded layer go on counting all of its attention heads; return the undo."""
    unfolding = cast(Unfolded, module.forward)
    before, unfolding.remaining = unfolding.remaining, (heads, list(kept))
    return lambda: setattr(unfolding, "remaining", before)


def stay_unfolded(module: nn.Module) -> Callable[[], None]:
    """Unfold a layer until the returned function is called, and while another call of this function needs it."""
    standing = module.__dict__.get("forward")
    if standing is not None and not isinstance(standing, Unfolded):
        return lambda: None
    unfolding = standing or Unfolded(module)
    unfolding.users += 1
    module.forward = unfolding

    def fold() -> None:
        unfolding.users -= 1
        if not unfolding.users:
            module.__dict__.pop("forward", None)

    return fold


@contextmanager
def unfolded(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Unfold those of the modules that are folded, for the time of the block."""
    folds = [stay_unfolded(module) for module in modules if is_folded(module)]
    try:
        yield
    finally:
        for fold in folds:
            fold()
