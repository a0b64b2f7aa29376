"""Stages of attribution on every task: their numbers against hooks and forward passes of the tests' own."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy
import pytest
import torch
from learning_vision import BASES as DETECTORS
from tiny_bases import BASES

import topwork
from topwork import Refused, UsageError
from topwork_analyses.scalars.named import RowScalar
from topwork_analyses.scalars.options import ScalarOptions
from topwork_lens.layers.context import output_projection

TASKS = sorted(BASES)
#: tasks whose tiny base keeps its residual stream as a sum and has one stack
DIRECT = ("audio-classification", "image-classification", "object-detection", "text-generation")


def built(name: str) -> tuple[Any, dict[str, Any]]:
    """A task's model from random weights, and its example rows by role."""
    task = topwork.load_plugins().tasks[name]
    rows = task.example_rows()
    work = topwork.build(name, copy.deepcopy(BASES[name]), rows=rows)
    work.model.eval()
    return work, dict.fromkeys(("train", "calibrate", "evaluate"), rows[:4])


@pytest.mark.parametrize("name", TASKS)
def test_estimates_stand_beside_exact_effects_on_every_task(name: str) -> None:
    work, roles = built(name)
    result = work.apply("attribution_patching", roles, rows=2, top=2, draws=100)
    assert result["rows"] == 2 and result["patched"] == min(4, result["heads"])
    assert result["heads"] == sum(len(layer["kept"]) for layer in result["layers"])
    lines = result["tables"]["Attention heads that were patched"]
    assert [line["chosen"] for line in lines].count("top") == 2
    for line in lines:
        assert math.isfinite(line["estimate"]) and line["low"] <= line["exact"] <= line["high"]
    assert any(abs(line["exact"]) > 0 for line in lines)
    estimates = [abs(value) for layer in result["layers"] for value in layer["estimate"]]
    top = [abs(line["estimate"]) for line in lines if line["chosen"] == "top"]
    assert sorted(top) == sorted(estimates)[-2:]
    assert result["metrics"]["scalar"] != result["metrics"]["scalar_corrupt"]


def test_an_exact_effect_is_that_of_hooks_written_by_hand() -> None:
    work, roles = built("image-classification")
    result = work.apply("attribution_patching", roles, rows=1, top=8, noise=0.5, scalar="logit", label=0)
    line = result["tables"]["Attention heads that were patched"][0]
    layers = work.model.vit.layers if hasattr(work.model.vit, "layers") else work.model.vit.encoder.layer
    (item,) = work.task.encode(roles["evaluate"][:1], "loss", 0)
    inputs = work.task.collate([item], "loss").inputs
    projection = output_projection(work.model, topwork.look(work.model)[line["layer"]])
    kept: list[torch.Tensor] = []

    def noisy(module: Any, args: tuple) -> tuple:
        state = args[0]
        noise = torch.randn(state.shape, generator=torch.Generator().manual_seed(result["seed"]))
        return (state + 0.5 * state.std() * noise, *args[1:])

    def keep(module: Any, args: tuple) -> None:
        kept.append(args[0].clone())

    def put(module: Any, args: tuple) -> tuple:
        context = args[0].clone()
        part = slice(8 * line["head"], 8 * line["head"] + 8)
        context[..., part] = kept[0][..., part]
        return (context,)

    with torch.no_grad():
        handle = projection.register_forward_pre_hook(keep)
        clean = work.model(**inputs).logits[0, 0]
        handle.remove()
        layers[0].register_forward_pre_hook(noisy)
        corrupt = work.model(**inputs).logits[0, 0]
        projection.register_forward_pre_hook(put)
        patched = work.model(**inputs).logits[0, 0]
    assert result["metrics"]["scalar"] == pytest.approx(float(clean), abs=1e-5)
    assert result["metrics"]["scalar_corrupt"] == pytest.approx(float(corrupt), abs=1e-5)
    assert line["exact"] == pytest.approx(float(patched - corrupt), abs=1e-5)


def test_little_noise_makes_estimates_exact() -> None:
    work, roles = built("text-classification")
    work.model.double()
    result = work.apply("attribution_patching", roles, rows=3, top=4, noise=1e-3, scalar="logit", label=0)
    assert result["metrics"]["correlation_patched"] > 0.99
    agreement = result["tables"]["Estimates against exact effects (rank correlation)"]
    assert [line["attention heads"] for line in agreement] == ["top", "random", "patched"]
    assert all(-1 <= line["low"] <= line["high"] <= 1 for line in agreement)


