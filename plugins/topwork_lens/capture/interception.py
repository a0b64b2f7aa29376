"""Seeing the attention that a model computes, while it computes it with its own implementation.

Three places are watched: the attention interface of transformers, direct calls of `scaled_dot_product_attention`, and
softmaxes inside attention modules. Nothing is registered and no configuration is changed, so there is nothing that a
model could refuse or silently ignore.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from topwork import AttentionLayer
from topwork_lens.capture.fast_reductions import Formula
from topwork_lens.capture.tensors import Mask, by_heads, rows_of, split_items, with_keys_last
from topwork_lens.capture.undescribed import Following
from topwork_lens.capture.undescribed import no_strangers as no_strangers
from topwork_lens.capture.verification import product_by_head, projected
from topwork_lens.gates import module_at
from topwork_lens.refusals import refuse


@dataclass
class Call:
    """One computation of attention.

    Args:
        layer: whose it is.
        context: [items, queries, heads, width] as the model computed it; None when only weights were seen.
        weights: [items, heads, queries, keys] when the model made them itself.
        values: [items, heads or groups, keys, width], or None.
        scaled: True when the module's function gives less than weights @ values: a sink took its share afterwards.
        parts: [heads, numbers] in float64: weights @ values of the model's own weights, recomputed; or None.
        allowed: (first query, last query + 1) -> [items or 1, heads or 1, queries or 1, keys] booleans: what those
            queries may attend to; None: everything.
        block: (first query, last query + 1, values=None) -> context and weights of those queries, recomputed; with
            other values of the same form, when some are given.
        shape: (items, heads, queries, keys).
        dropped: True when dropout was at work: the context then differs from weights @ values.
        formula: what the weights are made of, if they are made in the usual way; or None.
    """

    layer: AttentionLayer
    context: torch.Tensor | None
    weights: torch.Tensor | None
    allowed: Callable[[int, int], torch.Tensor] | None
    block: Callable[..., tuple[torch.Tensor, torch.Tensor]] | None
    shape: tuple[int, int, int, int]
    dropped: bool = False
    values: torch.Tensor | None = None
    scaled: bool = False
    parts: torch.Tensor | None = None
    formula: Formula | None = None

    @cached_property
    def largest(self) -> float:
        """The largest number of the context, without its sign."""
        if self.context is None or not self.context.numel():
            return 0.0
        lowest, highest = self.context.detach().aminmax()
        return float(torch.maximum(-lowest, highest))

    @cached_property
    def projected(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Values and context along one random direction; see `explained.projected`."""
        return projected(self.values, self.context)


Watcher = Callable[[Call], torch.Tensor | None]


@contextmanager
def watching(model: nn.Module, layers: Sequence[AttentionLayer], watcher: Watcher) -> Iterator[set[str]]:
    """Call `watcher` with each attention computation of `layers` for the time of the block. Yields the paths of layers
    in which a softmax weighed something, whatever its form; filled while the model runs.

    When the watcher answers a context, that is what the model goes on with (recomputed, with the weights in the graph).
    """
    watch = _Watch(model, layers, watcher)
    with ExitStack() as stack:
        stack.enter_context(_interface_watched(watch))
        for layer in layers:
            # All modules below as well: some models call a layer's `forward`, which no hook sees.
            for module in module_at(model, layer.path).modules():
                stack.callback(module.register_forward_pre_hook(watch.enter(layer), prepend=True).remove)
                stack.callback(module.register_forward_hook(watch.leave, always_call=True).remove)
        stack.enter_context(_functions(watch))
        yield watch.softmaxes


