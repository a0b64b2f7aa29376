"""Confidences and thresholds: calibration error, and thresholds of labels that are chosen on calibrate rows."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from tiny_bases import BASES

import topwork
from topwork import TopworkError, load_plugins
from topwork_tasks._classification import calibration
from topwork_tasks._classification.metric import ClassificationMetric
from topwork_tasks._classification.scores import LabelScores
from topwork_tasks._classification.thresholds import best_thresholds
from topwork_tasks.object_detection.metric import CocoMetric
from topwork_tasks.object_detection.thresholds import choose_threshold

TASKS = {name: task for name, task in load_plugins().tasks.items() if name in BASES}
CLASSIFIERS = ("text-classification", "image-classification", "audio-classification")
NAMES = ["a", "b", "c"]


def several(task: str) -> list[dict[str, Any]]:
    """Rows of the task with one label or two."""
    rows = TASKS[task].example_rows()
    names = sorted({row["label"] for row in rows})
    return [
        {**row, "label": sorted({row["label"], names[index % len(names)]})}
        for index, row in enumerate(rows)
    ]  # fmt: skip


def error_by_hand(confidences: np.ndarray, right: np.ndarray) -> float:
    """Guo et al. (2017), equation 3, bin by bin."""
    total = 0.0
    for lower in range(15):
        inside = (confidences > lower / 15) & (confidences <= (lower + 1) / 15)
        if lower == 0:
            inside |= confidences == 0
        if inside.any():
            total += inside.sum() / len(confidences) * abs(right[inside].mean() - confidences[inside].mean())
    return total


def test_calibration_error_of_one_label_is_that_of_the_formula() -> None:
    draw = np.random.default_rng(0)
    scores = draw.dirichlet([0.5] * 3, 200)
    truths = draw.integers(0, 3, 200)
    parts = [ClassificationMetric(NAMES), ClassificationMetric(NAMES)]
    for index, (values, truth) in enumerate(zip(scores, truths)):
        parts[index % 2].update({"label": NAMES[truth]}, LabelScores(values, NAMES, 1))
    parts[0].merge(parts[1])
    expected = error_by_hand(scores.max(1), scores.argmax(1) == truths)
    assert parts[0].result()["calibration_error"] == pytest.approx(expected, rel=1e-9)


def test_calibration_error_of_several_labels_is_that_of_every_probability() -> None:
    draw = np.random.default_rng(1)
    scores, truth = draw.random((80, 3)), draw.integers(0, 2, (80, 3))
    metric = ClassificationMetric(NAMES, "multi")
    for values, marks in zip(scores, truth):
        metric.update({"label": [NAMES[index] for index in np.flatnonzero(marks)]}, LabelScores(values, NAMES, None))
    expected = error_by_hand(scores.ravel(), truth.ravel())
    assert metric.result()["calibration_error"] == pytest.approx(expected, rel=1e-9)


def test_certain_and_right_is_no_error_and_certain_and_wrong_is_the_largest() -> None:
    for right, expected in ((True, 0.0), (False, 1.0)):
        bins = calibration.new_bins()
        calibration.add(bins, 1.0, right)
        assert calibration.calibration_error(bins) == expected
    assert math.isnan(calibration.calibration_error(calibration.new_bins()))


@pytest.mark.parametrize("task", [*CLASSIFIERS, "token-classification"])
def test_tasks_whose_predictions_are_labels_measure_their_calibration(task) -> None:
    rows = TASKS[task].example_rows()
    built = topwork.build(task, BASES[task], rows=rows, seed=0)
    assert 0 <= built.evaluate(rows)["calibration_error"] <= 1


def f1(scores: np.ndarray, truth: np.ndarray, threshold: float) -> float:
    guess = scores >= threshold
    return 2 * (guess & (truth == 1)).sum() / max(1, guess.sum() + truth.sum())


@pytest.mark.parametrize("seed", range(20))
def test_no_other_threshold_has_a_larger_f1(seed) -> None:
    draw = np.random.default_rng(seed)
    scores = np.round(draw.random((30, 4)), 1 if seed % 2 else 6)
    truth = (draw.random((30, 4)) < [0.0, 0.1, 0.5, 0.9]).astype(int)
    for label, threshold in enumerate(best_thresholds(scores, truth)):
        others = [f1(scores[:, label], truth[:, label], value) for value in np.linspace(0, 1, 2001)]
        assert 0 <= threshold < 1
        assert f1(scores[:, label], truth[:, label], threshold) >= max(others) - 1e-12
        if f1(scores[:, label], truth[:, label], 0.5) == max(others):
            assert threshold == 0.5


@pytest.mark.parametrize("task", CLASSIFIERS)
def test_thresholds_chosen_on_calibrate_rows_decide_after_saving_and_loading(task, tmp_path) -> None:
    rows = several(task)
    built = topwork.build(task, BASES[task], rows=rows, seed=0, multi_label=True)
    with torch.no_grad():  # no score reaches .5, so that nothing is predicted before
        for parameter in list(built.model.parameters())[-1:]:
            parameter -= 2.0
    before = built.evaluate(rows)
    assert before["micro_f1"] == 0
    chosen = built.apply("choose_thresholds", {"calibrate": rows})["chosen"]["threshold"]
    after = built.evaluate(rows)
    assert after["micro_f1"] > 0.3
    assert after["mean_average_precision"] == before["mean_average_precision"]
    built.save(tmp_path / "model")
    loaded = topwork.load(tmp_path / "model")
    assert loaded.task.options.threshold == chosen == built.task.options.threshold
    assert loaded.evaluate(rows)["micro_f1"] == pytest.approx(after["micro_f1"])
    for prediction in loaded.predict(rows):
        assert all(entry["score"] >= chosen[entry["label"]] for entry in prediction)
    assert json.dumps(chosen)


@pytest.mark.parametrize("task", CLASSIFIERS)
def test_thresholds_of_rows_with_one_label_are_refused(task) -> None:
    rows = TASKS[task].example_rows()
    with pytest.raises(TopworkError, match="`threshold` is for rows with several labels"):
        topwork.build(task, BASES[task], rows=rows, threshold=0.3)
    with pytest.raises(TopworkError, match="has no thresholds to choose"):
        topwork.build(task, BASES[task], rows=rows).apply("choose_thresholds", {"calibrate": rows})
    with pytest.raises(TopworkError, match="unknown label 'zzz'"):
        topwork.build(task, BASES[task], rows=several(task), multi_label=True, threshold={"zzz": 0.3})


def boxes_of(draw: np.random.Generator, count: int) -> np.ndarray:
    corners = draw.uniform(0, 40, (count, 2))
    return np.concatenate([corners, corners + draw.uniform(5, 25, (count, 2))], 1).astype(np.float32)


def f1_of_boxes(rows: list, threshold: float) -> float:
    """F1 at an overlap of .5 of the boxes above a threshold, matched one by one, written down apart."""
    found = predicted = true = 0
    for (truths, true_labels, crowd, _), (scores, labels, boxes) in rows:
        left = [index for index in range(len(truths)) if not crowd[index]]
        true += len(left)
        for index in sorted(range(len(scores)), key=lambda index: -scores[index]):
            if scores[index] <= threshold:
                continue
            predicted += 1
            values = []
            for other in left:
                (a, b, c, d), (e, f, g, h) = boxes[index].tolist(), truths[other].tolist()
                common = max(0.0, min(c, g) - max(a, e)) * max(0.0, min(d, h) - max(b, f))
                union = (c - a) * (d - b) + (g - e) * (h - f) - common
                values.append((common / union if true_labels[other] == labels[index] else 0.0, other))
            best = max(values, default=(0.0, -1))
            if best[0] >= 0.5:
                found += 1
                left.remove(best[1])
    return 2 * found / max(1, predicted + true)


@pytest.mark.parametrize("seed", range(6))
def test_no_other_least_score_of_boxes_has_a_larger_f1(seed) -> None:
    draw = np.random.default_rng(seed)
    metric = CocoMetric(["a", "b"], None)
    for _ in range(8):
        truths = boxes_of(draw, 3)
        near = truths + draw.normal(0, 2, truths.shape).astype(np.float32)
        boxes = np.concatenate([near, near + 0.5, boxes_of(draw, 5)])  # a second box on the same truth is wrong
        labels = draw.integers(0, 2, 3)
        guesses = np.concatenate([labels, labels, draw.integers(0, 2, 5)])
        parts = [draw.uniform(0.3, 0.5, 3), draw.uniform(0.1, 0.35, 3), draw.uniform(0.0, 0.3, 5)]
        scores = np.concatenate(parts).astype(np.float32)
        metric.rows.append(((truths, labels, np.zeros(3, dtype=bool), np.ones(3)), (scores, guesses, boxes)))
    chosen = choose_threshold(metric)
    best = max(f1_of_boxes(metric.rows, threshold) for threshold in np.linspace(0, 0.6, 601))
    assert f1_of_boxes(metric.rows, chosen) >= best - 1e-9 > f1_of_boxes(metric.rows, 0.5)


def test_the_least_score_of_boxes_is_chosen_and_kept_with_the_model(tmp_path) -> None:
    rows = TASKS["object-detection"].example_rows()
    built = topwork.build("object-detection", BASES["object-detection"], rows=rows, seed=0)
    chosen = built.apply("choose_thresholds", {"calibrate": rows})["chosen"]["threshold"]
    built.save(tmp_path / "model")
    loaded = topwork.load(tmp_path / "model")
    assert loaded.task.options.threshold == chosen
    for prediction in loaded.predict(rows):
        assert all(entry["score"] > chosen for entry in prediction)
