"""Capture: attention weights or what they reduce to, contexts, hidden states, and gradients, while a model runs.

The model keeps its own attention implementation. Weights are recomputed in blocks of queries by the module's own eager
function and checked: weights @ values must be the context that the model computed. After the block the model is as
it was, also after an exception.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from topwork import AttentionLayer, UsageError, accelerated
from topwork_lens.activations.hooks import Hook
from topwork_lens.activations.sites import (
    NAMES,
    NETWORKS,
    NEURONS_OF_EXPERTS,
    OF_LAYERS,
    OPERANDS,
    Site,
    chosen_sites,
    sites_of,
)
from topwork_lens.activations.states import closing_norms, without_final_norm
from topwork_lens.activations.taps import tapped
from topwork_lens.capture.arguments import (
    count_argument,
    device_argument,
    heads_argument,
    names_argument,
    offset_of,
    places_argument,
    unfit_for_distance,
)
from topwork_lens.capture.attention_call import AttentionCall
from topwork_lens.capture.fast_reductions import reduced
from topwork_lens.capture.interception import watching
from topwork_lens.capture.keys import keys_argument
from topwork_lens.capture.operands import operands_tapped
from topwork_lens.capture.reductions import Reducer, in_full
from topwork_lens.capture.result import Captured
from topwork_lens.capture.tokens import TokenKinds
from topwork_lens.capture.verification import compare_contexts, other_order, quick_weights, received
from topwork_lens.layers.context import first_input, is_gateable, module_at, output_projection, split_heads
from topwork_lens.layers.discovery import blocks
from topwork_lens.layers.feed_forward import find_experts_modules
from topwork_lens.layers.torch_mha import unfolded
from topwork_lens.model_state import device_of, remembering
from topwork_lens.refusals import refuse
from topwork_lens.scope import Scope, eager_when_compiled

#: names beside reductions of weights: activations and their gradients (the gradient of the share of an attention head
#: is that of the layer's output), and the states around attention layers
STATES = (
    *(name for name in NAMES if name != "weights"),
    *(f"{name}_gradient" for name in NAMES if name != "head_output"),
    "hidden",
)
NO_MATRIX = "it attends to points, which have no queries, keys and scores of positions"
NOT_BY_HEAD = "this layer computes them in a form that says nothing of single attention heads"
#: what is captured by hooks of its own, or with the weights
SPECIAL = ("context", "weights")


class Capture:
    """Capture of some layers of a model, behind `Look.capture`; see there for the arguments.

    Args:
        model: the model.
        layers: the layers that are watched.
        what: names of what is captured.
        known: all layers of the model, where `layers` are fewer.
        token_ids: ids of special and separator tokens, by those names.
        networks: keys of the feed-forward networks that are watched; None for all.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[AttentionLayer],
        what: Sequence[str],
        *,
        heads: Mapping[str, Sequence[int]] | None = None,
        keys: Any = None,
        places: torch.Tensor | None = None,
        block: int | None = None,
        memory: int = 2**31,
        device: str | torch.device = "cpu",
        folder: str | Path | None = None,
        known: Sequence[AttentionLayer] | None = None,
        token_ids: Mapping[str, Sequence[int]] | None = None,
        networks: Any = None,
    ) -> None:
        self.what = names_argument(what, (*Reducer.KNOWN, *STATES))
        if not layers and needs_attention(what):
            if known is not None and len(known):
                raise UsageError("no attention layer is chosen", hint="name some, or leave `layers` out for all")
            raise refuse("unknown_layout", "no attention layer was found in this model")
        self.model, self.layers, self.heads = model, layers, heads_argument(heads)
        self.names = [name for name in what if name in Reducer.KNOWN]
        self.keys, self.places = keys_argument(keys), places_argument(places)
        if "mass" in what and self.keys is None:
            raise UsageError("`mass` needs the positions whose share of attention is meant", hint="give keys=[0]")
        self.tokens = TokenKinds(model, token_ids or {}, () if self.keys is None else self.keys.names)
        self.size = None if block is None else count_argument(block, "block", "queries")
        self.memory = count_argument(memory, "memory", "bytes")
        self.device = device_argument(device)
        self.kept = 0
        self.scope = Scope()
        self.parts: dict[str, list[torch.Tensor]] = {}
        self.softmaxes: set[str] = set()
        sites = self._sites(layers if known is None else known)
        self.sites = [site for name in sites for site in self._chosen(sites[name], name, networks)]
        self.seen = Captured(layers, what, None if folder is None else Path(folder), known, sites)
        if "mlp_activation" in sites:
            for network in find_experts_modules(model, self.seen.known):
                for name in ("mlp_activation", "mlp_activation_gradient"):
                    self.seen.fits(name, network.path, NEURONS_OF_EXPERTS)
        self.wants_weights = bool(self.names) or "weights_gradient" in what

    def _sites(self, known: Sequence[AttentionLayer]) -> dict[str, list[Site]]:
        """Return all sites of the activations that are read, by name of the activation."""
        names = dict.fromkeys(activation_of(name) for name in self.what)
        return {name: sites_of(self.model, name, known) for name in names if name in NAMES and name not in SPECIAL}

    def _chosen(self, sites: Sequence[Site], name: str, networks: Any) -> list[Site]:
        if name in NETWORKS:
            return chosen_sites(sites, networks)
        watched = {layer.path for layer in self.layers}
        return [site for site in sites if site.layer is None or site.path in watched]

    @contextmanager
    def run(self) -> Iterator[Captured]:
        """Watch the model for the time of the block."""
        with ExitStack() as stack:
            stack.enter_context(eager_when_compiled())
            stack.enter_context(remembering(self.model))
            stack.enter_context(self.scope)
            stack.enter_context(unfolded([module_at(self.model, layer.path) for layer in self.layers]))
            for layer in self.layers:
                hook = self._context(layer) if is_gateable(layer) else self._ran(layer)
                projection = output_projection(self.model, layer)
                reading = Hook(self.scope, hook, reads=True)
                stack.callback(projection.register_forward_pre_hook(reading, with_kwargs=True).remove)
            if "hidden" in self.what:
                for path in blocks(self.layers):
                    module = module_at(self.model, path)
                    stack.callback(module.register_forward_hook(Hook(self.scope, self._hidden(path))).remove)
            operands = [site for site in self.sites if site.name in OPERANDS]
            in_graph = "scores_gradient" in self.what
            stack.enter_context(operands_tapped(self.model, operands, self._visit, edits=False, in_graph=in_graph))
            stacks = [site.path for site in self.sites if site.name == "final_norm"]
            self.ended = closing_norms(self.model, stacks, self.scope, stack)
            at_modules = [site for site in self.sites if site.name not in OPERANDS]
            stack.enter_context(tapped(self.model, at_modules, self._visit, reads=True))
            if self.wants_weights:
                stack.enter_context(self.tokens.watched())
                if not torch.is_grad_enabled():
                    stack.enter_context(accelerated(device_of(self.model)))
                self.softmaxes = stack.enter_context(watching(self.model, self.layers, self._weights))
            yield self.seen
        self._complete()

    def _complete(self) -> None:
        """Note the layers that ran and have no weights; refuse when no layer has any.

        Raises:
            Refused: reason "no_weights".
        """
        for name in (name for name in self.what if name in OPERANDS[:4]):
            for layer in self.layers:
                if layer.path in self.seen.ran - self.seen.values.get(name, {}).keys() and layer.kept:
                    self.seen.fits(name, layer.path, NO_MATRIX if layer.form == "deformable" else NOT_BY_HEAD)
        for path, norm in self.ended.items():
            for name in ("final_norm", "final_norm_gradient"):
                if path not in self.seen.values.get("final_norm", {}):
                    self.seen.fits(name, path, without_final_norm(norm))
        if not self.wants_weights:
            return
        valid = self.seen.values.get("valid", {})
        missing = [layer for layer in self.layers if layer.path in self.seen.ran - valid.keys() and layer.kept]
        for layer in missing:
            for name in (*self.names, "weights_gradient"):
                self.seen.fits(name, layer.path, self._missing(layer))
        if missing and not valid:
            hint = "its context can be captured"
            raise refuse("no_weights", self._missing(missing[0]), place=missing[0].path, hint=hint)

    def _missing(self, layer: AttentionLayer) -> str:
        if layer.unseen:
            return f"attention weights cannot be captured here: {layer.unseen}"
        if layer.path in self.softmaxes:
            return "a softmax ran here, but not in a form that says whose weights are whose"
        return "this layer mixes positions without a softmax over keys: it has no attention weights"

    # ------------------------------------------------------------------ contexts and hidden states

    def _context(self, layer: AttentionLayer) -> Any:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            self.seen.ran.add(layer.path)
            context = first_input(args, kwargs)
            self._explained(layer, context)
            if "context" in self.what and layer.kept:
                self._keep("context", layer, split_heads(layer, context.detach()), axis=-2)
            if "context_gradient" in self.what and layer.kept and context.requires_grad:
                # A tensor's own hook: `retain_grad` would count twice when gradients are taken twice.
                context.register_hook(
                    lambda grad: self._keep("context_gradient", layer, split_heads(layer, grad.detach()), axis=-2)
                )

        return hook

    def _ran(self, layer: AttentionLayer) -> Any:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            self.seen.ran.add(layer.path)
            for name in ("context", "context_gradient"):
                self.seen.fits(name, layer.path, layer.why)

        return hook

    def _explained(self, layer: AttentionLayer, context: torch.Tensor) -> None:
        """Note how far the weights explain what the output projection receives.

        Raises:
            Refused: it receives the attention heads' outputs in another order than is described.
        """
        parts = self.parts.pop(layer.path, None)
        if not parts or not layer.kept:
            return
        heads = split_heads(layer, context)
        if received(parts, heads):
            self.seen.explained.setdefault(layer.path, "context")
            return
        if other_order(parts, heads):
            raise refuse("not_a_head", "the context holds its attention heads in another order", place=layer.path)
        self.seen.explained[layer.path] = "product"

    def _hidden(self, path: str) -> Any:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            states = output[0] if isinstance(output, tuple | list) else output
            self.seen.add("hidden", path, self._counted(states.detach()))

        return hook

    def _visit(self, site: Site, value: torch.Tensor) -> None:
        """Keep an activation, and its gradient when that arrives."""
        if site.name in self.what:
            if site.name == "hidden_states" and site.index == 0:
                self.seen.begin_states(site.path)
            self._keep_site(site.name, site, value)
        gradient = f"{site.name}_gradient"
        if gradient in self.what and value.requires_grad:
            value.register_hook(lambda grad: self._keep_site(gradient, site, grad) if self.scope.active else None)

    def _keep_site(self, what: str, site: Site, value: torch.Tensor) -> None:
        # A copy: models add to states in place.
        value = value.detach().clone()
        if site.layer is not None and site.name not in ("attention_output", "context"):
            self._keep(what, site.layer, value, axis=-2 if site.name == "head_output" else 1)
            return
        path = f"{site.path}.{site.index}" if what == "hidden_states_gradient" else site.path
        self.seen.add(what, path, self._counted(value))

    # ------------------------------------------------------------------ weights

    def _weights(self, call: AttentionCall) -> torch.Tensor | None:
        if call.layer.form == "deformable":
            self.seen.explained[call.layer.path] = "points"
        parts = call.parts if call.context is None else call.context.detach().movedim(2, 0).flatten(1)
        if parts is not None and call.layer.kept and not call.dropped:
            self.parts.setdefault(call.layer.path, []).append(parts)
        self.seen.add("valid", call.layer.path, call.valid_queries.to(self.device))
        context, call = self._in_graph(call) if "weights_gradient" in self.what else (None, call)
        with torch.no_grad():
            self._reductions(call)
        if call.scaled:
            self.seen.explained[call.layer.path] = "product"
        return context

    def _reductions(self, call: AttentionCall) -> None:
        placed = "distance" in self.names or (self.keys is not None and self.keys.shifts)
        offset = offset_of(call) if placed else 0
        reasons = {name: self._unfit(name, call, offset) for name in self.names}
        names = [name for name in self.names if reasons[name] is None]
        options: dict[str, Any] = {"places": self.places, "offset": offset or 0}
        if "mass" in names and self.keys is not None:
            options |= {"chosen": self.keys.chosen(call, self.tokens), "shifts": self.keys.shifts}
        reducer = Reducer(names, **options)
        values = reduced(call, reducer, self.size or call.block_size)
        if values is None:
            values = {name: torch.cat(parts, dim=2) for name, parts in self._blocks(call, reducer).items()}
        for name in self.names:
            self.seen.fits(name, call.layer.path, reasons[name])
            nothing = torch.full(call.shape[:3], float("nan"), device=call.device)
            self._keep(name, call.layer, values.get(name, nothing), axis=1)

    def _unfit(self, name: str, call: AttentionCall, offset: int | None) -> str | None:
        if name == "distance":
            return unfit_for_distance(call, self.places, offset)
        return self.keys.unfit(call, offset, self.tokens) if name == "mass" and self.keys is not None else None

    def _blocks(self, call: AttentionCall, reducer: Reducer) -> dict[str, list[torch.Tensor]]:
        queries, size = call.shape[2], self.size or call.block_size
        pieces: dict[str, list[torch.Tensor]] = {}
        total: torch.Tensor | None = None
        valid = call.valid_queries[:, None, :, None]
        for start in range(0, queries if reducer.names else 0, size):
            stop = min(queries, start + size)
            weights = checked_weights(call, start, stop)
            allowed = None if call.allowed is None else call.allowed(start, stop)
            for name, part in reducer.block(weights, allowed, start, call.shape).items():
                self._bound(part)
                pieces.setdefault(name, []).append(part)
            if "mean" in reducer.names:
                weights = in_full(weights)
                sums = (weights * valid[:, :, start:stop].to(weights)).sum(2)
                total = sums if total is None else total + sums
        if total is not None:
            pieces["mean"] = [total / valid.sum(2).clamp(min=1).to(total)]
        return pieces

    def _in_graph(self, call: AttentionCall) -> tuple[torch.Tensor | None, AttentionCall]:
        """Return weights that the loss depends on (the model goes on with the recomputed context), and the call."""
        if call.dropped:
            cause = "attention dropout is at work, and the recomputed weights that gradients need would go without it"
            raise refuse("no_gradient", cause, place=call.layer.path, hint="model.eval(), or attention dropout 0")
        context, weights = (None, call.weights) if call.block is None else call.block(0, call.shape[2])
        assert weights is not None
        if context is not None:
            compare_contexts(call, (context, weights), call.attending, 0)
        if weights.requires_grad:
            weights.register_hook(lambda grad: self._keep("weights_gradient", call.layer, grad.detach(), axis=1))
        return context, replace(call, weights=weights.detach(), formula=None)

    # ------------------------------------------------------------------ keeping

    def _keep(self, what: str, layer: AttentionLayer, value: torch.Tensor, axis: int) -> None:
        # Keys and values of a group belong to several attention heads.
        if self.heads is not None and value.shape[axis] == len(layer.kept):
            wanted = set(self.heads[layer.path])
            now = [position for position, index in enumerate(layer.kept) if index in wanted]
            value = value.index_select(axis, torch.tensor(now, device=value.device))
        self.seen.add(what, layer.path, self._counted(value))

    def _counted(self, value: torch.Tensor) -> torch.Tensor:
        self._bound(value)
        self.kept += value.numel() * value.element_size()
        return value.to(self.device)

    def _bound(self, value: torch.Tensor) -> None:
        if self.seen.folder is None and self.kept + value.numel() * value.element_size() > self.memory:
            raise UsageError(
                f"what was captured exceeds {self.memory} bytes",
                hint="choose layers or a reduction, or raise `memory`",
            )


def activation_of(name: str) -> str:
    """Return the activation whose gradient a name means, or the name itself."""
    return name.removesuffix("_gradient")


def needs_attention(what: Sequence[str]) -> bool:
    """Return whether something of attention layers is among the names."""
    return any(activation_of(str(name)) in (*OF_LAYERS, *Reducer.KNOWN, "hidden") for name in what)


def checked_weights(call: AttentionCall, start: int, stop: int) -> torch.Tensor:
    """Return weights of some queries [items, heads, queries, keys]: the model's own, or recomputed and checked."""
    if call.weights is not None:
        return call.weights[:, :, start:stop]
    assert call.block is not None
    valid = call.valid_rows(start, stop)
    quick = quick_weights(call, valid, start)
    if quick is not None:
        return quick
    context, weights = call.block(start, stop)
    compare_contexts(call, (context, weights), valid, start)
    return weights
