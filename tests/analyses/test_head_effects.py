"""Effects of attention heads against models in which they are known, and the checks of Michel et al. by name.

M1 to M6 stand in tests/lens/test_importance.py, M7 in tests/lens/test_schedule.py, M9 in tests/lens/test_science.py,
M10 (importance and choices by group) and M8 of the lens in tests/lens/test_ablation.py; M8 and M10 of this stage here.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy
import pytest
import torch
from analysis_models import classifier, silence
from tiny_bases import BASES

import topwork
from topwork import TopworkError
from topwork_analyses.head_effects.row_values import MetricDifference, Options
from topwork_analyses.head_effects.slices import slices_of

ONE, BEST = "One attention head removed", "Best attention head alone in its layer"


@pytest.fixture(scope="module")
def study() -> tuple[Any, list[dict[str, Any]], dict[str, Any]]:
    """A classifier of which one attention head is dead, its rows, and the stage's result."""
    work, _ = classifier()
    silence(work, 1, 2)
    _, rows = classifier()
    labels = [prediction[0]["label"] for prediction in work.predict([{"text": row["text"]} for row in rows])]
    rows = [{**row, "label": label} for row, label in zip(rows, labels, strict=True)]
    roles = {"evaluate": rows, "calibrate": rows[::-1]}
    return work, rows, work.apply("head_effects", roles, other_role="calibrate", slices="half", draws=2000)


def _line(result: dict[str, Any], layer: int, head: int) -> dict[str, Any]:
    lines = result["tables"][ONE]
    return next(line for line in lines if (line["layer"], line["head"]) == (layer, head))


def test_a_dead_attention_head_has_an_interval_of_zero(study) -> None:
    dead = _line(study[2], 1, 2)
    assert (dead["metric change"], dead["metric low"], dead["metric high"], dead["metric p"]) == (0, 0, 0, 1)
    assert dead["loss low"] == pytest.approx(0, abs=1e-6) == dead["loss high"]


def test_a_needed_attention_head_has_an_interval_without_zero(study) -> None:
    """The model is right on every row: what changes a prediction can only lower the accuracy."""
    _, _, result = study
    assert result["metrics"]["accuracy"] == 1.0
    needed = min(result["tables"][ONE], key=lambda line: line["metric change"])
    assert needed["metric change"] < -0.1
    assert needed["metric high"] < 0
    assert needed["metric p"] < 0.05
    assert result["significant"] >= 1
    assert result["better_without"] == 0
    assert result["worst"] == needed["metric change"]


def test_m8_the_tables_are_those_of_zeros_in_the_output_projection(study) -> None:
    """M8: rows are measured again with the weights of the attention heads zeroed, one by one and all but one."""
    work, rows, result = study
    batches = list(_loss_batches(work, rows))
    whole = _losses(work, work.model, batches)
    for layer, head in ((0, 1), (1, 3)):
        changed = copy.copy(work)
        changed.model = copy.deepcopy(work.model)
        silence(changed, layer, head)
        wanted = (_losses(work, changed.model, batches) - whole).mean()
        assert _line(result, layer, head)["loss change"] == pytest.approx(float(wanted), abs=1e-6)
    for line in result["tables"][BEST]:
        changed = copy.copy(work)
        changed.model = copy.deepcopy(work.model)
        for head in set(range(4)) - {line["head"]}:
            silence(changed, line["layer"], head)
        wanted = (_losses(work, changed.model, batches) - whole)[1::2].mean()  # the half on which it is judged
        assert line["loss change"] == pytest.approx(float(wanted), abs=1e-6)


def _loss_batches(work: Any, rows: list[dict[str, Any]]) -> Any:
    items = work.task.encode(rows, "loss", 0)
    return [work.task.collate([item], "loss") for item in items]


def _losses(work: Any, model: Any, batches: Any) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return torch.cat([work.task.row_losses(model, batch).double() for batch in batches])


def test_the_same_rows_in_another_order_agree_fully(study) -> None:
    for line in study[2]["agreement"]:
        assert line["estimate"] == pytest.approx(1.0)
        assert line["pairs"] == 8


