"""The strip of cards: only stages that say that they measure the model are part of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from topwork_report.run_files import RunFiles, StageFiles
from topwork_report.summary import story


def run_of(*results: tuple[str, dict]) -> RunFiles:
    run = RunFiles(Path())
    run.stages = [
        StageFiles(number, name, Path(f"stages/{number:02d}-{name}"), 1.0, {}, result, {})
        for number, (name, result) in enumerate(results, 1)
    ]
    return run


EVALUATED = ("evaluate", {"metrics": {"accuracy": 0.93}, "primary": "accuracy", "measures": "model"})


@pytest.mark.parametrize("probe", [{}, {"measures": "part"}, {"primary": "accuracy"}])
@pytest.mark.parametrize("first", [True, False])
def test_a_probe_with_a_metric_of_the_same_name_is_no_part_of_the_story(probe, first):
    other = ("probe", {"metrics": {"accuracy": 0.58}, **probe})
    told = story(run_of(*((other, EVALUATED) if first else (EVALUATED, other))))
    assert [(card["label"], card["value"]) for card in told["cards"]] == [("Evaluation", 0.93)]


def test_a_stage_that_says_that_it_measures_the_model_is_part_of_it():
    other = ("my_evaluation", {"metrics": {"accuracy": 0.58}, "primary": "accuracy", "measures": "model"})
    assert [card["value"] for card in story(run_of(EVALUATED, other))["cards"]] == [0.93, 0.58]


def test_runs_of_earlier_versions_are_told_by_evaluate_alone():
    old = ("evaluate", {"metrics": {"accuracy": 0.93}, "primary": "accuracy"})
    assert [card["value"] for card in story(run_of(old, ("probe", {"metrics": {"accuracy": 0.5}})))["cards"]] == [0.93]
    assert story(run_of(("probe", {"metrics": {"accuracy": 0.5}}))) is None
