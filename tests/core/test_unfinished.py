"""What a base leaves unfinished while a task builds: a plugin puts its shape back at once, then its weights come."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from topwork import CheckpointError, DeferredModule, PluginError, alterations, hookimpl, load_plugins
from topwork.saving.parts import graft


class Base:
    """Its checkpoint has fewer rows than its config says."""

    unfinished: list[DeferredModule] | None = None

    def __init__(self, loads: bool = True) -> None:
        self.loads = loads

    def backbone(self) -> nn.Module:
        if self.unfinished is None:
            raise CheckpointError("nobody would finish it")
        module = nn.Linear(3, 4)

        def load() -> None:
            module.load_state_dict({"weight": torch.ones(2, 3), "bias": torch.zeros(2)})

        self.unfinished.append(DeferredModule(module, "rows", 2, load if self.loads else None, "base x", "load `rows`"))
        return module


class Rows:
    """Knows the section."""

    @hookimpl
    def model_rebuilt(self, model: nn.Module, alterations: Any) -> None:
        for path, rows in alterations.get("rows", {}).items():
            module: Any = model.get_submodule(path)
            module.weight, module.bias = (nn.Parameter(torch.zeros(rows, *size)) for size in ((3,), ()))
            module.rows = rows
            self.model_saving(model)

    @hookimpl
    def model_saving(self, model: nn.Module) -> None:
        found = {path: module.rows for path, module in model.named_modules() if hasattr(module, "rows")}
        alterations(model)["rows"] = found


def noted(model: nn.Module) -> dict[str, Any]:
    return alterations(model)["rows"]


def task(base: Base, build: Any = lambda base: nn.Sequential(nn.ReLU(), base.backbone())) -> Any:
    return SimpleNamespace(name="t", bases={"one": base, "two": base}, build=lambda weights: build(base))


def test_it_is_put_back_and_loaded() -> None:
    base = Base()
    model, form = graft(task(base), load_plugins(extra=[Rows()]), weights=True)
    assert (form, noted(model)) == ("generic", {"1": 2})
    assert torch.equal(model(torch.ones(1, 3)), torch.full((1, 2), 3.0))
    assert base.unfinished is None
    with pytest.raises(CheckpointError, match="nobody"):
        base.backbone()


def test_without_weights_it_keeps_its_own() -> None:
    model, _ = graft(task(Base(loads=False)), load_plugins(extra=[Rows()]), weights=False)
    assert torch.equal(model(torch.ones(1, 3)), torch.zeros(1, 2))


def test_nobody_knows_it() -> None:
    base = Base()
    with pytest.raises(PluginError, match="base x.*`rows`.*load `rows`"):  # noqa: RUF043
        graft(task(base), load_plugins(), weights=True)
    assert base.unfinished is None


def copied(rows: int) -> Any:
    def build(base: Base) -> nn.Module:
        fresh = nn.Linear(3, rows)
        fresh.load_state_dict(base.backbone().state_dict())
        return fresh

    return build


def test_a_task_may_take_it_apart() -> None:
    model, _ = graft(task(Base(), copied(2)), load_plugins(extra=[Rows()]), weights=True)
    assert torch.equal(model(torch.ones(1, 3)), torch.full((1, 2), 3.0))


def test_a_task_that_makes_something_else_of_it_is_stopped() -> None:
    base = Base()
    with pytest.raises(CheckpointError, match=r"takes the model apart.*size mismatch"):
        graft(task(base, copied(4)), load_plugins(extra=[Rows()]), weights=True)
    assert base.unfinished is None


def test_another_mistake_of_a_task_stays_what_it_is() -> None:
    def build(base: Base) -> nn.Module:
        base.backbone()
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        graft(task(Base(), build), load_plugins(extra=[Rows()]), weights=True)
