"""Results of edge probing: a line for each kind of labels, with intervals over rows, and curves over layers.

Entry point: `summarise`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from topwork import Json
from topwork_analyses.probing.layer_statistics import (
    UndefinedStatisticWarning,
    centre_of_gravity,
    divergence_from_uniform,
    expected_layers,
    gain_divergence,
)
from topwork_analyses.probing.training import ProbeScores, micro_f1
from topwork_analyses.statistics.bootstrap import statistic_interval


def summarise(scores: ProbeScores, confidence: float, draws: int, seed: int) -> tuple[dict[str, Json], list[str]]:
    """Return the figures of one kind of labels, and what is undefined in them.

    F1 is the mean over seeds; its interval, and those of the expected layer and of selectivity, resample rows.

    Args:
        scores: of the cumulative probes, with a control task as second task where there is one.
        confidence: of the intervals.
        draws: resamples.
        seed: of the resamples.
    """
    series = scores.f1().mean(-1)
    top = scores.f1()[-1]
    figures: dict[str, Json] = {"f1": float(series[-1]), "f1_of_layer_0": float(series[0])}
    options: dict[str, Any] = {"confidence": confidence, "draws": draws, "seed": seed, "method": "percentile"}
    rows = scores.counts.shape[3]

    def interval(name: str, statistic: Any) -> None:
        if rows > 1 and math.isfinite(statistic(np.arange(rows))):
            bounds = statistic_interval(statistic, rows, **options)
            figures[f"{name}_low"], figures[f"{name}_high"] = bounds.low, bounds.high

    interval("f1", lambda chosen: float(scores.f1(0, chosen)[-1].mean()))
    figures["f1_seeds_sd"] = float(top.std(ddof=1)) if len(top) > 1 else None
    if scores.counts.shape[2] > 1:
        control = scores.f1(1)[-1]
        figures["control_f1"] = float(control.mean())
        figures["selectivity"] = float((top - control).mean())
        interval("selectivity", lambda chosen: float((scores.f1(0, chosen)[-1] - scores.f1(1, chosen)[-1]).mean()))
    layer = float(expected_layers(series))
    figures["expected_layer"] = layer
    interval("expected_layer", lambda chosen: float(expected_layers(scores.f1(0, chosen).mean(-1))))
    figures["expected_layer_of_seeds"] = [float(value) for value in expected_layers(scores.f1().T)]
    weights = scores.weights.mean(0)
    figures["centre_of_gravity"] = centre_of_gravity(weights)
    figures["weights_divergence_bits"] = divergence_from_uniform(weights)
    remarks = []
    if not math.isfinite(layer):
        remarks.append("the expected layer is undefined: the scores do not rise over the layers")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UndefinedStatisticWarning)
        figures["gains_divergence_bits"] = gain_divergence(series)
    return figures, [*remarks, *(str(warning.message) for warning in caught)]


def curves(scores: dict[str, ProbeScores]) -> list[dict[str, Json]]:
    """Return the curves over layers of all kinds of labels: F1, F1 of the control, mixing weights."""

    def points(values: Sequence[float] | np.ndarray) -> list[list[float]]:
        return [[layer, float(value)] for layer, value in enumerate(values)]

    result: list[dict[str, Json]] = [
        {
            "title": "F1 of probes on the layers 0 to l",
            "x": "layer",
            "series": {kind: points(each.f1().mean(-1)) for kind, each in scores.items()},
        }
    ]
    controls = {kind: points(each.f1(1).mean(-1)) for kind, each in scores.items() if each.counts.shape[2] > 1}
    if controls:
        result.append({"title": "F1 of the control tasks", "x": "layer", "series": controls})
    weights = {kind: points(each.weights.mean(0)) for kind, each in scores.items()}
    return [*result, {"title": "Mixing weights of the layers", "x": "layer", "series": weights}]


def commonest_f1(train: np.ndarray, evaluate: np.ndarray) -> float:
    """Return the micro-averaged F1 of always answering the commonest label of the training targets.

    Args:
        train: [targets, labels] of 0 and 1.
        evaluate: the same of the targets that are scored.
    """
    right = int(evaluate[:, train.sum(0).argmax()].sum())
    wrong = len(evaluate) - right
    return float(micro_f1(np.array([right, wrong, int(evaluate.sum()) - right])))
