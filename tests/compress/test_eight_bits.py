"""Weights of 8 bits after a cut: the products, saving and loading, and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lens_recipes import TEXTS, recipe
from torch import nn

import topwork
from topwork import UsageError, alterations
from topwork.cli import main
from topwork.testing import check_stage_result
from topwork_compress import measure
from topwork_compress.eight_bits import Int8Linear, quantise

ENGINE = pytest.mark.skipif(
    torch.backends.quantized.engine == "none", reason="this build of torch has no products of 8 bits"
)
pytestmark = ENGINE


def test_a_layer_of_8_bits_is_near_to_the_layer_that_it_stands_for() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 32)
    layer = Int8Linear.of(linear)
    rows = torch.randn(5, 7, 64)
    with torch.no_grad():
        exact, given = linear(rows), layer(rows)
    assert given.shape == exact.shape and given.dtype == torch.float32
    assert 0 < float((given - exact).norm() / exact.norm()) < 0.03
    rounded = (layer.weight * layer.scale[:, None] - linear.weight.detach()).abs().amax(1)
    assert bool((rounded <= layer.scale * 0.501).all())
    with torch.no_grad():
        layer.load_state_dict({**layer.state_dict(), "weight": torch.zeros_like(layer.weight)})
        assert torch.allclose(layer(rows), linear.bias.expand(5, 7, 32), atol=1e-5)  # packed again
        assert torch.equal(copy.deepcopy(layer)(rows), layer(rows))
    with pytest.raises(UsageError, match="no gradients"):
        layer(rows.requires_grad_())


def test_shared_hooked_and_unused_layers_stay() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.tied, self.hooked, self.unused = (nn.Linear(32, 32) for _ in range(4))
            self.small = nn.Linear(32, 2)
            self.again = nn.Linear(32, 32)
            self.again.weight = self.tied.weight
            self.hooked.register_forward_hook(lambda *_: None)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return self.small(self.again(self.tied(self.hooked(self.first(rows)))))

    net = Net()
    assert quantise(net, lambda: net(torch.randn(3, 32))) == ["first"]
    assert isinstance(net.first, Int8Linear) and alterations(net)["int8"] == ["first"]


def slower(before: float, after: float) -> Any:
    """Wall times that say that the second model takes so many times as long."""
    return lambda runs, repeats=9: [before, after]


@pytest.mark.parametrize("faster", [True, False])
def test_the_stage_takes_it_where_it_is_faster_and_saves_it(faster: bool, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(measure, "wall_times", slower(1.0, 0.5 if faster else 2.0))
    options = {"macs": 0.8, "compare_random": 0, "quantize": "int8"}
    run = topwork.run(
        recipe(tmp_path, [{"compress": options}, "evaluate", "save"]), folder=tmp_path / "run", quiet=True
    )
    result = run.results[0]["result"]
    check_stage_result(result)
    assert result["int8"]["taken"] == faster and result["int8"]["layers"] > 4
    assert bool(result["int8"]["why"]) == (not faster)
    assert run.model_folder is not None
    loaded = topwork.load(run.model_folder)
    layers = [module for module in loaded.model.modules() if isinstance(module, Int8Linear)]
    assert len(layers) == (result["int8"]["layers"] if faster else 0)
    assert loaded.evaluate(TEXTS)["accuracy"] == run.results[1]["result"]["metrics"]["accuracy"]
    assert result["after_accuracy"] == run.results[1]["result"]["metrics"]["accuracy"]
    again = topwork.load(loaded.save(tmp_path / "again"))
    assert again.predict(TEXTS) == loaded.predict(TEXTS)
    if faster:
        with pytest.raises(UsageError):
            loaded.apply("compress", {"calibrate": TEXTS, "evaluate": TEXTS}, macs=0.7)
        with pytest.raises(UsageError, match="no gradients"):
            loaded.apply("head_importance", {"calibrate": TEXTS})
        with pytest.raises(UsageError, match="no gradients"):
            loaded.apply("train", {"train": TEXTS}, epochs=1)


def test_a_command_quantises(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(measure, "wall_times", slower(1.0, 0.5))
    run = topwork.run(recipe(tmp_path, ["save"]), folder=tmp_path / "run", quiet=True)
    arguments = ["compress", str(run.model_folder), "--data", str(tmp_path / "rows.jsonl"), "--macs", "0.8"]
    assert main([*arguments, "--quantize", "int8", "--output", str(tmp_path / "small"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["int8"]["taken"]
    assert main([*arguments, "--quantize", "int4", "--output", str(tmp_path / "other")]) != 0
    assert "int8" in capsys.readouterr().err


def test_weights_of_other_dtypes_are_refused(tmp_path: Path) -> None:
    work = topwork.load(str(topwork.run(recipe(tmp_path, ["save"]), folder=tmp_path / "run", quiet=True).model_folder))
    work.model.bfloat16()
    with pytest.raises(UsageError, match="no float32"):
        work.apply("compress", {"calibrate": TEXTS, "evaluate": TEXTS}, macs=0.8, quantize="int8")
