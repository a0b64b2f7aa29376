"""Types whose claimed form an independent survey disputed: the claim against parameters as they are after pruning."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from architectures import checks, forms
from topwork import TopworkError
from topwork_lens.look import Look

#: share of the layers by the form that `table(tried=True)` claims; "" is refused
FORMS: dict[str, dict[str, float]] = {
    "conditional_detr": {"hard": 1},
    "table-transformer": {"hard": 1},
    "florence2": {"hard": 1},
    "fsmt": {"hard": 1},
    "evolla": {"hard": 0.75, "soft": 0.25},
    "gemma3n_text": {"soft": 1},
    "reformer": {"hard": 0.5, "soft": 0.5},
    "zamba2": {"": 1},
    "xlnet": {},
}


@pytest.mark.architectures
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("name", FORMS)
def test_disputed_types_have_the_form_that_is_claimed(name: str, which: int) -> None:
    model, inputs, _ = forms.configured(name, which)
    look = Look(model)
    lines = look.table(copy.deepcopy(inputs), tried=True)
    claimed = {line["path"]: line["prunable"] for line in lines}
    assert {form: list(claimed.values()).count(form) / len(claimed) for form in claimed.values()} == FORMS[name]
    assert all(line["why"] for line in lines if line["prunable"] != "hard")
    heads = {path: numbers for path, numbers in checks.choice(look.layers).items() if claimed[path]}
    if not heads:
        chosen: Any = checks.choice(look.layers) or {0: [0]}
        with pytest.raises(TopworkError, match=r"its weights are also those of|no attention layer"):
            look.prune_heads(chosen, check=inputs)
        return
    whole = copy.deepcopy(model)
    done = look.prune_heads(heads, check=inputs)
    reported = {line["path"]: line["form"] for line in done.layers}
    for path in heads:
        form = forms.measured_form(whole.get_submodule(path), model.get_submodule(path))
        assert form == reported[path], path
        # The trial prunes the first attention head. Reformer's second layer hashes by random numbers that are drawn for
        # all attention heads at once: with fewer of them the others mostly get different ones, and so the check fails;
        # head 1 of 2 is the exception.
        assert form == claimed[path] or (name, form) == ("reformer", "hard"), path
    assert checks.unlike(whole, heads, model, inputs) <= checks.TOLERANCE
