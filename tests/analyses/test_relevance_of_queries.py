"""Relevance for one query of a detector, for flow, and what of it is shown on the page of a run."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from detector_configs import DETR
from tiny_bases import BERT, YOLOS

import topwork
from topwork_analyses.relevance.methods import METHODS, relevance_of_row
from topwork_analyses.relevance.rollout import flow
from topwork_lens.look import Look


def detector(base: dict[str, Any]) -> tuple[Any, list[Any]]:
    task = topwork.load_plugins().tasks["object-detection"]
    rows = task.example_rows()
    work = topwork.build("object-detection", copy.deepcopy(base), rows=rows)
    work.model.eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # so that queries differ as those of a trained model do
        for parameter in work.model.parameters():
            if parameter.dim() > 1:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return work, rows


@pytest.mark.parametrize("base", [YOLOS, {"config": DETR}], ids=["yolos", "detr"])
def test_each_query_has_its_own_relevance(base: dict[str, Any]) -> None:
    work, rows = detector(base)
    shown = []
    for options in (
        {"scalar": "logit", "query": 0, "label": 0},
        {"scalar": "logit", "query": 1, "label": 0},
        {"scalar": "box", "query": 0, "coordinate": "x"},
        {"scalar": "box", "query": 0, "coordinate": "height"},
    ):
        given = {"rows": 2, "steps": 2, "orders": 1, "draws": 20, "shown": 1, "randomise": False}
        result = work.apply("relevance", {"evaluate": rows[:2]}, **given, **options)
        assert result["rows"] == 2
        shown.append(torch.tensor(result["relevance"][0]["chefer"]))
        assert bool((shown[-1] >= 0).all()) and float(shown[-1].sum()) > 0
    for index in range(1, 4):
        assert shown[index].shape == shown[0].shape
        shares = [values / values.sum() for values in (shown[0], shown[index])]
        assert not torch.allclose(shares[0], shares[1], rtol=1e-3, atol=0)


def test_the_number_that_is_explained_is_that_of_the_query() -> None:
    work, rows = detector({"config": DETR})
    batch = work.task.collate(work.task.encode(rows[:1], "loss", 0), "loss")
    look = Look(work.model)
    outputs: list[Any] = []
    work.model.register_forward_hook(lambda module, args, output: outputs.append(output))

    def explained() -> torch.Tensor:
        work.task.row_losses(work.model, batch)
        return outputs[-1].logits[0, 2, 0]

    by_hand = relevance_of_row(look, explained).methods
    options = {"rows": 1, "steps": 1, "orders": 1, "shown": 1, "randomise": False}
    result = work.apply("relevance", {"evaluate": rows[:1]}, scalar="logit", query=2, label=0, **options)
    for name in METHODS:
        expected = by_hand[name].float()
        torch.testing.assert_close(torch.tensor(result["relevance"][0][name]).float(), expected, rtol=1e-4, atol=1e-7)
    series = result["curves"][0]["series"]
    assert set(series) == {*METHODS, "random order"}
    ends = [series[name][-1][1] for name in METHODS]
    assert ends == pytest.approx([ends[0]] * len(ends), abs=1e-5)  # all positions are deleted in the end
    assert all(points[0] == [0.0, 0.0] for points in series.values())


def test_flow_stands_beside_the_other_methods_when_asked_for() -> None:
    task = topwork.load_plugins().tasks["text-classification"]
    work = topwork.build("text-classification", copy.deepcopy(BERT), rows=task.example_rows())
    rows = task.example_rows()[:2]
    work.model.eval()
    options = {"rows": 2, "steps": 1, "orders": 1, "draws": 20, "shown": 1, "randomise": True, "flow": True}
    result = work.apply("relevance", {"evaluate": rows}, **options)
    assert [line["method"] for line in result["tables"]["faithfulness"]] == [*METHODS, "flow"]
    shown = result["relevance"][0]
    (table,) = (lines for title, lines in result["tables"].items() if title.startswith("Relevance"))
    assert [line["what"] for line in table] == shown["names"]
    assert sum(line["flow"] for line in table) == pytest.approx(100.0)
    look = Look(work.model)
    batch = work.task.collate(work.task.encode(rows[:1], "loss", 0), "loss")
    with torch.no_grad(), look.capture("weights") as seen:
        work.task.row_losses(work.model, batch)
    whole = flow([seen["weights", layer.path][0].mean(0) for layer in look.layers])
    # a classifier reads the first position alone
    torch.testing.assert_close(torch.tensor(shown["flow"]).double(), whole[0], rtol=1e-5, atol=1e-7)
