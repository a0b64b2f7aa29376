"""Edge probes on planted states: T3 and T5 of the literature, micro F1, the control task."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from topwork_analyses.probing.control import control_labels
from topwork_analyses.probing.layer_statistics import expected_layer, gains
from topwork_analyses.probing.probe import EdgeProbe
from topwork_analyses.probing.training import (
    ProbeOptions,
    SpanRows,
    count_rows,
    micro_f1,
    probe_layers,
    train_probe,
)

LAYERS, WIDTH, LABELS = 5, 16, 3
QUICK = ProbeOptions(projection=16, epochs=12, batch_size=32, learning_rate=1e-2, seeds=(0,))


def planted(layer: int, seed: int, targets: int = 300, spans: int = 1) -> SpanRows:
    """Targets of one or two positions whose label can be read from the layers `layer` and above, and from no other."""
    random = np.random.default_rng(seed)
    labels = random.integers(LABELS, size=targets)
    directions = np.random.default_rng(99).normal(size=(LABELS, WIDTH)) * 2
    states = random.normal(size=(2 * targets, LAYERS + 1, WIDTH)).astype(np.float32)
    states[:, layer:] += np.repeat(directions[labels], 2, 0)[:, None]
    positions = torch.arange(2 * targets).view(targets, 2)
    positions[::2, 1] = -1  # every other span has one position
    onehot = torch.nn.functional.one_hot(torch.tensor(labels), LABELS)[None]
    return SpanRows(states, [positions] * spans, onehot, torch.arange(targets) // 2, (targets + 1) // 2)


@pytest.mark.parametrize("layer", [1, 3, 5])
def test_t3_what_can_be_read_from_a_layer_on_has_that_expected_layer(layer):
    scores = probe_layers(planted(layer, 0), planted(layer, 1), QUICK).f1().mean(-1)
    assert scores[layer] - scores[layer - 1] > 0.3, scores
    assert int(gains(scores).argmax()) + 1 == layer
    assert expected_layer(scores) == pytest.approx(layer, abs=0.3)


def test_t3_two_planted_tasks_stand_in_their_order_for_every_seed():
    options = ProbeOptions(projection=16, epochs=8, batch_size=32, learning_rate=1e-2, seeds=(0, 1, 2, 3, 4))
    early = probe_layers(planted(1, 0, 150), planted(1, 1, 150), options).f1()
    late = probe_layers(planted(4, 0, 150), planted(4, 1, 150), options).f1()
    assert all(expected_layer(early[:, seed]) < expected_layer(late[:, seed]) for seed in range(5))


def test_t5_states_stay_as_they_are_and_mixing_weights_sum_to_one():
    train, evaluate = planted(2, 0, 60), planted(2, 1, 60)
    before = train.states.copy(), evaluate.states.copy()
    scores = probe_layers(train, evaluate, ProbeOptions(projection=8, epochs=2, seeds=(3,)))
    assert (train.states == before[0]).all() and (evaluate.states == before[1]).all()
    assert scores.weights.sum(-1) == pytest.approx(1, abs=1e-6)
    assert scores.weights.shape == (1, LAYERS + 1)


def test_a_probe_gives_the_same_scores_alone_and_beside_its_control():
    train = planted(2, 0, 60)
    both = SpanRows(train.states, train.spans, train.labels.repeat(2, 1, 1), train.rows, train.row_count)
    options = ProbeOptions(projection=8, epochs=2, seeds=(5,))
    alone, beside = probe_layers(train, train, options), probe_layers(both, both, options)
    assert (alone.counts[:, :, 0] == beside.counts[:, :, 0]).all()
    assert (beside.counts[:, :, 0] == beside.counts[:, :, 1]).all()


def test_a_pair_of_spans_needs_both():
    """The label is whether two spans have the same sign: neither of them says it alone."""
    random = np.random.default_rng(0)
    signs = random.choice([-1.0, 1.0], size=(400, 2))
    states = np.concatenate([signs.reshape(-1, 1, 1), random.normal(size=(800, 1, 3)) * 0.1], -1).astype(np.float32)
    labels = torch.nn.functional.one_hot(torch.tensor((signs[:, 0] == signs[:, 1]).astype(int)), 2)[None]
    first, second = torch.arange(0, 800, 2)[:, None], torch.arange(1, 800, 2)[:, None]
    options = ProbeOptions(projection=16, epochs=15, learning_rate=1e-2, seeds=(0,))

    def score(spans: list[torch.Tensor]) -> float:
        rows = SpanRows(states, spans, labels, torch.arange(400), 400)
        return float(probe_layers(rows, rows, options).f1()[0, 0])

    assert score([first, second]) > 0.95
    assert score([first]) < 0.7


def test_positions_outside_a_span_change_nothing():
    probe = EdgeProbe(3, 8, 2, 1, [0, 1], 4)
    states = torch.randn(1, 5, 4, 3, 8)
    mask = torch.tensor([True, True, False, False]).expand(1, 5, 4)
    other = states.clone()
    other[:, :, 2:] = 1e3
    torch.testing.assert_close(probe([states], [mask]), probe([other], [mask]))
    torch.testing.assert_close(probe([states[:, :, :2]], [mask[:, :, :2]]), probe([states], [mask]))


def test_scores_are_the_micro_averaged_f1_of_scikit_learn():
    rows = planted(0, 0, 80)
    several = (torch.rand(1, 80, LABELS, generator=torch.Generator().manual_seed(0)) < 0.5).long()
    rows = SpanRows(rows.states, rows.spans, several, rows.rows, rows.row_count)
    probe = train_probe(rows, 2, 0, QUICK)
    predicted = probe(*rows.gathered(torch.arange(80), 2))[0] > 0
    counts = count_rows(probe, rows, 2)
    assert counts.shape == (1, 40, 3)
    assert micro_f1(counts.sum(1))[0] == pytest.approx(f1_score(several[0], predicted.long(), average="micro"))


def test_a_control_task_has_one_label_for_each_type_whatever_stands_around_it():
    labels = torch.eye(4)[torch.arange(200) % 4]
    types = [f"word {index % 50}" for index in range(200)]
    drawn = control_labels(types, labels)
    assert (drawn[:50] == drawn[50:100]).all()
    assert (control_labels(types[::-1], labels) == drawn.flip(0)).all(), "the order of the targets plays a part"
    assert (control_labels(types[:7], labels[:7], labels) == drawn[:7]).all(), "evaluation rows get other labels"
    assert not (control_labels(types, labels, seed=1) == drawn).all()
    assert drawn.mean(0).tolist() == pytest.approx([0.25] * 4, abs=0.15)


def test_a_probe_of_types_reaches_its_control_and_a_probe_of_contexts_does_not():
    """States that say which word it is: the control task can be learned as well as the task."""
    random = np.random.default_rng(0)
    words = random.integers(12, size=400)
    vectors = random.normal(size=(12, WIDTH)) * 2
    labels = torch.nn.functional.one_hot(torch.tensor(words % LABELS), LABELS)
    states = (vectors[words] + random.normal(size=(400, WIDTH)) * 0.1).astype(np.float32)[:, None]
    both = torch.stack([labels, control_labels(list(words), labels)])
    rows = SpanRows(states, [torch.arange(400)[:, None]], both, torch.arange(400), 400)
    scores = probe_layers(rows, rows, QUICK)
    assert scores.f1(0)[0, 0] > 0.95 and scores.f1(1)[0, 0] > 0.95


def test_scores_of_every_row_once_are_the_scores_and_rows_count_as_often_as_they_are_drawn():
    rows = planted(1, 0, 60)
    scores = probe_layers(rows, rows, ProbeOptions(projection=8, epochs=1, seeds=(0, 1)))
    everything = np.arange(rows.row_count)
    assert scores.f1(0, everything) == pytest.approx(scores.f1(), abs=1e-12)
    assert scores.f1(0, np.array([4, 4])) == pytest.approx(scores.f1(0, np.array([4])), abs=1e-12)
    assert not np.allclose(scores.f1(0, everything[:10]), scores.f1())


def test_shares_of_processes_sum_to_what_a_single_process_computes():
    rows, options = planted(1, 0, 40), ProbeOptions(projection=8, epochs=1, seeds=(0, 1))
    whole = probe_layers(rows, rows, options)
    parts = [probe_layers(rows, rows, options, share=(index, 3)) for index in range(3)]
    assert (sum(part.counts for part in parts) == whole.counts).all()
    assert (sum(part.weights for part in parts) == whole.weights).all()
