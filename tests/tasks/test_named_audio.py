"""Audio families by name, each taken from build to pruning on both audio tasks; see `named/harness.py`."""

from __future__ import annotations

import pytest
from named import audio
from named.harness import works


@pytest.mark.parametrize("case", audio.CASES, ids=str)
def test_it_works_from_build_to_pruning(case, plugins, tmp_path) -> None:
    works(case, plugins, tmp_path)
