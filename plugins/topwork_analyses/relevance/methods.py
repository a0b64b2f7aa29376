"""Relevance of the input positions of one row by every method, from one forward and one backward pass.

Entry point: `relevance_of_row`. What is explained is the negative loss of the row under its truth: the log-probability
of a label, of a transcript, of a span, minus the loss of boxes and masks. The positions of the last layer are weighted
by the norm of the explained number's gradient there, so that what the task head reads (a class token, all frames, the
last token) is what counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from topwork import AttentionLayer, Refused
from topwork_analyses.positions.weights import whole_weights
from topwork_analyses.relevance.chefer import Attention, averaged, relevance_maps
from topwork_analyses.relevance.norms import norm_attention, transformed_values
from topwork_analyses.relevance.rollout import flow, rollout
from topwork_lens.capture.result import Captured
from topwork_lens.layers.context import is_gateable
from topwork_lens.look import Look

METHODS = ("attention", "rollout", "norms", "chefer", "gradient")
_CAPTURED = ("weights", "weights_gradient", "value", "hidden_states", "hidden_states_gradient")


@dataclass
class RowRelevance:
    """Relevance of the input positions of one row.

    Args:
        stack: path of the stack of layers that reads the positions.
        methods: method -> [positions], each at least 0.
        value: the number that is explained.
    """

    stack: str
    methods: dict[str, torch.Tensor]
    value: float


def relevance_of_row(look: Look, explained: Callable[[], torch.Tensor], with_flow: bool = False) -> RowRelevance:
    """Return the relevance of the input positions by every method.

    Args:
        look: at the model, in evaluation mode.
        explained: runs the model on one row and returns a number with a gradient.
        with_flow: also by attention flow, which takes a flow problem for each two positions.

    Raises:
        Refused: some attention that ran has no weight for each two positions.
    """
    layers = [layer for layer in look.layers if layer.kept]
    if not layers:
        raise Refused("no layer in which each position attends to each other", reason="no_weights")
    with torch.enable_grad(), look.capture(*_CAPTURED, layers=[layer.path for layer in layers]) as seen:
        number = explained()
        number.backward()
    look.model.zero_grad(set_to_none=True)
    ran = [layer for layer in layers if layer.path in seen.ran]
    for layer in ran:
        if layer.form != "dense":
            raise _no_stack(f"{layer.path} is {layer.form}, it has no weight for each two positions")
    weights = {layer.path: whole_weights(seen, layer.path)[0].double() for layer in ran}
    inner = _of_input(ran, weights)
    stack, states = _stack(seen.hidden_states(run=0), weights[inner[-1].path].shape[-1])
    gradients = [seen["hidden_states_gradient", (stack, index)][0].double() for index in (0, len(states) - 1)]
    queries = _shares(gradients[-1])
    means = [weights[layer.path].mean(0) for layer in inner]
    values = transformed_values(look.model, inner[-1], seen["value", inner[-1].path]).detach().double()
    maps = [_averaged(seen, layer, weights[layer.path]) for layer in ran]
    flows = {"flow": queries @ flow(means, queries.nonzero().flatten().tolist())} if with_flow else {}
    return RowRelevance(
        stack,
        {
            "attention": queries @ means[-1],
            "rollout": queries @ rollout(means),
            "norms": queries @ norm_attention(weights[inner[-1].path][None], values)[1][0],
            "chefer": _chefer(seen, maps, queries),
            "gradient": (states[0][0].double() * gradients[0]).sum(-1).abs(),
            **flows,
        },
        float(number.detach()),
    )


def _of_input(layers: list[AttentionLayer], weights: dict[str, torch.Tensor]) -> list[AttentionLayer]:
    """Return the self-attention over the input: of an encoder where there is one, else of a decoder."""
    inner = [layer for layer in layers if layer.kind == "self"]
    inner = [layer for layer in inner if layer.side != "decoder"] or inner
    shapes = {layer.path: tuple(weights[layer.path].shape[-2:]) for layer in inner}
    merged = [path for path, (queries, keys) in shapes.items() if queries != keys]
    if not merged and len(set(shapes.values())) == 1:
        return inner
    if merged:
        queries, keys = shapes[merged[0]]
        raise _no_stack(f"in {merged[0]} {queries} positions attend to {keys}, and no attention says what these are")
    sizes = ", ".join(str(size) for size in sorted({queries for queries, _ in shapes.values()}, reverse=True))
    raise _no_stack(f"layers have {sizes or 'no'} positions, and no attention says how these become each other")


def _no_stack(cause: str) -> Refused:
    whole = f"no stack in which each position attends to each other in every layer: {cause}"
    return Refused(whole, reason="no_weights", hint="attribution_patching and head_effects read such networks")


@torch.no_grad()
def mixes_elsewhere(look: Look, explained: Callable[[], torch.Tensor], stack: str, position: int) -> bool:
    """Return whether positions reach each other outside of attention too: by convolutions, recurrences, state spaces.

    What all attention heads write is held as it was while one position of the first state is changed; without another
    path no other position of the last state changes.

    Args:
        look: at the model, in evaluation mode.
        explained: runs the model on one row.
        stack: path of the stack of layers that reads the positions.
        position: that is changed.
    """
    heads = {layer.path: list(layer.kept) for layer in look.layers if layer.kept and is_gateable(layer)}
    with look.capture("context", layers=list(heads)) as contexts:
        explained()
    heads = {path: kept for path, kept in heads.items() if path in contexts.ran}

    def changed(state: torch.Tensor) -> torch.Tensor:
        result = state.clone()
        result[:, position] = -result[:, position]
        return result

    lasts = []
    for edit in (torch.clone, changed):
        with (
            look.patch("context", contexts, heads=heads),
            look.patch("hidden_states", {(stack, 0): edit}),
            look.capture("hidden_states") as seen,
        ):
            explained()
        lasts.append(seen.hidden_states(run=0)[stack][-1][0].double())
    difference = (lasts[1] - lasts[0]).abs().amax(-1)
    others = torch.arange(len(difference)) != position
    return bool(difference[others].max() > 1e-5 * difference[position])


def _stack(stacks: dict[str, list[torch.Tensor]], size: int) -> tuple[str, list[torch.Tensor]]:
    """Return the stack that reads the input positions, with its states."""
    for path, states in stacks.items():
        if all(state.dim() == 3 and state.shape[:2] == (1, size) for state in states):
            return path, states
    raise Refused(f"no stack of layers has states of the {size} positions", reason="unknown_layout")


def _shares(gradient: torch.Tensor) -> torch.Tensor:
    """Return norms [positions], divided by their sum; all equal where all are 0."""
    norms = gradient.norm(dim=-1)
    total = norms.sum()
    return norms / total if total > 0 else torch.full_like(norms, 1 / len(norms))


def _averaged(seen: Captured, layer: AttentionLayer, weights: torch.Tensor) -> tuple[Attention, torch.Tensor]:
    kind: Attention = "cross" if layer.kind == "cross" else "decoder" if layer.side == "decoder" else "encoder"
    return kind, averaged(weights, seen["weights_gradient", layer.path][0].double())


def _chefer(seen: Captured, maps: list[tuple[Attention, torch.Tensor]], queries: torch.Tensor) -> torch.Tensor:
    """Return the relevance of the input positions; of an encoder-decoder by its decoder's queries."""
    result = relevance_maps(maps)
    if result.cross is None:
        return queries @ result.to_input
    stack, states = next(
        (path, states)
        for path, states in reversed(list(seen.hidden_states(run=0).items()))
        if states[-1].dim() == 3 and states[-1].shape[1] == result.cross.shape[0]
    )
    return _shares(seen["hidden_states_gradient", (stack, len(states) - 1)][0].double()) @ result.cross
