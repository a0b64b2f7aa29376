"""The stage `compress` in a recipe, and the command on a saved model."""

from __future__ import annotations

import json
from typing import Any

import pytest
from lens_recipes import TEXTS, recipe

import topwork
from topwork.cli import main
from topwork.testing import check_stage_result
from topwork_compress.measure import RowMetrics, paired_interval, reason_of_gap


def test_a_recipe_compresses_measures_saves_and_loads(tmp_path: Any) -> None:
    stages = [{"compress": {"macs": 0.7, "compare_random": 2}}, "evaluate", "save"]
    run = topwork.run(recipe(tmp_path, stages), folder=tmp_path / "run", quiet=True)
    result = run.results[0]["result"]
    assert result["macs_after"] == result["macs_predicted"] <= 0.7 * result["macs_before"]
    assert set(result["roles"]) == {"calibrate", "evaluate"}
    paired = result["roles"]["evaluate"]["paired"]
    assert paired["low"] <= paired["difference"] <= paired["high"] and paired["rows"] == len(TEXTS)
    check_stage_result(result)
    assert (result["change"], result["random_baseline"]["role"]) == ("compression", "evaluate")
    assert result["random_baseline"]["draws"] == 2 and 0 <= result["better_than_random"] <= 2
    assert result["speedup"] > 0 and result["limit"] == pytest.approx(result["macs_before"] / result["macs_after"])
    assert result["check"]["difference"] <= result["check"]["tolerance"]
    assert run.model_folder is not None
    loaded = topwork.load(run.model_folder)
    assert sum(parameter.numel() for parameter in loaded.model.parameters()) == result["parameters_after"]
    assert loaded.evaluate(TEXTS)["accuracy"] == run.results[1]["result"]["metrics"]["accuracy"]


@pytest.mark.parametrize("layers", [0, 1])
def test_keep_metric_searches_for_the_budget(layers: int, tmp_path: Any, capsys: Any) -> None:
    options = {"keep_metric": 0.5, "compare_random": 0, "time": False, "evaluate": False, "layers": layers}
    result = topwork.run(recipe(tmp_path, [{"compress": options}]), folder=tmp_path / "run").results[0]["result"]
    assert result["macs_left"] < 0.9
    assert "speedup" not in result and "random_baseline" not in result
    lines = [line.split() for line in capsys.readouterr().err.splitlines() if "of the operations: accuracy" in line]
    tried = {float(line[0]): float(line[5]) for line in lines}
    values = result["roles"]["calibrate"]
    kept = [left for left, value in tried.items() if value >= 0.5 * values["before"]]
    assert result["macs_left"] <= min(kept) + 1e-3
    # what was measured, fitted and masked, is what the cut model gives
    assert values["after"] == pytest.approx(tried[min(kept)], abs=1e-3)


def test_a_curve_is_measured_on_copies(tmp_path: Any) -> None:
    options = {"macs": 0.8, "compare_random": 0, "time": False, "curve": [0.6, 0.8, 0.05]}
    result = topwork.run(recipe(tmp_path, [{"compress": options}, "evaluate"]), folder=tmp_path / "run", quiet=True)
    result = result.results[0]["result"]
    check_stage_result(result)
    whole, *points = result["curve"]
    assert (whole["choice"], whole["left"], whole["value"]) == ("whole", 1.0, result["before_accuracy"])
    assert {point["choice"] for point in points} >= {"heads and neurons", "at random", "after a whole layer"}
    same = next(point for point in points if point["choice"] == "heads and neurons" and point["left"] > 0.7)
    assert same["left"] == result["macs_left"] and same["value"] == result["after_accuracy"]
    assert (same["heads"], same["neurons"]) == (result["heads_after"], result["neurons_after"])
    assert all(point["milliseconds"] > 0 and 0.05 < point["left"] <= 0.8 for point in points)
    series = result["curves"][0]["series"]
    assert series["at random"][0] == [whole["milliseconds"], whole["value"]]


@pytest.mark.parametrize("options", [{}, {"macs": 0.5, "parameters": 0.5}, {"macs": 0.5, "multiple": 0}, {"macs": 2}])
def test_wrong_options_are_errors_in_the_recipe(options: Any, tmp_path: Any) -> None:
    with pytest.raises(topwork.RecipeError):
        topwork.run(recipe(tmp_path, [{"compress": options}]), folder=tmp_path / "run", quiet=True)


def test_the_command_compresses_a_saved_model(tmp_path: Any, capsys: Any) -> None:
    run = topwork.run(recipe(tmp_path, ["save"]), folder=tmp_path / "run", quiet=True)
    arguments = ["compress", str(run.model_folder), "--data", str(tmp_path / "rows.jsonl"), "--macs", "0.7"]
    arguments += ["--output", str(tmp_path / "small")]
    assert main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    small = topwork.load(tmp_path / "small")
    assert sum(parameter.numel() for parameter in small.model.parameters()) == result["parameters_after"]
    assert main(arguments) != 0
    assert "something already" in capsys.readouterr().err


def test_intervals_are_of_paired_rows() -> None:
    before = RowMetrics(0.5, {row: float(row % 2) for row in range(100)})
    better = RowMetrics(0.6, {row: float(row % 2 or row % 20 == 0) for row in range(100)})
    interval = paired_interval(before, better)
    assert interval["difference"] == pytest.approx(0.05)
    assert 0 < interval["low"] < 0.05 < interval["high"] < 0.12
    same = paired_interval(before, before)
    assert (same["low"], same["high"]) == (0.0, 0.0)


def test_p9_a_gap_has_a_reason() -> None:
    assert reason_of_gap(1.9, 2.0, 1000, "macs") == ""
    assert "100 positions" in reason_of_gap(1.2, 2.0, 100, "macs")
    assert "embeddings" in reason_of_gap(1.2, 2.0, 1000, "macs")
