"""Options of `train` that change which rows come how often, and how fast each layer learns: the same in every task."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from tiny_bases import BASES

import topwork
from topwork import UsageError, load_plugins
from topwork.data.batching import Budget, TrainBatches
from topwork.training.layer_rates import depths

TASKS = {name: task for name, task in load_plugins().tasks.items() if name in BASES}
LABELLED = ("text-classification", "image-classification", "audio-classification", "token-classification")


def work(task: str, **options: Any) -> Any:
    return topwork.build(task, BASES[task], rows=TASKS[task].example_rows(), seed=0, **options)


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("window", [None, 1, 4])
def test_balanced_epochs_have_equally_many_items_of_each_stratum(processes, window) -> None:
    strata = np.array([0] * 90 + [1] * 8 + [2] * 2)
    costs = np.random.default_rng(0).integers(1, 50, 100)
    samplers = [TrainBatches(costs, Budget(7), 3, index, processes, window, strata) for index in range(processes)]
    epochs = []
    for epoch in range(6):
        items = []
        for sampler in samplers:
            sampler.set_epoch(epoch)
            batches = list(sampler)
            assert len(batches) == len(sampler)
            items += [item for batch in batches for _, item in batch]
        counts = Counter(strata[items].tolist())
        assert len(items) == 100
        assert max(counts.values()) - min(counts.values()) <= 1
        each = Counter(items)
        for label in (1, 2):  # rows of a rare label come equally often
            often = [each[item] for item in np.flatnonzero(strata == label)]
            assert max(often) - min(often) <= 1
        assert max(each[item] for item in range(90)) == 1
        epochs.append(items)
    assert len({item for items in epochs for item in items}) > 80  # others of the frequent label in each epoch


@pytest.mark.parametrize("task", sorted(TASKS))
def test_balance_holds_wherever_rows_have_labels_and_is_refused_elsewhere(task, monkeypatch) -> None:
    built, rows = work(task), TASKS[task].example_rows()
    seen: list[TrainBatches] = []
    make = TrainBatches.__init__

    def noted(self, *arguments, **options):
        make(self, *arguments, **options)
        seen.append(self)

    monkeypatch.setattr(TrainBatches, "__init__", noted)
    settings = {"steps": 1, "batch_size": 2, "balance": True, "checkpoint_every": "never"}
    if task not in LABELLED:
        with pytest.raises(UsageError, match=r"balance: .*(no labels that could be balanced|packed together)"):
            built.train(rows, **settings)
        return
    rare = rows[0]
    many = [row for row in rows[1:] if row.get("label") != rare.get("label") or task == "token-classification"]
    built.train([rare, *many * 4], **settings)
    (sampler,) = seen
    codes = Counter(sampler.strata[[item for batch in sampler for _, item in batch]].tolist())
    assert max(codes.values()) - min(codes.values()) <= 1
    assert len(codes) == len(set(sampler.strata.tolist())) > 1


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"balance": True, "batch_cost": 100}, "`balance` draws as many items as there are"),
        ({"layer_decay": 0.0}, "greater than 0"),
        ({"layer_decay": 1.5}, "less than or equal to 1"),
        ({"layer_decay": 0.5, "lora": {"r": 2}}, "`layer_decay` does not go with it"),
        ({"compile": "ninja"}, "inductor"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, cause) -> None:
    with pytest.raises(topwork.TopworkError, match=cause):
        work("text-classification").train(TASKS["text-classification"].example_rows(), steps=1, **options)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_parameter_has_a_depth_and_what_follows_the_backbone_the_full_rate(task) -> None:
    model = work(task).model
    by_name = depths(model)
    assert by_name.keys() == {name for name, _ in model.named_parameters()}
    deepest = max(by_name.values())
    embedded = [depth for name, depth in by_name.items() if "embeddings.word" in name or name.endswith("shared.weight")]
    assert all(depth == deepest for depth in embedded)
    heads = ("classifier.", "qa_outputs.", "class_labels_classifier.", "decode_head.", "head.head.")
    assert all(depth == 0 for name, depth in by_name.items() if name.startswith(heads))
    assert set(by_name.values()) - {0} == set(range(1, deepest + 1))


@pytest.mark.parametrize("task", ["text-classification", "image-segmentation", "translation"])
def test_a_step_of_each_layer_is_shorter_by_the_decay(task) -> None:
    rows, steps = TASKS[task].example_rows(), {}
    for decay in (1.0, 0.5):
        built = work(task)
        for module in built.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        before = {name: value.detach().double().clone() for name, value in built.model.named_parameters()}
        built.train(
            rows, steps=1, batch_size=4, optimizer="sgd", clip=0, learning_rate=100.0, schedule="constant",
            layer_decay=decay, checkpoint_every="never",
        )  # fmt: skip
        steps[decay] = {
            name: float((value.detach().double() - before[name]).norm())
            for name, value in built.model.named_parameters()
        }
    compared = 0
    for name, depth in depths(built.model).items():
        if steps[1.0][name] > 1e-2:
            assert steps[0.5][name] / steps[1.0][name] == pytest.approx(0.5**depth, rel=0.03), name
            compared += 1
    assert compared > 10


def test_a_compiled_training_gives_the_weights_of_a_plain_one_and_leaves_nothing_compiled() -> None:
    rows, trained = TASKS["text-classification"].example_rows(), []
    for compiled in (False, "eager", False):
        built = work("text-classification")
        result = built.train(rows, steps=2, batch_size=4, seed=0, compile=compiled, checkpoint_every="never")
        assert not any(hasattr(module, "_orig_mod") for module in built.model.modules())
        trained.append((result["loss"], {name: value.clone() for name, value in built.model.state_dict().items()}))
    for loss, weights in trained[1:]:
        assert loss == pytest.approx(trained[0][0], rel=1e-5)
        for name, value in weights.items():
            torch.testing.assert_close(value, trained[0][1][name], rtol=1e-4, atol=1e-5)