class _Watch:
    def __init__(self, model: nn.Module, layers: Sequence[AttentionLayer], watcher: Watcher) -> None:
        self.owner: dict[int, AttentionLayer] = {}
        for layer in layers:
            for below in module_at(model, layer.path).modules():
                self.owner[id(below)] = layer
        self.watcher = watcher
        self.inside: list[AttentionLayer] = []
        self.softmaxes: set[str] = set()
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
            # What is computed here is not followed: marks would keep every block of weights alive.
            with torch._C.DisableTorchFunction():
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
            if layer is None or busy or layer.unseen:
                return answer
            call = interface_call(
                layer,
                module,
                (query, key, value),
                attention_mask,
                options,
                default,
                answer,
                implementation in (None, "eager"),
            )
            changed = watch.tell(call)
            return answer if changed is None else (changed, *answer[1:])

        return attend

    setattr(AttentionInterface, "get_interface", get_interface)  # noqa: B010
    try:
        yield
    finally:
        setattr(AttentionInterface, "get_interface", own)  # noqa: B010


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
            hint="use attention implementation sdpa or eager to look at attention weights",
        )
    if layer.kept and query.shape[1] != len(layer.kept):
        cause = f"{query.shape[1]} attention heads were computed where {len(layer.kept)} are described"
        raise refuse("no_weights", cause, place=layer.path, hint="teach it by the hook `attention_layer`")
    shape = (query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    alone = mask is None and not is_eager and bool(causal) and shape[2] > 1
    masked = Mask(mask, alone, shape[2:], query)
    dropped = module.training and float(options.get("dropout") or 0.0) > 0
    options = {name: entry for name, entry in options.items() if name not in ("dropout", "output_attentions")}

    def block(start: int, stop: int, values: torch.Tensor = value) -> tuple[torch.Tensor, torch.Tensor]:
        bias = options.get("position_bias")
        cut = {**options, "position_bias": rows_of(bias, start, stop, shape[2])} if bias is not None else options
        part = query[:, :, start:stop]
        context, weights = eager(module, part, key, values, masked.added(start, stop), dropout=0.0, **cut)[:2]
        return context, weights

    allowed, formula = masked.allowed if masked else None, None
    if options.get("position_bias") is None and query.shape[-1] == key.shape[-1]:
        scale = options.get("scaling") or getattr(module, "scaling", None)
        formula = Formula(query, key, scale if isinstance(scale, float) else query.shape[-1] ** -0.5, masked)
    return Call(layer, answer[0], None, allowed, block, shape, dropped, value, formula=formula)


def _functions(watch: _Watch) -> Following:
    """Sees torch functions called directly inside the attention modules that are watched."""

    def seen(how: str, function: Any, args: tuple, options: dict, answer: Any, weights: Any) -> Any:
        if watch.busy or not watch.inside or watch.inside[-1].unseen:
            return None
        layer = watch.inside[-1]
        if function is functional.scaled_dot_product_attention:
            call = direct_call(layer, answer, *args, **options)
            changed = None if call is None else watch.tell(call)
            return None if changed is None else changed.transpose(1, 2).reshape(answer.shape)
        watch.softmaxes.add(layer.path)
        call = None
        if how == "points" and layer.form == "deformable":
            # [items, queries, heads, levels * points]
            call = softmax_call(layer, weights[0].flatten(3)) if weights[0].dim() > 3 else None
        if how == "softmax":
            call = softmax_call(layer, with_keys_last(function, args, weights[1])) or softmax_call(layer, weights[0])
            if call is not None and layer.kept:
                with torch.no_grad(), torch._C.DisableTorchFunction():
                    call.parts = parts_of(layer, function, args, options, answer, weights[1])
        if call is not None:
            watch.tell(call)
        return None

    return Following(seen)


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
) -> Call | None:
    """A direct call of `scaled_dot_product_attention`: weights by its definition."""
    states = [split_items(state, len(layer.kept or ())) for state in (query, key, value, answer)]
    if any(state is None for state in states) or states[0].shape[1] != len(layer.kept or ()):  # type: ignore[union-attr]
        return None
    query, key, value, answer = cast(list[torch.Tensor], states)
    if attn_mask is not None and attn_mask.dim() == 3:
        attn_mask = split_items(attn_mask, query.shape[1])
    heads, queries, keys = query.shape[1], query.shape[2], key.shape[2]
    masked = Mask(attn_mask, is_causal, (queries, keys), query)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    times = heads // key.shape[1] if enable_gqa else 1
    key, value = key.repeat_interleave(times, dim=1), value.repeat_interleave(times, dim=1)

    def block(start: int, stop: int, values: torch.Tensor = value) -> tuple[torch.Tensor, torch.Tensor]:
        scores = query[:, :, start:stop] @ key.transpose(-1, -2) * scale
        bias = masked.added(start, stop)
        scores = scores if bias is None else scores + bias
        weights = scores.softmax(dim=-1)
        return (weights @ values).transpose(1, 2), weights

    shape, allowed = (query.shape[0], heads, queries, keys), masked.allowed if masked else None
    formula = Formula(query, key, scale, masked)
    return Call(layer, answer.transpose(1, 2), None, allowed, block, shape, dropout_p > 0, value, formula=formula)


def softmax_call(layer: AttentionLayer, weights: torch.Tensor) -> Call | None:
    """Weights that a module multiplied its values with, if their shape says which axis is the attention heads."""
    found = by_heads(weights, len(layer.kept or ()))
    if found is None:
        return None
    shape = cast(tuple[int, int, int, int], tuple(found.shape))
    return Call(layer, None, found, lambda start, stop: found[:, :, start:stop] > 0, None, shape)


def parts_of(
    layer: AttentionLayer, function: Any, args: tuple, options: dict[str, Any], answer: Any, weights: torch.Tensor
) -> torch.Tensor | None:
    """What weights @ values gives each attention head, recomputed; see `explained.product_by_head`."""
    try:
        return product_by_head(function, args, options, answer, weights, len(layer.kept or ()))
    except ValueError as error:
        cause = f"weights @ values, recomputed, are not what the model computed ({error})"
        raise refuse("no_weights", cause, place=layer.path) from error
