"""Feed-forward neurons and whole layers of the sixty architectures: `pytest -m architectures tests/architectures`.

What `smaller` finds of each of them is what the coverage table says; the table itself is of all types that are built.
"""

from __future__ import annotations

import copy
import os
from typing import Any

import pytest

from architectures import build, run, smaller, table

TABLE: dict[str, Any] = run.table_now()
NAMES = run.shard(list(build.sixty()), os.environ.get("SHARD", "1/1"))


@pytest.mark.architectures
@pytest.mark.parametrize("name", NAMES)
def test_neurons_and_layers_are_as_the_table_says(name: str) -> None:
    model, inputs = build.tiny(name)
    record = smaller.examine(lambda: (copy.deepcopy(model), copy.deepcopy(inputs)))
    assert not [key for key in table.EQUAL if "WRONG" in str(record.get(key))], record
    wanted = (*table.OUTCOMES, *table.SIZES, *table.EQUAL)
    assert {key: record.get(key) for key in wanted} == {key: TABLE[name].get(key) for key in wanted}, record
