"""Feed-forward neurons and whole layers of a sample of architectures: `pytest -m architectures tests/architectures`.

The sample are the sixty, and those that `KINDS` adds so that every kind of block is in it.

What `smaller` finds of each of them is what the coverage table says; the table itself is of all types that are built.
"""

from __future__ import annotations

import copy
import os
from typing import Any

import pytest
from torch import nn

from architectures import build, run, smaller, table
from topwork import Block
from topwork_lens.look import Look

TABLE: dict[str, Any] = run.table_now()
#: kind of block -> a model type of the sample that has it
KINDS = {
    "plain": "bert",
    "gated": "llama",
    "fused": "phi3",
    "depthwise": "segformer",
    "Conv1D": "gpt2",
    "experts": "mixtral",
    "channels": "convnext",
    "convolutions": "wav2vec2",
    "shared": "albert",
}
NAMES = run.shard(list(dict.fromkeys([*build.sixty(), *KINDS.values()])), os.environ.get("SHARD", "1/1"))


@pytest.mark.architectures
@pytest.mark.parametrize("name", NAMES)
def test_neurons_and_layers_are_as_the_table_says(name: str) -> None:
    model, inputs = build.tiny(name)
    record = smaller.examine(lambda: (copy.deepcopy(model), copy.deepcopy(inputs)))
    assert not [key for key in table.EQUAL if "WRONG" in str(record.get(key))], record
    wanted = (*table.OUTCOMES, *table.SIZES, *table.EQUAL)
    assert {key: record.get(key) for key in wanted} == {key: TABLE[name].get(key) for key in wanted}, record


def kinds_of(model: Any, block: Block) -> set[str]:
    """The kinds of block that one is of."""
    if block.gate == "weight":
        return {"experts"}
    consumer, between = model.get_submodule(block.path), [f"{block.inside}.{path}" for path in block.between]
    kinds = {"gated" if len(block.producers) > 1 else "plain"}
    kinds |= {"fused"} if block.producers[0].form != "rows" else set()
    kinds |= {"depthwise"} if any(isinstance(model.get_submodule(path), nn.Conv2d) for path in between) else set()
    kinds |= {"Conv1D"} if hasattr(consumer, "nf") else set()
    kinds |= {"convolutions"} if isinstance(consumer, nn.Conv1d | nn.Conv2d) else set()
    kinds |= {"channels"} if type(model.get_submodule(block.inside)).__name__ == "ConvNextLayer" else set()
    return kinds | ({"shared"} if len(block.callers) > 1 or "albert" in block.inside else set())


@pytest.mark.architectures
@pytest.mark.parametrize("kind", list(KINDS))
def test_the_sample_has_every_kind_of_block(kind: str) -> None:
    model, inputs = build.tiny(KINDS[kind])
    blocks = Look(model).find_blocks(smaller.runner(model, inputs))
    assert kind in set().union(*(kinds_of(model, block) for block in blocks if block.prunable))
