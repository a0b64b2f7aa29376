"""What is checked for neurons and whole layers of one model, against weights that are made 0 or lists cut by hand.

Entry point: `examine`. Half of the neurons of every block go together, and every whole layer that may go goes alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch

from architectures.checks import TOLERANCE, apart, gap, outputs
from topwork import Block, Refused, UsageError
from topwork_lens.blocks.whole.bypass import bypassed
from topwork_lens.blocks.whole.whole_layer import WholeLayer
from topwork_lens.layers.context import first_input
from topwork_lens.layers.feed_forward import FeedForward, find_feed_forwards
from topwork_lens.look import Look
from topwork_lens.model_state import quiet
from topwork_lens.pruning.prune import prune

#: a smaller change of the outputs proves nothing about neurons that are gone
EFFECT = 100 * TOLERANCE
#: blocks that are refused by name before the others are cut one by one
MOST_REPETITIONS = 3


def examine(make: Callable[[], tuple[Any, dict[str, Any]]]) -> dict[str, Any]:
    """Return the columns of one model.

    Args:
        make: () -> (model, inputs), the same ones every time.

    Returns:
        "neurons" (hard, soft, refused, missed, none), "blocks" (found), "layers_whole" (all, some, refused, none),
        "stacked" (whole layers found), "left_out" (those that went), with reasons; "neurons_equal" and "layers_equal"
        are True, or say by how much a result was wrong.
    """
    return {**neurons(make), **whole_layers(make)}


def runner(model: Any, inputs: Mapping[str, Any]) -> Callable[[], Any]:
    """Return what runs a model on its inputs."""
    return lambda: model(**copy.deepcopy(dict(inputs)))


# ---------------------------------------------------------------- neurons


def neurons(make: Callable[[], tuple[Any, dict[str, Any]]]) -> dict[str, Any]:
    """Return the columns of feed-forward neurons."""
    model, inputs = make()
    look = Look(model)
    blocks = look.find_blocks(runner(model, inputs))
    missed = unseen(model, look, blocks, runner(model, inputs))
    result: dict[str, Any] = {"blocks": len(blocks)}
    if not blocks and not missed:
        return result | {"neurons": "none"}
    masked, plain = copy.deepcopy(model), outputs(model, inputs)
    chosen = {block.path: list(block.kept[::2]) for block in blocks if block.prunable}
    reasons = {block.path: block.why for block in blocks if not block.prunable}
    cut, failed = prune_those_that_go(look, blocks, chosen, runner(model, inputs))
    reasons |= failed
    soft = keep_gates(look, [block for block in blocks if block.path in reasons], runner(model, inputs))
    for block in blocks:
        if block.path in (*cut, *soft):
            without(masked, block, list(block.kept[::2]))
    if cut or soft:
        difference = apart(masked, model, inputs, TOLERANCE)
        result["neurons_equal"] = True if difference <= TOLERANCE else f"WRONG by {difference:.2g}"
        if effect(outputs(masked, inputs), plain) <= EFFECT:
            result["neurons_unproved"] = True
    refused = [path for path in reasons if path not in soft]
    outcome = "missed" if missed else "refused" if refused else "soft" if soft else "hard"
    result |= {"neurons": outcome, "cut": len(cut)}
    if missed:
        return result | {"neurons_reason": f"{len(missed)} not found: {missed[0]}"}
    if reasons:
        path = next(iter(refused or soft))
        result["neurons_reason"] = f"{len(reasons)} of {len(blocks)}: {path}: {reasons[path]}"
    return result


def effect(masked: list[torch.Tensor], plain: list[torch.Tensor]) -> float:
    """Return how much masking changes; lengths that follow from it, such as those of speech, are the largest change."""
    try:
        return gap(masked, plain)
    except Refused:
        return float("inf")


def unseen(model: Any, look: Look, blocks: Sequence[Block], call: Callable[[], Any]) -> list[str]:
    """Return feed-forward networks that shapes suggest, that ran, and that no block is part of: path and class."""
    called = set(inputs_of(model, list(model.modules()), call))
    seen = {id(model.get_submodule(caller)) for block in blocks for caller in block.callers}
    suggested = [
        network
        for network in find_feed_forwards(model, look.layers)
        if id(model.get_submodule(network.output)) in called - seen and id(model.get_submodule(network.path)) in called
    ]
    return [
        f"{network.output} {type(model.get_submodule(network.path)).__name__}"
        for network in suggested
        if is_one_after_another(model, network, call)
    ]


def inputs_of(model: Any, modules: Sequence[Any], call: Callable[[], Any]) -> dict[int, Any]:
    """Return the last first input of modules in a run, by the id of the module; of those that ran."""
    inputs: dict[int, Any] = {}

    def remember(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        inputs[id(module)] = first_input(args, kwargs) if args or kwargs else None

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_pre_hook(remember, with_kwargs=True).remove)
        with quiet(model):
            call()
    return inputs


def is_one_after_another(model: Any, network: FeedForward, call: Callable[[], Any]) -> bool:
    """Return whether the last projection of a network reads what the first one makes; two may stand side by side."""
    reader, weight = model.get_submodule(network.output), model.get_submodule(network.inputs[-1]).weight
    before, kept = inputs_of(model, [reader], call)[id(reader)], weight.data
    weight.data = kept + kept.abs().max() * torch.randn(kept.shape, generator=torch.Generator().manual_seed(0))
    try:
        after = inputs_of(model, [reader], call)[id(reader)]
    finally:
        weight.data = kept
    return not torch.equal(before, after)


def prune_those_that_go(
    look: Look, blocks: Sequence[Block], chosen: dict[str, list[int]], call: Callable[[], Any]
) -> tuple[list[str], dict[str, str]]:
    """Prune neurons of all blocks together, without those that are refused; each alone where none is named."""
    waiting, failed = dict(chosen), dict[str, str]()
    while waiting:
        try:
            look.prune(neurons=waiting, check=call)
            return list(waiting), failed
        except Refused as error:
            if error.place not in waiting or len(failed) == MOST_REPETITIONS:
                break
            failed[error.place] = str(error.cause)
            del waiting[error.place]
    cut = []
    for path, indices in waiting.items():
        try:
            prune(look.model, {}, call, look.plugins, blocks, {path: indices})
            cut.append(path)
        except Refused as error:
            failed[path] = str(error.cause)
    return cut, failed


def keep_gates(look: Look, blocks: Sequence[Block], call: Callable[[], Any]) -> list[str]:
    """Switch neurons off for good where they cannot be cut, and return the blocks where that is possible."""
    soft = []
    for block in blocks:
        try:
            look.keep_masked_neurons({block.path: list(block.kept[::2])}, check=call)
            soft.append(block.path)
        except (Refused, UsageError):  # it cannot; or what is no block of neurons looks like one no more
            continue
    return soft


def without(model: Any, block: Block, indices: list[int]) -> None:
    """Make weights that read neurons 0, by hand; the neurons themselves where weights are standardised before use."""
    index = torch.tensor(indices)
    if block.slices:
        piece = block.slices[0]
        owner, _, name = piece.parameter.rpartition(".")
        weight = getattr(model.get_submodule(".".join(part for part in (block.inside, owner) if part)), name)
        with torch.no_grad():
            weight.index_fill_(piece.dim, index, 0)
        return

    def silence(_: Any, args: tuple) -> tuple:
        return (args[0].index_fill(block.channels, index, 0), *args[1:])

    model.get_submodule(block.path).register_forward_pre_hook(silence)


# ---------------------------------------------------------------- whole layers


def whole_layers(make: Callable[[], tuple[Any, dict[str, Any]]]) -> dict[str, Any]:
    """Return the columns of whole layers."""
    model, inputs = make()
    layers = Look(model).find_layers_whole(runner(model, inputs))
    result: dict[str, Any] = {"stacked": len(layers), "left_out": 0}
    if not layers:
        return result | {"layers_whole": "none"}
    reasons, wrong = [f"{layer.path}: {layer.why}" for layer in layers if layer.why], []
    for layer in layers:
        if layer.why:
            continue
        small = copy.deepcopy(model)
        try:
            Look(small).prune(layers=[layer.path], check=runner(small, inputs))
        except Refused as error:
            reasons.append(f"{layer.path}: {error.cause}")
            continue
        result["left_out"] += 1
        difference = against_by_hand(model, small, layer, inputs)
        if difference > TOLERANCE:
            wrong.append(f"WRONG by {difference:.2g} without {layer.path}")
    if result["left_out"]:
        result["layers_equal"] = wrong[0] if wrong else True
    gone = result["left_out"]
    result["layers_whole"] = "refused" if not gone else "all" if gone == len(layers) else "some"
    if reasons:
        result["layers_reason"] = f"{len(reasons)} of {len(layers)}: {reasons[0]}"
    return result


def against_by_hand(model: Any, small: Any, layer: WholeLayer, inputs: Mapping[str, Any]) -> float:
    """Return how far a model without a layer is from one whose list was cut by hand, or whose layer is bypassed."""
    by_hand = copy.deepcopy(model)
    del by_hand.get_submodule(layer.list_path)[layer.position]
    try:
        return apart(by_hand, small, inputs, TOLERANCE)
    except Exception:  # the length of the list stands elsewhere too, where the lens does not change it
        by_hand = copy.deepcopy(model)
        with bypassed(by_hand, [layer]):
            return apart(by_hand, small, inputs, TOLERANCE)
