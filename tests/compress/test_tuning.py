"""Least squares: never worse on rows that were held out, nothing at all with much ridge, exact where it can be."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from lens_models import make
from tolerance import close

import topwork
from topwork_compress.tuning import tune
from topwork_compress.units import Units
from topwork_lens.gates import factors_of, gated
from topwork_lens.look import Look
from topwork_lens.scoring.plain_models import own_loss, single_items

PATH = "bert.encoder.layer.1.output.dense"


def parts(name: str = "bert") -> tuple[Any, Any, list[Any], Units]:
    model, inputs = make(name)
    look = Look(model)
    return model, inputs, list(single_items(inputs)), Units.of(model, look.layers, look.find_blocks(inputs))


@pytest.mark.parametrize("method", ["lstsq", "bias"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_p4_what_is_accepted_is_better_on_held_out_rows(name: str, method: Any) -> None:
    model, _, batches, units = parts(name)
    removed = {path: list(unit.kept[::2]) for path, unit in units.chosen.items()}
    results = tune(model, units, removed, [*batches, *batches], own_loss, method)
    fitted = [result for result in results if not result.why]
    assert {result.path for result in results} == set(removed)
    assert any(result.accepted for result in fitted) or (name == "llama" and method == "bias")
    assert all(result.after < result.before for result in fitted if result.accepted)


def test_p4_with_much_ridge_the_bits_stay() -> None:
    model, _, batches, units = parts()
    before = copy.deepcopy(model.state_dict())
    tune(model, units, {PATH: [1, 2, 3]}, batches, own_loss, ridge=1e30)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_p4_a_neuron_that_is_there_twice_goes_without_loss_by_least_squares_alone() -> None:
    model, inputs, _, _ = parts()
    layer = model.bert.encoder.layer[1]
    with torch.no_grad():
        layer.intermediate.dense.weight[5] = layer.intermediate.dense.weight[4]
        layer.intermediate.dense.bias[5] = layer.intermediate.dense.bias[4]
        whole = model(**inputs).logits
    look = Look(model)
    units = Units.of(model, look.layers, look.find_blocks(inputs))
    batches = 20 * list(single_items(inputs))
    gate = {PATH: (units.chosen[PATH], factors_of(units.chosen[PATH], [5]))}
    with torch.no_grad(), gated(model, gate):
        masked = model(**inputs).logits
    (result,) = tune(model, units, {PATH: [5]}, batches, own_loss, ridge=1e-9)
    assert result.accepted
    with torch.no_grad(), gated(model, gate):
        tuned = model(**inputs).logits
    scale = float(whole.abs().max())
    assert float((masked - whole).abs().max()) > 1e-3 * scale
    close(tuned, whole, steps=2000)


def test_compression_fits_before_it_cuts_and_the_proof_holds() -> None:
    model, inputs, _, _ = parts()
    plain = copy.deepcopy(model)
    tuned = topwork.compress(model, [inputs] * 3, macs=0.6, score="fisher")
    untuned = topwork.compress(plain, [inputs] * 3, macs=0.6, tune="none")
    assert tuned.plan.removed == untuned.plan.removed
    assert tuned.pruned.check.difference <= tuned.pruned.check.tolerance
    assert untuned.tuned == [] and any(result.accepted for result in tuned.tuned)
