"""Trial prunings behind the table of a model: what it says of each layer is what pruning does."""

from __future__ import annotations

import copy

import pytest
import torch

import topwork
from architectures import build
from topwork import UsageError


@pytest.mark.parametrize(("name", "form"), [("bert", "hard"), ("convbert", "soft"), ("bitnet", "")])
def test_the_table_says_what_pruning_does(name: str, form: str) -> None:
    model, inputs = build.tiny(name)
    before = copy.deepcopy(model.state_dict())
    table = topwork.look(model).table(inputs, tried=True)
    assert [line["prunable"] for line in table] == [form] * len(table)
    assert all(line["checked_with"].startswith("the batch, ") for line in table)
    assert all(bool(line["why"]) == (form != "hard") for line in table)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    if form:
        pruned = topwork.prune_heads(model, {line["path"]: [0] for line in table}, check=inputs)
        assert {line["form"] for line in pruned.layers} == {form}


def test_a_function_is_no_batch_for_a_copy() -> None:
    model, inputs = build.tiny("bert")
    with pytest.raises(UsageError, match="a trial needs a copy"):
        topwork.look(model).table(lambda: model(**inputs), tried=True)


def test_a_table_that_is_not_tried_has_no_batches() -> None:
    model, _ = build.tiny("bert")
    assert "checked_with" not in topwork.look(model).table()[0]
