"""Names, shapes and dtypes of the tensors of every task head: what saved weights depend on.

The names inside a backbone are those of transformers and timm: a new version of these may change them.
"""

from __future__ import annotations

import pytest

from fences import golden, snapshots
from fences.models import CASES
from fences.state_dicts import described, folded, unfolded

KNOWN = snapshots.load("state_dicts")


@pytest.mark.parametrize("name", CASES)
def test_a_state_dict_keeps_its_names_shapes_and_dtypes(name) -> None:
    work = CASES[name].build()
    known = KNOWN[name]
    assert (type(work.model).__name__, work.form) == (known["class"], known["form"])
    differences = list(golden.differences(unfolded(known["tensors"]), described(work.model)))
    assert not differences, snapshots.report(differences, "state_dicts")


def test_the_snapshot_has_every_case_and_no_other() -> None:
    assert sorted(KNOWN) == sorted(CASES)


def test_every_task_of_topwork_has_a_case(plugins) -> None:
    owned = {name for name in plugins.tasks if plugins.owner("task", name).package == "topwork"}
    assert {case.task for case in CASES.values()} == owned


def test_a_folded_tree_gives_the_names_back() -> None:
    flat = {"a.0.w": "x [1]", "a.1.w": "x [1]", "a.2.w": "y [2]", "b": "x [1]", "c.w": "x [1]"}
    assert folded(flat) == {"a": {"0|1": {"w": "x [1]"}, "2": {"w": "y [2]"}}, "b": "x [1]", "c": {"w": "x [1]"}}
    assert unfolded(folded(flat)) == flat
