"""Interception of attention: seen while a model computes it with its own implementation.

Entry point: `watching`. Three signs are watched: the attention interface of transformers (`interface`), direct calls of
`scaled_dot_product_attention`, and softmaxes inside attention modules (`tracing`). Nothing is registered and no
configuration is changed, so there is nothing that a model could refuse or silently ignore.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from topwork import AttentionLayer
from topwork_lens.activations.hooks import Hook
from topwork_lens.capture.attention_call import AttentionCall, Formula
from topwork_lens.capture.interface import InterfaceCall, observing_interface
from topwork_lens.capture.tensors import Mask, by_heads, is_part, rows_of, split_items, with_keys_last
from topwork_lens.capture.tracing import SoftmaxTracer
from topwork_lens.capture.verification import product_by_head
from topwork_lens.layers.context import module_at
from topwork_lens.refusals import refuse
from topwork_lens.scope import Scope

Watcher = Callable[[AttentionCall], torch.Tensor | None]


@contextmanager
def watching(model: nn.Module, layers: Sequence[AttentionLayer], watcher: Watcher) -> Iterator[set[str]]:
    """Call `watcher` with each attention computation of `layers` for the time of the block.

    When the watcher returns a context, the model goes on with it (recomputed, with the weights in the graph).

    Yields:
        Paths of layers in which a softmax weighed something, whatever its form; filled while the model runs.
    """
    watch = _Watch(model, layers, watcher)
    with ExitStack() as stack:
        stack.enter_context(watch.scope)
        stack.enter_context(observing_interface(watch.called))
        for layer in layers:
            # All modules below as well: some models call a layer's `forward`, which no hook sees.
            for module in module_at(model, layer.path).modules():
                stack.callback(module.register_forward_pre_hook(watch.enter(layer), prepend=True).remove)
                stack.callback(module.register_forward_hook(Hook(watch.scope, watch.leave), always_call=True).remove)
        stack.enter_context(SoftmaxTracer(watch.traced))
        yield watch.softmaxes


class _Watch:
    def __init__(self, model: nn.Module, layers: Sequence[AttentionLayer], watcher: Watcher) -> None:
        self.owner: dict[int, AttentionLayer] = {}
        for layer in layers:
            for below in module_at(model, layer.path).modules():
                self.owner[id(below)] = layer
        self.watcher = watcher
        self.scope = Scope()
        self.inside: list[AttentionLayer] = []
        self.softmaxes: set[str] = set()
        self.busy = False
        #: the last softmax whose weights were multiplied part by part
        self.last: weakref.ref[torch.Tensor] | None = None

    def enter(self, layer: AttentionLayer) -> Hook:
        return Hook(self.scope, lambda *_: self.inside.append(layer))

    def leave(self, *_: Any) -> None:
        if self.inside:
            self.inside.pop()

    def tell(self, call: AttentionCall) -> torch.Tensor | None:
        self.busy = True
        try:
            # What is computed here is not traced: marks would keep every block of weights alive.
            with torch._C.DisableTorchFunction():
                return self.watcher(call)
        finally:
            self.busy = False

    def called(self, call: InterfaceCall, run: Callable[[InterfaceCall], Any]) -> Any:
        """Observe a call of the attention interface."""
        busy, self.busy = self.busy, True
        try:
            output = run(call)
        finally:
            self.busy = busy
        layer = self.owner.get(id(call.module))
        if layer is None or busy or layer.unseen:
            return output
        changed = self.tell(interface_call(layer, call, output))
        return output if changed is None else (changed, *output[1:])

    def traced(self, how: str, function: Any, args: tuple, options: dict, output: Any, weights: Any) -> Any:
        """Observe torch functions that are called directly inside the attention modules."""
        if self.busy or not self.scope.active or not self.inside or self.inside[-1].unseen or how == "samples":
            return None
        layer = self.inside[-1]
        if function is functional.scaled_dot_product_attention:
            call = direct_call(layer, output, *args, **options)
            changed = None if call is None else self.tell(call)
            return None if changed is None else changed.transpose(1, 2).reshape(output.shape)
        self.softmaxes.add(layer.path)
        call = None
        if how == "points" and layer.form == "deformable":
            # [items, queries, heads, levels * points]
            call = softmax_call(layer, weights[0].flatten(3)) if weights[0].dim() > 3 else None
        if how == "softmax":
            operand = with_keys_last(function, args, weights[1])
            if is_part(operand, weights[0], len(layer.kept)):
                if self.last is not None and self.last() is weights[0]:
                    return None  # another part of weights that were seen as a whole
                self.last = weakref.ref(weights[0])
                call = softmax_call(layer, weights[0])
            else:
                call = softmax_call(layer, operand) or softmax_call(layer, weights[0])
            if call is not None and layer.kept:
                with torch.no_grad(), torch._C.DisableTorchFunction():
                    call.parts = parts_of(layer, function, args, options, output, weights)
        if call is not None:
            self.tell(call)
        return None


def interface_call(layer: AttentionLayer, seen: InterfaceCall, output: tuple) -> AttentionCall:
    """Make the call of an attention interface; its weights come from the module's own eager function.

    Raises:
        Refused: the mask cannot be read, or other attention heads are computed than are described.
    """
    query, key, value = seen.states
    shape = (query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    again = recomputation(layer, seen)
    allowed, formula = again.mask.allowed if again.mask else None, None
    if seen.weights is not None:
        return AttentionCall(layer, output[0], seen.weights, allowed, None, shape, False, value)
    if seen.options.get("position_bias") is None and query.shape[-1] == key.shape[-1]:
        scale = seen.options.get("scaling") or getattr(seen.module, "scaling", None)
        formula = Formula(query, key, scale if isinstance(scale, float) else query.shape[-1] ** -0.5, again.mask)
    return AttentionCall(layer, output[0], None, allowed, again.block, shape, again.dropped, value, formula=formula)


@dataclass(frozen=True)
class Recomputation:
    """The module's own eager function, on some queries of a call.

    Args:
        mask: which keys may be attended to.
        block: as of `AttentionCall`.
        dropped: True when dropout was at work in the call: it is not in the recomputation.
    """

    mask: Mask
    block: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    dropped: bool


def recomputation(layer: AttentionLayer, seen: InterfaceCall) -> Recomputation:
    """Return how the weights of a call can be computed again.

    Raises:
        Refused: the mask cannot be read, or other attention heads are computed than are described.
    """
    module, options, mask = seen.module, seen.options, seen.mask
    query, key, value = seen.states
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
    queries, keys = query.shape[2], key.shape[2]
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    implicit = mask is None and not seen.is_eager and bool(causal) and queries > 1
    masked = Mask(mask, implicit, (queries, keys), query)
    dropped = module.training and float(options.get("dropout") or 0.0) > 0
    options = {name: value for name, value in options.items() if name not in ("dropout", "output_attentions")}

    def block(start: int, stop: int, values: torch.Tensor = value) -> tuple[torch.Tensor, torch.Tensor]:
        bias = options.get("position_bias")
        cut = {**options, "position_bias": rows_of(bias, start, stop, queries)} if bias is not None else options
        part = query[:, :, start:stop]
        context, weights = seen.eager(module, part, key, values, masked.added(start, stop), dropout=0.0, **cut)[:2]
        return context, weights

    return Recomputation(masked, block, dropped)


def direct_call(
    layer: AttentionLayer,
    output: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> AttentionCall | None:
    """Make the call of a direct `scaled_dot_product_attention`, whose weights follow from its definition."""
    states = [split_items(state, len(layer.kept)) for state in (query, key, value, output)]
    if any(state is None for state in states) or states[0].shape[1] != len(layer.kept):  # type: ignore[union-attr]
        return None
    query, key, value, output = cast(list[torch.Tensor], states)
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
    return AttentionCall(
        layer, output.transpose(1, 2), None, allowed, block, shape, dropout_p > 0, value, formula=formula
    )


def softmax_call(layer: AttentionLayer, weights: torch.Tensor) -> AttentionCall | None:
    """Make the call of weights that a module multiplied its values with; None when no axis is the attention heads."""
    split = by_heads(weights, len(layer.kept))
    if split is None:
        return None
    shape = cast(tuple[int, int, int, int], tuple(split.shape))
    return AttentionCall(layer, None, split, lambda start, stop: split[:, :, start:stop] > 0, None, shape)


def parts_of(
    layer: AttentionLayer,
    function: Any,
    args: tuple,
    options: dict[str, Any],
    output: Any,
    weights: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor | None:
    """Recompute what weights @ values gives each attention head; see `verification.product_by_head`."""
    try:
        return product_by_head(function, args, options, output, weights[1], len(layer.kept), len(weights[0]))
    except ValueError as error:
        cause = f"weights @ values, recomputed, are not what the model computed ({error})"
        raise refuse("no_weights", cause, place=layer.path) from error
