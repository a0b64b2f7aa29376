"""Feed-forward neurons and whole layers of the sixty architectures: `pytest -m architectures tests/architectures`.

Half of the neurons of every block go, and every layer that may go goes alone; the reference is a model whose readers
have weights of 0, or whose list lacks the entry. A block that is found and does not pass is a failure here.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from architectures import build, run
from architectures.checks import apart, gap, outputs
from topwork import Block, Refused
from topwork_lens.look import Look

SIXTY = [
    line.split()[0]
    for line in (Path(__file__).parent / "sixty.txt").read_text().splitlines()
    if line.strip() and not line.startswith("#")
]
NAMES = run.shard(SIXTY, os.environ.get("SHARD", "1/1"))
#: types whose feed-forward neurons are rightly refused: weights that several modules share, a norm between
NO_NEURONS = {"zamba", "zamba2"}


def without(model: Any, block: Block, neurons: list[int]) -> None:
    """Make weights that read neurons 0, by hand."""
    piece = block.slices[0]
    owner, _, name = piece.parameter.rpartition(".")
    weight = getattr(model.get_submodule(block.inside).get_submodule(owner), name)
    with torch.no_grad():
        weight.index_fill_(piece.dim, torch.tensor(neurons), 0)


@pytest.mark.architectures
@pytest.mark.parametrize("name", NAMES)
def test_half_of_all_neurons_go_and_nothing_is_wrong(name: str) -> None:
    model, inputs = build.tiny(name)
    look = Look(model)

    def call() -> Any:
        return model(**copy.deepcopy(inputs))

    blocks = look.find_blocks(call)
    neurons = {block.path: list(block.kept[::2]) for block in blocks if block.prunable}
    assert bool(neurons) != (name in NO_NEURONS), [(block.path, block.why) for block in blocks]
    if not neurons:
        return
    masked, plain = copy.deepcopy(model), outputs(model, inputs)
    for block in blocks:
        if block.prunable:
            without(masked, block, neurons[block.path])
    result = look.prune(neurons=neurons, check=call)
    assert result.neurons_after < result.neurons_before
    assert apart(masked, model, inputs, 1e-4) <= 1e-4
    assert gap(outputs(masked, inputs), plain) > 1e-3


@pytest.mark.architectures
@pytest.mark.parametrize("name", NAMES)
def test_whole_layers_go_or_say_why(name: str) -> None:
    model, inputs = build.tiny(name)
    layers = Look(model).find_layers_whole(lambda: model(**copy.deepcopy(inputs)))
    refused: list[tuple[str, str]] = []
    for layer in layers:
        if layer.why:
            continue
        small, by_hand = copy.deepcopy(model), copy.deepcopy(model)
        try:
            Look(small).prune(layers=[layer.path], check=lambda small=small: small(**copy.deepcopy(inputs)))
        except Refused as error:
            refused.append((layer.path, error.cause))
            assert gap(outputs(small, inputs), outputs(model, inputs)) == 0
            continue
        entries = by_hand.get_submodule(layer.list_path)
        del entries[layer.position]
        assert apart(by_hand, small, inputs, 1e-4) <= 1e-4
    print(name, len(layers), refused)
