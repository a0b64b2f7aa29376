"""What `table(tried=True)` claims of each layer, against prunings of two random configurations of each type."""

from __future__ import annotations

import copy

import pytest

from architectures import build, checks, forms
from topwork_lens.look import Look

NAMES = [name for name in build.sixty() if not name.startswith("timm/")]


@pytest.mark.architectures
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_claimed_and_measured_forms_agree(name: str, which: int) -> None:
    model, inputs, _ = forms.configured(name, which)
    look = Look(model)
    claimed = {line["path"]: line["prunable"] for line in look.table(copy.deepcopy(inputs), tried=True)}
    heads = {path: [numbers[0]] for path, numbers in checks.choice(look.layers).items() if claimed[path]}
    if not heads:
        return
    whole = copy.deepcopy(model)
    done = look.prune_heads(heads, check=inputs)
    measured = {line["path"]: line["form"] for line in done.layers if line["form"] != "whole"}
    assert measured == {path: claimed[path] for path in heads}
    assert checks.unlike(whole, heads, model, inputs) <= checks.TOLERANCE
