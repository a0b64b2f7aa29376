"""Capture: attention weights or what they reduce to, contexts, hidden states, and gradients, while a model runs.

The model keeps its own attention implementation. Weights are recomputed in blocks of queries by the module's own eager
function and checked: weights @ values must be the context that the model computed. After the block the model is as
it was, also after an exception.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from topwork import AttentionLayer, UsageError, unknown
from topwork_lens.calls import Call, watching
from topwork_lens.discovery import Key, blocks, layer_at
from topwork_lens.gates import first_input, module_at, output_projection, split_heads
from topwork_lens.multihead import unfolded
from topwork_lens.reductions import Reducer
from topwork_lens.refusals import refuse

STATES = ("context", "context_gradient", "weights_gradient", "hidden")


class Seen:
    """What a capture saw. `seen[what, layer]` is the tensor of the only forward pass, `seen.calls(what, layer)` those
    of all (one for each step of `generate`). `layer` is a number, (group, number) or a path."""

    def __init__(self, layers: Sequence[AttentionLayer], asked: Sequence[str]) -> None:
        self.layers, self.asked = list(layers), tuple(asked)
        self.found: dict[str, dict[str, list[torch.Tensor]]] = {}
        self.ran: set[str] = set()

    def add(self, what: str, path: str, value: torch.Tensor) -> None:
        """Keep one more tensor."""
        self.found.setdefault(what, {}).setdefault(path, []).append(value)

    def calls(self, what: str, layer: Key) -> list[torch.Tensor]:
        """One tensor for each time that the layer ran.

        Raises:
            UsageError: it was not asked for.
            Refused: the layer did not run, or no gradient arrived.
        """
        if what not in self.asked and what != "valid":
            raise unknown("capture", what, self.asked)
        path = layer if what == "hidden" and isinstance(layer, str) else layer_at(self.layers, layer).path
        values = self.found.get(what, {}).get(path)
        if values is None:
            reason = "no_gradient" if what.endswith("_gradient") else "not_run"
            cause = f"no {what} was seen"
            mend = "call backward inside the block" if reason == "no_gradient" else "run the model inside the block"
            raise refuse(reason, cause, place=path, mend=mend)
        return values

    def __getitem__(self, key: tuple[str, Key]) -> torch.Tensor:
        what, layer = key
        values = self.calls(what, layer)
        if len(values) > 1:
            raise UsageError(f"{what} was seen {len(values)} times", place=str(layer), mend="use seen.calls(...)")
        return values[0]

    def __call__(self, what: str) -> dict[str, torch.Tensor]:
        """The tensors of the only forward pass, by module path."""
        return {path: values[0] for path, values in self.found.get(what, {}).items() if self[what, path] is not None}


class Capture:
    """The work behind `Look.capture`; see there for the arguments."""

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[AttentionLayer],
        what: Sequence[str],
        *,
        heads: Sequence[int] | None = None,
        keys: Sequence[int] | None = None,
        places: torch.Tensor | None = None,
        block: int = 32,
        memory: int = 2**31,
        device: str | torch.device = "cpu",
    ) -> None:
        for name in what:
            if name not in (*Reducer.KNOWN, *STATES):
                raise unknown("capture", name, (*Reducer.KNOWN, *STATES))
        if not layers:
            raise refuse("unknown_layout", "no attention layer was found in this model")
        self.model, self.layers, self.what = model, layers, tuple(what)
        self.heads = heads
        self.reducer = Reducer([name for name in what if name in Reducer.KNOWN], keys, places)
        self.size, self.memory, self.device = block, memory, torch.device(device)
        self.kept = 0
        self.energy: dict[str, torch.Tensor] = {}
        self.seen = Seen(layers, what)
        self.wants_weights = bool(self.reducer.names) or "weights_gradient" in what

    @contextmanager
    def run(self) -> Iterator[Seen]:
        """The block in which the model is watched."""
        with ExitStack() as stack:
            stack.enter_context(unfolded([module_at(self.model, layer.path) for layer in self.layers]))
            for layer in self.layers:
                projection = output_projection(self.model, layer)
                stack.callback(projection.register_forward_pre_hook(self._context(layer), with_kwargs=True).remove)
            if "hidden" in self.what:
                for path in blocks(self.layers):
                    module = module_at(self.model, path)
                    stack.callback(module.register_forward_hook(self._hidden(path)).remove)
            if self.wants_weights:
                stack.enter_context(watching(self.model, self.layers, self._weights))
            yield self.seen
        self._complete()

    def _complete(self) -> None:
        if not self.wants_weights:
            return
        for layer in self.layers:
            if layer.path in self.seen.ran and layer.kept and layer.path not in self.seen.found.get("valid", {}):
                raise refuse("no_weights", "the attention layer ran, but its weights were not seen", place=layer.path)

    # ------------------------------------------------------------------ contexts and hidden states

    def _context(self, layer: AttentionLayer) -> Any:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            self.seen.ran.add(layer.path)
            context = first_input(args, kwargs)
            self._same_heads(layer, context)
            if "context" in self.what and layer.kept:
                self._keep("context", layer, split_heads(layer, context.detach()), axis=-2)
            if "context_gradient" in self.what and layer.kept and context.requires_grad:
                # A tensor's own hook: `retain_grad` would count twice when gradients are taken twice.
                context.register_hook(
                    lambda grad: self._keep("context_gradient", layer, split_heads(layer, grad.detach()), axis=-2)
                )

        return hook

    def _same_heads(self, layer: AttentionLayer, context: torch.Tensor) -> None:
        """Refuse when the output projection gets the attention heads' outputs in another order than is described."""
        own = self.energy.pop(layer.path, None)
        if own is None or not layer.kept:
            return
        heads = split_heads(layer, context.detach())
        found = heads.double().square().sum(dim=[axis for axis in range(heads.dim()) if axis != heads.dim() - 2])
        # A gate, a norm, or padding on the way changes the whole; the same whole in other shares is another order.
        if (found.sum() - own.sum()).abs() <= 1e-4 * own.sum() and (found - own).abs().max() > 1e-2 * own.max():
            raise refuse("not_a_head", "the context holds its attention heads in another order", place=layer.path)

    def _hidden(self, path: str) -> Any:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            states = output[0] if isinstance(output, tuple | list) else output
            self.seen.add("hidden", path, self._counted(states.detach()))

        return hook

    # ------------------------------------------------------------------ weights

    def _weights(self, call: Call) -> torch.Tensor | None:
        if call.context is not None and call.layer.kept:
            energy = call.context.detach().double().square().sum(dim=(0, 1, 3))
            path = call.layer.path
            self.energy[path] = self.energy[path] + energy if path in self.energy else energy
        self.seen.add("valid", call.layer.path, valid_queries(call).to(self.device))
        if "weights_gradient" in self.what:
            return self._in_graph(call)
        with torch.no_grad():
            pieces = self._blocks(call)
        for name, parts in pieces.items():
            whole = torch.cat(parts, dim=2)
            self._keep(name, call.layer, whole, axis=1)
        return None

    def _blocks(self, call: Call) -> dict[str, list[torch.Tensor]]:
        queries = call.shape[2]
        pieces: dict[str, list[torch.Tensor]] = {}
        total: torch.Tensor | None = None
        valid = valid_queries(call)[:, None, :, None]
        for start in range(0, queries, self.size):
            stop = min(queries, start + self.size)
            weights = checked_weights(call, start, stop)
            allowed = rows_of_allowed(call, start, stop)
            for name, part in self.reducer.block(weights, allowed, start, call.shape).items():
                self._bound(part)
                pieces.setdefault(name, []).append(part)
            if "mean" in self.reducer.names:
                sums = (weights * valid[:, :, start:stop].to(weights)).sum(2)
                total = sums if total is None else total + sums
        if total is not None:
            pieces["mean"] = [total / valid.sum(2).clamp(min=1).to(total)]
        return pieces

    def _in_graph(self, call: Call) -> torch.Tensor | None:
        """Weights that the loss depends on: the model goes on with the recomputed context."""
        context, weights = (None, call.weights) if call.block is None else call.block(0, call.shape[2])
        assert weights is not None
        if context is not None:
            compare_contexts(call, context.detach(), 0, call.shape[2])
        if weights.requires_grad:
            weights.register_hook(lambda grad: self._keep("weights_gradient", call.layer, grad.detach(), axis=1))
        with torch.no_grad():
            allowed = call.allowed
            for name, part in self.reducer.block(weights.detach(), allowed, 0, call.shape).items():
                self._keep(name, call.layer, part, axis=1)
        return context

    # ------------------------------------------------------------------ keeping

    def _keep(self, what: str, layer: AttentionLayer, value: torch.Tensor, axis: int) -> None:
        if self.heads is not None:
            now = [position for position, number in enumerate(layer.kept or ()) if number in set(self.heads)]
            value = value.index_select(axis, torch.tensor(now, device=value.device))
        self.seen.add(what, layer.path, self._counted(value))

    def _counted(self, value: torch.Tensor) -> torch.Tensor:
        self._bound(value)
        self.kept += value.numel() * value.element_size()
        return value.to(self.device)

    def _bound(self, value: torch.Tensor) -> None:
        if self.kept + value.numel() * value.element_size() > self.memory:
            raise UsageError(
                f"what was captured exceeds {self.memory} bytes",
                mend="choose layers or a reduction, or raise `memory`",
            )


