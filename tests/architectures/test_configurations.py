"""What `table(tried=True)` claims of each layer, against prunings of two random configurations of each type."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from architectures import build, checks, shrink
from topwork_lens.look import Look

#: sizes of the second configuration; entries that single types fix stay
SIZES = {"WIDTH": 48, "HEADS": 6, "HEAD_DIM": 8, "FFN": 80}
SINGLE = {
    "deformable_detr": {"WIDTH": 64, "HEADS": 4, "HEAD_DIM": 16, "FFN": 96},
    "reformer": {"WIDTH": 32, "HEADS": 2, "HEAD_DIM": 16, "FFN": 80},
}
#: types whose parts fit one width alone: the second time they have other weights alone
FIXED = {"zamba", "zamba2", "rt_detr", "rt_detr_v2"}
NAMES = [name for name in build.sixty() if not name.startswith("timm/")]


def configured(name: str, which: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, dict[str, Any]]:
    """A model of a type in its first or its second configuration, with weights of its own, and inputs."""
    for constant, value in SINGLE.get(name, SIZES).items() if which and name not in FIXED else ():
        monkeypatch.setattr(shrink, constant, value)
    model, inputs = build.tiny(name)
    generator = torch.Generator().manual_seed(which + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.dim() > 1:
                parameter.add_((0.05 * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype))
    return model, inputs


@pytest.mark.architectures
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_claimed_and_measured_forms_agree(name: str, which: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = configured(name, which, monkeypatch)
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
