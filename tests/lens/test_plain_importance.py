"""Importance of plain models: rows of a dict scored together are those scored alone; scores choose what is pruned."""

from __future__ import annotations

from typing import Any

import lens_models
import pytest
import torch
from tolerance import close
from torch.nn import functional

import topwork
from architectures import build
from topwork import Refused, UsageError
from topwork_lens.look import Look
from topwork_lens.scoring.plain_models import losses_by_row, of_plain_model, single_items, whole

NAMES = ("bert", "distilbert", "modernbert", "llama", "gpt2", "bart", "t5", "vit", "swin", "wav2vec2")


def counted(model: Any) -> list[int]:
    """Rows of each run of a model."""
    runs: list[int] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: runs.append(len(next(iter(kwargs.values())))), with_kwargs=True
    )
    return runs


@pytest.mark.parametrize("name", NAMES)
def test_losses_of_one_run_are_those_of_rows_alone(name: str) -> None:
    model, batch = lens_models.make(name)
    with torch.no_grad():
        alone = torch.stack([model(**row.inputs).loss for row in single_items(batch)])
        close(losses_by_row(model, whole(batch)), alone)


@pytest.mark.parametrize("method", ["michel", "leave_one_out"])
@pytest.mark.parametrize("name", ["bert", "llama", "bart", "vit"])
def test_scores_of_a_batch_are_those_of_its_rows(name: str, method: str) -> None:
    model, batch = lens_models.make(name)
    rows = [dict(row.inputs) for row in single_items(batch)]
    alone = topwork.importance(model, rows, method, normalise="none")
    together = topwork.importance(model, batch, method, normalise="none")
    assert alone.rows == together.rows == 4
    for first, second in zip(alone.layers, together.layers, strict=True):
        close(second.scores, first.scores, dtype=torch.float32, scale=1.0)


def test_rows_are_scored_in_one_run_of_the_model() -> None:
    model, batch = lens_models.make("bert")
    runs = counted(model)
    Look(model).importance([batch, batch])
    # The first batch is run once to check it, with its first and last row alone, and once to verify its layers.
    assert runs.count(4) <= 4
    assert runs.count(1) <= 3


def test_a_loss_that_couples_rows_is_taken_row_by_row() -> None:
    model, batch = lens_models.make("bert")

    def mean(outputs: Any, inputs: Any) -> torch.Tensor:
        return functional.cross_entropy(outputs.logits, inputs["labels"])

    def each(outputs: Any, inputs: Any) -> torch.Tensor:
        return functional.cross_entropy(outputs.logits, inputs["labels"], reduction="none")

    scores = [topwork.importance(model, batch, loss=loss).layers for loss in (None, mean, each)]
    for own, by_mean, by_row in zip(*scores, strict=True):
        close(by_mean.scores, own.scores, dtype=torch.float32, scale=1.0)
        close(by_row.scores, own.scores, dtype=torch.float32, scale=1.0)
    assert next(of_plain_model(model, [batch], mean)[0]).row_count == 1
    assert next(of_plain_model(model, [batch], each)[0]).row_count == 4


def test_wrong_losses_are_refused() -> None:
    model, batch = lens_models.make("bert")
    look = Look(model)
    with pytest.raises(UsageError, match="`loss` returned"):
        look.importance(batch, loss=lambda outputs, inputs: outputs.logits)
    with pytest.raises(UsageError, match="both `loss` and `row_losses`"):
        look.importance(batch, loss=lambda outputs, inputs: outputs.loss, row_losses=losses_by_row)
    with pytest.raises(Refused, match="gave no loss"):
        look.importance(lens_models.without_labels(batch, model))
    with pytest.raises(UsageError, match="no rows"):
        look.importance([])
    with pytest.raises(UsageError, match="no tensor"):
        look.importance({"labels": 3})


@pytest.mark.parametrize("options", [{"share": 0.3}, {"count": 3}, {"threshold": 0.4}])
def test_scores_choose_what_is_pruned(options: dict[str, Any]) -> None:
    model, batch = lens_models.make("bert")
    scores = topwork.importance(model, batch)
    lowest = scores.lowest(**options)
    flat = sorted(score for layer in scores.layers for score in layer.scores)
    chosen = [layer.scores[head] for layer in scores.layers for head in lowest.get(layer.path, [])]
    wanted = {"share": 3, "count": 3, "threshold": sum(score < 0.4 for score in flat)}[next(iter(options))]
    assert len(chosen) == wanted
    if "threshold" not in options:
        assert sorted(chosen) == flat[:wanted]
    with torch.no_grad(), topwork.mask_heads(model, lowest):
        expected = model(**batch).logits
    pruned = topwork.prune_heads(model, scores, **options)
    assert pruned.removed == lowest
    with torch.no_grad():
        close(model(**batch).logits, expected)


def test_scores_and_choices_belong_together() -> None:
    model, batch = lens_models.make("bert")
    scores = topwork.importance(model, batch)
    for options in ({}, {"share": 0.3, "count": 2}):
        with pytest.raises(UsageError, match="one of share, count and threshold"):
            topwork.prune_heads(model, scores, **options)
    with pytest.raises(UsageError, match="between 0 and 1"):
        scores.lowest(share=30)
    with pytest.raises(UsageError, match="attention heads are named"):
        topwork.prune_heads(model, {0: [1]}, share=0.3)


def test_pairs_and_head_masks_prune_as_dicts_do() -> None:
    mask = torch.ones(3, 4)
    mask[0, 1] = mask[2, 3] = 0
    choices = ({0: [1], -1: [3]}, [(0, 1), (-1, 3)], mask)
    removed = [topwork.prune_heads(lens_models.make("bert")[0], heads).removed for heads in choices]
    assert removed[0] == removed[1] == removed[2]


@pytest.mark.parametrize("name", ["tvp", "seggpt", "pi0"])
@pytest.mark.parametrize("how", ["capture", "mask", "patch"])
def test_a_batch_that_ran_before_is_what_pruning_is_checked_with(name: str, how: str) -> None:
    model, inputs = build.tiny(name)
    look = Look(model)
    heads = {look.layers[0].path: [1]}
    with pytest.raises(Refused, match="give one"):
        look.prune_heads(heads)
    block = {"capture": look.capture("entropy"), "mask": look.mask_heads(heads), "patch": look.patch("context", 0.0)}
    with torch.no_grad(), block[how]:
        model(**inputs)
    assert look.prune_heads(heads).removed == heads