def checked_weights(call: Call, start: int, stop: int) -> torch.Tensor:
    """Weights of some queries [items, heads, queries, keys]: the model's own, or recomputed and checked."""
    if call.weights is not None:
        return call.weights[:, :, start:stop]
    assert call.block is not None
    context, weights = call.block(start, stop)
    compare_contexts(call, context, start, stop)
    return weights


def compare_contexts(call: Call, context: torch.Tensor, start: int, stop: int) -> None:
    """Refuse weights that do not explain the context that the model computed."""
    if call.context is None or call.dropped:
        return
    own = call.context[:, start:stop].detach().float()
    difference = (own - context.detach().float().reshape(own.shape)).abs()
    # A query that may attend to nothing gets an arbitrary answer from every implementation.
    some = valid_rows(call, start, stop)
    difference = difference.masked_fill(~some[..., None, None], 0)
    tolerance = max(1e-4, 64 * torch.finfo(call.context.dtype).eps) * float(own.abs().amax() if own.numel() else 0)
    worst = float(difference.amax()) if difference.numel() else 0.0
    if not worst <= tolerance + 1e-12:
        raise refuse(
            "no_weights",
            f"recomputed weights do not explain the context (difference {worst:.2g}, tolerance {tolerance:.2g})",
            place=call.layer.path,
            mend="use attention implementation eager",
        )


