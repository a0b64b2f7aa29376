"""Families that turn a text into a text by name, each taken from build to pruning; see `named/harness.py`."""

from __future__ import annotations

import pytest
from named import sequence
from named.harness import works


@pytest.mark.parametrize("case", sequence.CASES, ids=str)
def test_it_works_from_build_to_pruning(case, plugins, tmp_path) -> None:
    works(case, plugins, tmp_path)