@pytest.mark.parametrize("name", DIRECT)
def test_direct_contributions_and_the_remainder_add_up(name: str) -> None:
    work, roles = built(name)
    scalar = "logit" if name != "audio-classification" else "loss"
    result = work.apply("direct_attribution", roles, rows=3, scalar=scalar, draws=100)
    total = sum(line["contribution"] for line in result["tables"]["Contributions"])
    assert total + result["metrics"]["remainder"] == pytest.approx(result["metrics"]["scalar"], rel=1e-4, abs=1e-5)
    expected = []
    for index in range(3):
        batch = work.task.collate(work.task.encode(roles["evaluate"][index : index + 1], "loss", 0), "loss")
        with torch.no_grad():
            expected.append(float(RowScalar(work.task, work.model, batch, _Options(scalar=scalar))()))
    assert result["metrics"]["scalar"] == pytest.approx(numpy.mean(expected), rel=1e-4)
    heads = [value for layer in result["layers"] for value in layer["contribution"]]
    assert len(heads) == result["heads"] and any(abs(value) > 0 for value in heads)


class _Options(ScalarOptions):
    name = "options_of_the_test"

    def __call__(self, run: Any) -> dict[str, Any]:
        return {}


def test_norms_in_the_stream_are_refused_by_the_stage() -> None:
    work, roles = built("text-classification")
    with pytest.raises(Refused, match="not the sum of what was written"):
        work.apply("direct_attribution", roles, rows=2)


def test_scalars_are_those_that_the_outputs_hold() -> None:
    work, roles = built("object-detection")
    batch = work.task.collate(work.task.encode(roles["evaluate"][:1], "loss", 0), "loss")
    outputs: list[Any] = []
    work.model.register_forward_hook(lambda module, args, output: outputs.append(output))

    def scalar(**options: Any) -> float:
        return float(RowScalar(work.task, work.model, batch, _Options(**options))().detach())

    name = work.task.label_names[0]
    loss = scalar()
    logits, boxes = outputs[-1].logits[0], outputs[-1].pred_boxes[0]
    assert loss == pytest.approx(-float(work.task.row_losses(work.model, batch).sum()))
    assert scalar(scalar="logit", label=name, query=3) == float(logits[3, 0])
    assert scalar(scalar="logit") == float(logits.max())
    assert scalar(scalar="logit", label=1) == float(logits[:, 1].max())
    assert scalar(scalar="box", coordinate="width", query=2) == float(boxes[2, 2])


@pytest.mark.parametrize(
    ("name", "options", "cause"),
    [
        ("image-classification", {"scalar": "box", "coordinate": "x"}, "there are no queries"),
        ("image-classification", {"scalar": "logit", "query": 1}, "there are no queries"),
        ("image-classification", {"scalar": "logit", "label": 99}, "there is no class 99"),
        ("image-classification", {"scalar": "logit", "label": "no such"}, "no such"),
        ("image-classification", {"scalar": "depth"}, "no `predicted_depth`"),
        ("object-detection", {"scalar": "logit", "query": 99}, "there is no query 99"),
    ],
)
def test_a_scalar_that_is_not_there_is_named(name: str, options: dict[str, Any], cause: str) -> None:
    work, roles = built(name)
    with pytest.raises(UsageError, match=cause):
        work.apply("attribution_patching", roles, rows=2, **options)


@pytest.mark.parametrize(
    "options", [{"scalar": "box"}, {"coordinate": "x"}, {"label": 1}, {"query": 1}, {"steps": 0}, {"noise": 0.0}]
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any]) -> None:
    work, roles = built("object-detection")
    with pytest.raises(topwork.TopworkError):
        work.apply("attribution_patching", roles, rows=2, **options)


@pytest.mark.parametrize(("name", "is_smooth"), [("text-classification", True), ("object-detection", False)])
def test_a_scalar_with_jumps_is_known_by_what_gradients_leave_unexplained(name: str, is_smooth: bool) -> None:
    """RT-DETR chooses its best queries: noise changes the choice and with it the loss, of which no gradient knows."""
    work, roles = built(name)
    if not is_smooth:
        rows = topwork.load_plugins().tasks[name].example_rows()
        torch.manual_seed(0)
        work = topwork.build(name, copy.deepcopy(DETECTORS["RT-DETR"]), rows=rows)
    result = work.apply("attribution_patching", roles, rows=3, top=2, draws=100)
    explained = result["metrics"]["explained_by_gradients"]
    assert (explained > 0.9) if is_smooth else (explained < 0.3)
    assert any("turns over" in remark for remark in result["remarks"]) != is_smooth
