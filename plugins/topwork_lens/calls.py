"""Seeing the attention that a model computes, while it computes it with its own implementation.

Three places are watched: the attention interface of transformers, direct calls of `scaled_dot_product_attention`, and
softmaxes inside attention modules. Nothing is registered and no configuration is changed, so there is nothing that a
model could refuse or silently ignore.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from topwork import AttentionLayer
from topwork_lens.gates import module_at
from topwork_lens.refusals import refuse


@dataclass
class Call:
    """One computation of attention.

    Args:
        layer: whose it is.
        context: [items, queries, heads, width] as the model computed it; None when only weights were seen.
        weights: [items, heads, queries, keys] when the model made them itself.
        allowed: [items or 1, heads or 1, queries or 1, keys] booleans: what may be attended to; None: everything.
        block: (first query, last query + 1) -> context and weights of those queries, recomputed.
        shape: (items, heads, queries, keys).
        dropped: True when dropout was at work: the context then differs from weights @ values.
    """

    layer: AttentionLayer
    context: torch.Tensor | None
    weights: torch.Tensor | None
    allowed: torch.Tensor | None
    block: Callable[[int, int], tuple[torch.Tensor, torch.Tensor]] | None
    shape: tuple[int, int, int, int]
    dropped: bool = False


Watcher = Callable[[Call], torch.Tensor | None]


@contextmanager
def watching(model: nn.Module, layers: Sequence[AttentionLayer], watcher: Watcher) -> Iterator[None]:
    """Call `watcher` with each attention computation of `layers` for the time of the block.

    When it answers a context, that is what the model goes on with (recomputed, with the weights in the graph).
    """
    watch = _Watch(model, layers, watcher)
    with ExitStack() as stack:
        stack.enter_context(_interface_watched(watch))
        for layer in layers:
            module = module_at(model, layer.path)
            stack.callback(module.register_forward_pre_hook(watch.enter(layer), prepend=True).remove)
            stack.callback(module.register_forward_hook(watch.leave, always_call=True).remove)
        stack.enter_context(_Functions(watch))
        yield


class _Watch:
    def __init__(self, model: nn.Module, layers: Sequence[AttentionLayer], watcher: Watcher) -> None:
        self.owner: dict[int, AttentionLayer] = {}
        for layer in layers:
            for below in module_at(model, layer.path).modules():
                self.owner[id(below)] = layer
        self.watcher = watcher
        self.inside: list[AttentionLayer] = []
        self.busy = False

    def enter(self, layer: AttentionLayer) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            self.inside.append(layer)

        return hook

    def leave(self, *_: Any) -> None:
        if self.inside:
            self.inside.pop()

    def tell(self, call: Call) -> torch.Tensor | None:
        self.busy = True
        try:
            return self.watcher(call)
        finally:
            self.busy = False


@contextmanager
def _interface_watched(watch: _Watch) -> Iterator[None]:
    """Wrap the one place where modelling code asks for its attention function."""
    from transformers.modeling_utils import AttentionInterface

    own = AttentionInterface.get_interface

    def get_interface(interface: Any, implementation: str, default: Callable) -> Callable:
        chosen = own(interface, implementation, default)

        def attend(
            module: nn.Module, query: Any, key: Any, value: Any, attention_mask: Any = None, **options: Any
        ) -> Any:
            busy, watch.busy = watch.busy, True
            try:
                answer = chosen(module, query, key, value, attention_mask, **options)
            finally:
                watch.busy = busy
            layer = watch.owner.get(id(module))
            if layer is None or busy:
                return answer
            call = interface_call(
                layer, module, (query, key, value), attention_mask, options, default, answer, chosen is default
            )
            changed = watch.tell(call)
            return answer if changed is None else (changed, *answer[1:])

        return attend

    setattr(AttentionInterface, "get_interface", get_interface)  # noqa: B010
    try:
        yield
    finally:
        setattr(AttentionInterface, "get_interface", own)  # noqa: B010


@contextmanager
def no_strangers(model: nn.Module, layers: Sequence[AttentionLayer]) -> Iterator[None]:
    """Refuse when attention runs in a module of `model` that none of its layers describes: the numbers of the layers
    would then be wrong, and what is not described would be left out without a word.

    Sees what goes through the attention interface of transformers.
    """
    from transformers.modeling_utils import AttentionInterface

    paths = {id(module): path for path, module in model.named_modules()}
    known = {id(below) for layer in layers for below in module_at(model, layer.path).modules()}
    own, strangers = AttentionInterface.get_interface, set[str]()

    def get_interface(interface: Any, implementation: str, default: Callable) -> Callable:
        chosen = own(interface, implementation, default)

        def attend(module: nn.Module, *args: Any, **options: Any) -> Any:
            if id(module) in paths and id(module) not in known:
                strangers.add(paths[id(module)])
            return chosen(module, *args, **options)

        return attend

    setattr(AttentionInterface, "get_interface", get_interface)  # noqa: B010
    try:
        yield
    finally:
        setattr(AttentionInterface, "get_interface", own)  # noqa: B010
    if strangers:
        raise refuse(
            "unknown_layout",
            f"attention runs in {len(strangers)} modules that no row and no plugin describes",
            place=min(strangers),
            mend="teach it by the hook `attention_layer`",
        )


def interface_call(
    layer: AttentionLayer,
    module: nn.Module,
    states: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    mask: Any,
    options: dict[str, Any],
    eager: Callable,
    answer: tuple,
    is_eager: bool,
) -> Call:
    """A call of the attention interface; its weights come from the module's own eager function, query by query."""
    query, key, value = states
    if mask is not None and (not isinstance(mask, torch.Tensor) or mask.dim() != 4):
        raise refuse(
            "no_weights",
            "this attention implementation hides its mask",
            place=layer.path,
            mend="use attention implementation sdpa or eager to look at attention weights",
        )
    shape = (query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    if mask is None and not is_eager and causal and shape[2] > 1:
        mask = torch.ones(shape[2:], dtype=torch.bool, device=query.device).tril()[None, None]
    mask, allowed = both_masks(mask, query.dtype)
    options_dropout = options.get("dropout") or 0.0
    options = {name: entry for name, entry in options.items() if name not in ("dropout", "output_attentions")}

    def block(start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        bias = options.get("position_bias")
        cut = {**options, "position_bias": rows_of(bias, start, stop, shape[2])} if bias is not None else options
        part = query[:, :, start:stop]
        context, weights = eager(module, part, key, value, rows_of(mask, start, stop, shape[2]), dropout=0.0, **cut)[:2]
        return context, weights

    dropped = module.training and float(options_dropout) > 0
    return Call(layer, answer[0], None, allowed, block, shape, dropped)


def both_masks(mask: torch.Tensor | None, dtype: torch.dtype) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """A mask as something to add to scores, and as booleans (True: may be attended to)."""
    if mask is None:
        return None, None
    lowest = torch.finfo(dtype).min
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, lowest), mask
    return mask, mask > lowest / 4


def rows_of(mask: torch.Tensor | None, start: int, stop: int, queries: int) -> torch.Tensor | None:
    """The rows of a mask or bias that belong to some of the queries."""
    return mask[..., start:stop, :] if mask is not None and mask.shape[-2] == queries else mask


class _Functions(TorchFunctionMode):
    """Sees torch functions called directly inside the attention modules that are watched."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        answer = function(*args, **kwargs)
        watch = self.watch
        if watch.busy or not watch.inside:
            return answer
        if function is functional.scaled_dot_product_attention:
            changed = watch.tell(direct_call(watch.inside[-1], answer, *args, **kwargs))
            return answer if changed is None else changed.transpose(1, 2)
        if function in (torch.softmax, functional.softmax, torch.Tensor.softmax):
            call = softmax_call(watch.inside[-1], answer)
            if call is not None:
                watch.tell(call)
        return answer


def direct_call(
    layer: AttentionLayer,
    answer: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Call:
    """A direct call of `scaled_dot_product_attention`: weights by its definition."""
    heads, queries, keys = query.shape[1], query.shape[2], key.shape[2]
    if is_causal:
        attn_mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril()
    mask, allowed = both_masks(attn_mask, query.dtype)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    times = heads // key.shape[1] if enable_gqa else 1
    key, value = key.repeat_interleave(times, dim=1), value.repeat_interleave(times, dim=1)

    def block(start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        scores = query[:, :, start:stop] @ key.transpose(-1, -2) * scale
        bias = rows_of(mask, start, stop, queries)
        scores = scores if bias is None else scores + bias
        weights = scores.softmax(dim=-1)
        return (weights @ value).transpose(1, 2), weights

    while allowed is not None and allowed.dim() < 4:
        allowed = allowed.unsqueeze(0)
    return Call(
        layer, answer.transpose(1, 2), None, allowed, block, (query.shape[0], heads, queries, keys), dropout_p > 0
    )


def softmax_call(layer: AttentionLayer, answer: torch.Tensor) -> Call | None:
    """A softmax inside an attention module: its weights, if their shape says which axis is the attention heads."""
    heads = len(layer.kept or ())
    if answer.dim() == 3 and heads and answer.shape[0] % heads == 0:
        answer = answer.unflatten(0, (-1, heads))
    if answer.dim() != 4 or answer.shape[1] != heads:
        return None
    return Call(layer, None, answer, answer > 0, None, cast(tuple[int, int, int, int], tuple(answer.shape)))