def test_slices_name_the_attention_head_that_serves_one_group() -> None:
    cells = ["a"] * 6 + ["b"] * 6 + ["c"]
    assert {name: rows.tolist() for name, rows in slices_of(cells, "x").items()} == {
        "a": [0, 1, 2, 3, 4, 5],
        "b": [6, 7, 8, 9, 10, 11],
    }
    quarters = slices_of(list(range(40)), "length")
    assert [len(rows) for rows in quarters.values()] == [10, 10, 10, 10]
    with pytest.raises(TopworkError, match="0 slices"):
        slices_of(["a", "b", "c"], "x")


def test_slices_compare_with_all_other_rows(study) -> None:
    _, _, result = study
    lines = result["tables"]["Slices by half"]
    assert {line["slice"] for line in lines} == {"first", "second"}
    first, second = (line for line in lines if line["measure"] == "metric")
    assert first["difference"] == pytest.approx(first["metric change here"] - first["elsewhere"])
    assert first["difference"] == pytest.approx(-second["difference"])
    assert all(0 < line["p"] <= 1 for line in lines)


def test_a_metric_that_is_no_mean_is_computed_for_each_resample(monkeypatch) -> None:
    """The macro F1 of a resample of rows, against scikit-learn on the same rows."""
    from sklearn.metrics import f1_score

    work, rows = classifier(24)
    usual = work.task.metric

    def by_f1() -> Any:
        metric = usual()
        metric.primary = "macro_f1"
        return metric

    monkeypatch.setattr(work.task, "metric", by_f1)
    truths = [row["label"] for row in rows]
    random = numpy.random.default_rng(0)
    metrics, others = [], []
    guesses = [truth if random.random() < 0.7 else "a" for truth in truths]
    for row, guess in zip(rows, guesses, strict=True):
        for collected, label in ((metrics, row["label"]), (others, guess)):
            metric = work.task.metric()
            metric.update(row, [{"label": label, "score": 1.0}])
            collected.append(metric)
    difference = MetricDifference(work.task, metrics, Options(corpus_draws=40))
    assert difference.changes(others) is None
    assert difference.changes(metrics) is None  # though of these, which are all right, any metric is the mean
    sample = random.integers(24, size=24)
    names = work.task.state.values["labels"] if "labels" in work.task.state.values else sorted(set(truths))
    wanted = [
        f1_score(
            [truths[i] for i in sample], [guessed[i] for i in sample], average="macro", labels=names, zero_division=0
        )
        for guessed in (truths, guesses)
    ]
    assert difference.change(others, sample) == pytest.approx(wanted[1] - wanted[0], abs=0.02)
    interval = difference.interval(others)
    assert interval.low <= interval.estimate <= interval.high


def test_m10_the_kinds_of_an_encoder_decoder_are_measured_apart() -> None:
    from topwork import load_plugins

    task = load_plugins().tasks["translation"]
    rows = task.example_rows()
    work = topwork.build("translation", copy.deepcopy(BASES["translation"]), rows=rows)
    result = work.apply("head_effects", {"evaluate": rows}, measures=["loss"], draws=100)
    assert [line["group"] for line in result["tables"]["By group"]] == ["encoder", "decoder", "cross"]
    assert [line["heads"] for line in result["tables"]["By group"]] == [4, 4, 4]
    cross = work.apply("head_effects", {"evaluate": rows}, measures=["loss"], draws=100, groups=["cross"])
    assert {line["group"] for line in cross["tables"][ONE]} == {"cross"}
    chosen = [line for line in result["tables"][ONE] if line["group"] == "cross"]
    assert [line["loss change"] for line in chosen] == [line["loss change"] for line in cross["tables"][ONE]]


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"other_role": "evaluate"}, "name the other"),
        ({"tables": ["all_but_one"], "slices": "label"}, "need one_removed"),
        ({"tables": []}, "at least 1"),
        ({"confidence": 1.0}, "less than 1"),
        ({"groups": ["cross"]}, "cross"),
        ({"slices": "colour"}, "no column `colour`"),
        ({"limit": 1}, "greater than or equal to 2"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], cause: str) -> None:
    work, rows = classifier(12)
    with pytest.raises((TopworkError, ValueError), match=cause):
        work.apply("head_effects", {"evaluate": rows, "calibrate": rows}, **{"draws": 100, **options})
