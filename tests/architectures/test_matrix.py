"""The full matrix as tests, one a model type: `pytest -m architectures tests/architectures`, in shards by SHARD=i/n.

The sixty of the default run stand in `tests/test_architectures.py`.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from architectures import checks, run, table

TABLE: dict[str, Any] = {name: table.heads_of(line) for name, line in run.table_now().items()}
NAMES = run.shard(list(TABLE), os.environ.get("SHARD", "1/1"))


@pytest.fixture(scope="module")
def records() -> Any:
    return {record["type"]: record for record in run.examine(NAMES)}


def came_out(entry: dict[str, Any]) -> dict[str, Any]:
    """What may not differ from one machine to another, as the words of an exception may."""
    return {key: value for key, value in entry.items() if value is True or key == "outcome"}


@pytest.mark.architectures
@pytest.mark.parametrize("name", NAMES)
def test_it_is_as_the_table_says(name: str, records: dict[str, Any]) -> None:
    record = records[name]
    if came_out(table.entry(record)) != came_out(TABLE[name]):
        # by itself in a fresh process: time may have run out on a busy machine
        (record,) = run.examine([name])
    assert not [key for key in table.CHECKS if "WRONG" in str(record.get(key))], record
    assert record.get("batches", True) in (True, checks.ONE_SIZE), record
    # every tower is fed
    assert record.get("ran") == record.get("layers"), record
    assert came_out(table.entry(record)) == came_out(TABLE[name]), record
