"""The headline of the page: each card is claimed by a stage in its result, by the keys of `topwork.StageResult`."""

from __future__ import annotations

from pathlib import Path

import pytest

from topwork_report.run_files import RunFiles, StageFiles
from topwork_report.sections import section
from topwork_report.summary import headline_cards


def run_of(*results: tuple[str, dict]) -> RunFiles:
    run = RunFiles(Path())
    run.stages = [
        StageFiles(number, name, Path(f"stages/{number:02d}-{name}"), 1.0, {}, result, {})
        for number, (name, result) in enumerate(results, 1)
    ]
    return run


def labels_of(*results: tuple[str, dict]) -> list[tuple[str, float]]:
    headline = headline_cards(run_of(*results))
    cards = headline["cards"] if headline else []
    return [(card.get("label") or card["word"], card.get("value", card.get("removed"))) for card in cards]


def measured(value: float, role: str = "evaluate", metric: str = "accuracy") -> tuple[str, dict]:
    result = {"metrics": {metric: value}, "primary": metric, "measures": "model", "role": role}
    return "evaluate", result


TRAINED = ("fit", {"change": "training", "history": [{"step": 1, "loss": 0.5}]})
PRUNED = ("cut", {"change": "pruning", "removal": {"how": "pruned", "unit": "neurons", "before": 24, "after": 16}})
BASELINE = {"draws": 2, "role": "evaluate", "metrics": {"accuracy": 0.7, "f1": 0.6}}


@pytest.mark.parametrize("claims", [{}, {"measures": "probe"}, {"primary": "accuracy"}, {"measures": ["model"]}])
@pytest.mark.parametrize("name", ["linear_probe", "evaluate"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_probe_whose_metric_has_the_name_of_the_primary_one_is_no_card(name, claims, is_first):
    probe = (name, {"metrics": {"accuracy": 0.58}, **claims})
    stages = (probe, measured(0.93)) if is_first else (measured(0.93), probe)
    assert labels_of(*stages, PRUNED, measured(0.9)) == [
        ("Before pruning", 0.93),
        ("Pruned", 8),
        ("After pruning", 0.9),
    ]


def test_a_run_of_probes_alone_has_no_headline():
    assert headline_cards(run_of(("evaluate", {"metrics": {"accuracy": 0.5}, "primary": "accuracy"}))) is None
    assert headline_cards(run_of(("evaluate", {"metrics": {"accuracy": 0.5}, "measures": "model"}))) is None


def test_a_stage_of_another_package_that_measures_the_model_is_a_card():
    other = ("my_evaluation", measured(0.58)[1])
    assert labels_of(measured(0.93), other) == [("Evaluation", 0.93), ("Evaluation", 0.58)]


def test_cards_are_named_by_what_was_done_to_the_model():
    quantised = ("smaller_numbers", {"change": "quantisation"})
    assert labels_of(TRAINED, measured(0.9)) == [("After training", 0.9)]
    assert labels_of(measured(0.9), quantised, measured(0.8)) == [("Evaluation", 0.9), ("After quantisation", 0.8)]
    assert labels_of(TRAINED, measured(0.9), PRUNED, measured(0.7), TRAINED, measured(0.85)) == [
        ("Before pruning", 0.9),
        ("Pruned", 8),
        ("After pruning", 0.7),
        ("After recovery", 0.85),
    ]


def test_a_history_alone_does_not_make_a_training_of_the_model():
    probe = ("probe", {"history": [{"step": 1, "loss": 0.5}]})
    assert labels_of(PRUNED, probe, measured(0.7)) == [("Pruned", 8), ("After pruning", 0.7)]


def test_a_schedule_that_leaves_the_model_as_it_is_removes_nothing():
    searched = ("prune_schedule", {"heads_before": 8, "heads_after": 4, "removed": {"a": [1]}})
    assert labels_of(measured(0.9), searched, measured(0.9)) == [("Evaluation", 0.9), ("Evaluation", 0.9)]


def test_the_random_baseline_stands_behind_the_measurement_that_it_is_compared_with():
    pruned = (PRUNED[0], {**PRUNED[1], "random_baseline": BASELINE})
    assert labels_of(measured(0.9), pruned, measured(0.8), measured(0.8)) == [
        ("Before pruning", 0.9),
        ("Pruned", 8),
        ("After pruning", 0.8),
        ("As many at random", 0.7),
        ("After pruning", 0.8),
    ]
    assert ("As many at random", 0.7) not in labels_of(measured(0.9, metric="bleu"), pruned)


def test_values_are_compared_with_the_first_that_was_measured_on_the_same_rows():
    headline = headline_cards(
        run_of(measured(0.9), measured(0.5, "calibrate"), measured(0.8), measured(0.4, "calibrate"))
    )
    changes = [(card["role"], card["change"]) for card in headline["cards"]]
    assert changes[:2] == [("evaluate", None), ("calibrate", None)]
    assert [role for role, _ in changes] == ["evaluate", "calibrate", "evaluate", "calibrate"]
    assert [change for _, change in changes[2:]] == pytest.approx([-0.1, -0.1])


@pytest.mark.parametrize("old", ["heads_before", "random"])
def test_keys_that_the_contract_does_not_have_are_plain_numbers(old):
    result = {"heads_before": 24, "heads_after": 16, "random": [{"accuracy": 0.5}], "layers": [{"scores": [1, 2]}]}
    part = section(run_of(("mine", result)), run_of(("mine", result)).stages[0])
    assert part["blocks"] == []
    assert old in str(part["rest"])
