"""The full matrix as tests, one a model type: `pytest -m architectures tests/architectures`, in shards by SHARD=i/n.

The sixty of the default run stand in `tests/test_architectures.py`.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from architectures import run, table

TABLE: dict[str, Any] = json.loads(run.TABLE.read_text())["types"] if run.TABLE.exists() else {}
NAMES = run.shard(list(TABLE), os.environ.get("SHARD", "1/1"))


@pytest.fixture(scope="module")
def records() -> Any:
    found = run.examine(NAMES)
    return {record["type"]: record for record in found}


@pytest.mark.architectures
@pytest.mark.parametrize("name", NAMES)
def test_it_is_as_the_table_says(name: str, records: dict[str, Any]) -> None:
    record = records[name]
    assert not [key for key in table.CHECKS if "WRONG" in str(record.get(key))], record
    assert table.entry(record)["outcome"] == TABLE[name]["outcome"], record
