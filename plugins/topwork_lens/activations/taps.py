"""Taps: each activation of some sites is passed to a function, which may give another one to go on with.

Entry point: `tapped`, for what modules read and write. Operands of attention computations lie inside functions:
`topwork_lens.capture.operands` visits those.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from topwork import AttentionLayer
from topwork_lens.activations.hooks import Hooks
from topwork_lens.activations.shares import as_written, channels_last, head_shares
from topwork_lens.activations.sites import Site
from topwork_lens.activations.states import Visit, tap_embeddings, tap_final_norm, tap_head_inputs, tap_states
from topwork_lens.layers.context import (
    first_input,
    merge_heads,
    module_at,
    output_projection,
    split_heads,
    with_first_input,
)
from topwork_lens.layers.feed_forward import FeedForward
from topwork_lens.layers.torch_mha import unfolded
from topwork_lens.scope import eager_when_compiled

Tap = Callable[[nn.Module, Sequence[Site], Visit, Hooks], None]


@contextmanager
def tapped(model: nn.Module, sites: Sequence[Site], visit: Visit, *, reads: bool) -> Iterator[None]:
    """Pass each activation of the sites to `visit`, for the time of the block; in this thread or task.

    Args:
        model: the model.
        sites: of any activations that modules read or write.
        visit: called with a site and its activation; what it returns replaces the activation, unless it is None.
        reads: whether `visit` never returns anything: it then sees what all others made of the activation.
    """
    by_name: dict[str, list[Site]] = {}
    for site in sites:
        by_name.setdefault(site.name, []).append(site)
    layers = [site.layer for site in sites if site.layer is not None]
    with ExitStack() as stack:
        stack.enter_context(eager_when_compiled())
        stack.enter_context(unfolded([module_at(model, layer.path) for layer in layers]))
        hooks = Hooks(stack, reads)
        for name, chosen in by_name.items():
            _TAPS[name](model, chosen, visit, hooks)
        yield


def _tap_context(model: nn.Module, sites: Sequence[Site], visit: Visit, hooks: Hooks) -> None:
    for site in sites:
        layer = _layer(site)
        hooks.before(output_projection(model, layer), _context_hook(site, layer, visit))


def _context_hook(site: Site, layer: AttentionLayer, visit: Visit) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        context = first_input(args, kwargs)
        changed = visit(site, split_heads(layer, context)) if layer.kept else None
        return None if changed is None else with_first_input(args, kwargs, merge_heads(layer, changed))

    return hook


def _tap_outputs(model: nn.Module, sites: Sequence[Site], visit: Visit, hooks: Hooks) -> None:
    for site in sites:
        hooks.after(output_projection(model, _layer(site)), _output_hook(site, visit))


def _output_hook(site: Site, visit: Visit) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: torch.Tensor) -> Any:
        changed = visit(site, channels_last(module, output))
        return None if changed is None else as_written(module, changed)

    return hook


def _tap_shares(model: nn.Module, sites: Sequence[Site], visit: Visit, hooks: Hooks) -> None:
    for site in sites:
        layer = _layer(site)
        hooks.after(output_projection(model, layer), _share_hook(site, layer, visit))


def _share_hook(site: Site, layer: AttentionLayer, visit: Visit) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: torch.Tensor) -> Any:
        shares = head_shares(module, layer, first_input(args, kwargs))
        changed = visit(site, shares)
        if changed is None:
            return None
        # A head that keeps its share changes nothing, not even by rounding.
        return output + as_written(module, (changed - shares).sum(-2))

    return hook


def _tap_networks(model: nn.Module, sites: Sequence[Site], visit: Visit, hooks: Hooks) -> None:
    for site in sites:
        network = _network(site)
        if site.name == "mlp_input":
            once = _Once(visit)
            for path in network.inputs[:1] if hooks.reads else network.inputs:
                hooks.before(module_at(model, path), _input_hook(site, once))
        elif site.name == "mlp_activation":
            hooks.before(module_at(model, network.output), _input_hook(site, visit))
        else:
            hooks.after(module_at(model, network.output), _output_hook(site, visit))


class _Once:
    """Visit of a state that several projections read: who replaces it does so once, for all of them."""

    def __init__(self, visit: Visit) -> None:
        self.visit = visit
        self.last: weakref.ref[torch.Tensor] | None = None
        self.changed: torch.Tensor | None = None

    def __call__(self, site: Site, value: torch.Tensor) -> torch.Tensor | None:
        if self.last is None or self.last() is not value:
            self.last, self.changed = weakref.ref(value), self.visit(site, value)
        return self.changed


def _input_hook(site: Site, visit: Visit) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
        changed = visit(site, channels_last(module, first_input(args, kwargs)))
        return None if changed is None else with_first_input(args, kwargs, as_written(module, changed))

    return hook


def _layer(site: Site) -> AttentionLayer:
    assert site.layer is not None
    return site.layer


def _network(site: Site) -> FeedForward:
    assert site.network is not None
    return site.network


_TAPS: dict[str, Tap] = {
    "embeddings": tap_embeddings,
    "hidden_states": tap_states,
    "final_norm": tap_final_norm,
    "head_input": tap_head_inputs,
    "context": _tap_context,
    "attention_output": _tap_outputs,
    "head_output": _tap_shares,
    "mlp_input": _tap_networks,
    "mlp_activation": _tap_networks,
    "mlp_output": _tap_networks,
}
