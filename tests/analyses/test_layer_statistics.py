"""T1, T2 and T4 of the literature: statistics of layers equal those of Tenney, Das and Pavlick 2019.

The data file says where its scores come from. To two decimals the figures of BERT large are those that the paper
prints in figure 1; those of BERT base follow from the same scores by the authors' notebook.
"""

from __future__ import annotations

import csv
import math
import warnings
from pathlib import Path

import numpy as np
import pytest

from topwork_analyses.probing.layer_statistics import (
    UndefinedStatisticWarning,
    centre_of_gravity,
    divergence_from_uniform,
    expected_layer,
    expected_layers,
    gain_divergence,
)

GOLDEN = Path(__file__).parent / "data" / "tenney_perlayer.csv"
#: row of the file -> expected layer and divergence of the gains of BERT large, expected layer of BERT base
TASKS = {
    "pos-ontonotes-_micro_avg_": (3.386, 1.595, 1.76),
    "nonterminal-ontonotes-_micro_avg_": (3.793, 1.575, 2.38),
    "ner-ontonotes-_micro_avg_": (4.645, 1.608, 2.42),
    "dep-labeling-ewt-_micro_avg_": (5.692, 1.150, 2.52),
    "srl-conll2012-_clean_micro_": (6.537, 1.307, 2.59),
    "rel-semeval-_clean_micro_": (9.400, 0.501, 4.16),
    "coref-ontonotes-conll-1": (9.471, 0.598, 3.62),
    "spr1-_micro_avg_": (9.929, 0.334, 4.29),
}


def golden() -> dict[tuple[str, str], list[float]]:
    lines = [line for line in GOLDEN.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    scores: dict[tuple[str, str], list[float]] = {}
    for row in csv.DictReader(lines):
        for size in ("base", "large"):
            values = [float(value) for name, value in row.items() if name.startswith(f"bert-{size}")]
            scores[row["display_row"], size] = values
    return scores


@pytest.mark.parametrize("task", TASKS)
def test_t1_expected_layers_and_divergences_are_those_of_the_paper(task):
    large, base = golden()[task, "large"], golden()[task, "base"]
    layer, divergence, layer_of_base = TASKS[task]
    assert len(large) == 25 and len(base) == 13
    assert expected_layer(large) == pytest.approx(layer, abs=5e-3)
    assert gain_divergence(large) == pytest.approx(divergence, abs=5e-3)
    assert expected_layer(base) == pytest.approx(layer_of_base, abs=5e-3)


def test_t1_fractions_give_what_percentages_give():
    scores = np.array(golden()["srl-conll2012-_clean_micro_", "large"])
    assert expected_layer(scores / 100) == pytest.approx(expected_layer(scores), rel=1e-12)


@pytest.mark.parametrize("top", [1, 6, 24])
def test_t2_uniform_weights_have_their_centre_in_the_middle_and_no_divergence(top):
    weights = np.full(top + 1, 1 / (top + 1))
    assert centre_of_gravity(weights) == pytest.approx(top / 2, abs=1e-12)
    assert divergence_from_uniform(weights) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("layer", [0, 3, 12])
def test_t2_weights_of_a_single_layer_have_their_centre_there_and_the_largest_divergence(layer):
    weights = np.eye(13)[layer]
    assert centre_of_gravity(weights) == layer
    assert divergence_from_uniform(weights) == pytest.approx(math.log2(13), abs=1e-12)


@pytest.mark.parametrize("scores", [[0.5, 0.5, 0.5], [0.8, 0.7, 0.6], [0.0, 0.0, 0.0], [0.5, 0.7, 0.5001]], ids=str)
def test_t4_where_scores_do_not_rise_the_expected_layer_is_undefined(scores):
    with pytest.warns(UndefinedStatisticWarning, match="undefined"):
        assert math.isnan(expected_layer(scores))


def test_t4_where_no_layer_adds_anything_the_divergence_is_undefined():
    with pytest.warns(UndefinedStatisticWarning, match="no layer adds"):
        assert math.isnan(gain_divergence([0.8, 0.7, 0.7]))


def test_scores_that_rise_give_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert expected_layer([0.0, 1.0, 1.0]) == 1.0
        assert expected_layer([0.0, 0.0, 1.0]) == 2.0
        assert gain_divergence([0.0, 0.0, 1.0]) == pytest.approx(1.0)


def test_series_of_scores_are_judged_each_by_itself():
    together = expected_layers([[0.0, 1.0, 1.0], [0.5, 0.5, 0.5], [0.0, 0.0, 1.0]])
    assert together[0] == 1.0 and math.isnan(together[1]) and together[2] == 2.0


def test_weights_that_do_not_sum_to_one_are_refused():
    with pytest.raises(ValueError, match="sum to 1"):
        centre_of_gravity([0.5, 0.6])