def rows_of_allowed(call: Call, start: int, stop: int) -> torch.Tensor | None:
    """The rows of `Call.allowed` for some queries."""
    if call.allowed is None or call.allowed.shape[-2] == 1:
        return call.allowed
    return call.allowed[:, :, start:stop]


def valid_rows(call: Call, start: int, stop: int) -> torch.Tensor:
    """[items, queries]: True where a query may attend to something."""
    items, _, _, _ = call.shape
    allowed = rows_of_allowed(call, start, stop)
    if allowed is None:
        return torch.ones(items, stop - start, dtype=torch.bool, device=_device(call))
    return allowed.any(-1).any(1).expand(items, stop - start)


def valid_queries(call: Call) -> torch.Tensor:
    """[items, queries]: True where a query is no padding. In self-attention a position that nobody may attend to is
    padding; elsewhere, a query that may attend to nothing."""
    items, _, queries, keys = call.shape
    if call.allowed is None:
        return torch.ones(items, queries, dtype=torch.bool, device=_device(call))
    if call.layer.kind == "self" and queries == keys:
        return call.allowed.any(1).any(1).expand(items, keys)
    return valid_rows(call, 0, queries)


def _device(call: Call) -> torch.device:
    return (call.context if call.context is not None else call.weights).device  # type: ignore[union-attr]
