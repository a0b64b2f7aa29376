"""Scores: gradients of gates are central differences, and belong to rows, not to batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lens_models import make
from tolerance import close

from topwork import Batch, Item
from topwork_compress.scores import own_outputs, row_gradients, score
from topwork_compress.units import Units
from topwork_lens.gates import gated
from topwork_lens.look import Look


def parts(name: str = "bert", dtype: torch.dtype = torch.float64) -> tuple[Any, dict[str, Any], Units]:
    model, inputs = make(name)
    model = model.to(dtype).eval()
    look = Look(model)
    return model, inputs, Units.of(model, look.layers, look.find_blocks(inputs))


def row_losses(model: Any, batch: Batch) -> torch.Tensor:
    logits = model(**{name: value for name, value in batch.inputs.items() if name != "labels"}).logits
    return torch.nn.functional.cross_entropy(logits, batch.inputs["labels"], reduction="none")


def in_batches(inputs: dict[str, Any], size: int) -> list[Batch]:
    count = len(inputs["labels"])
    return [
        Batch(
            {name: value[start : start + size] for name, value in inputs.items()},
            [Item(row, {}) for row in range(start, min(start + size, count))],
        )
        for start in range(0, count, size)
    ]


def test_p1_the_gradient_of_a_gate_is_the_central_difference() -> None:
    model, inputs, units = parts()
    batch = in_batches(inputs, 4)
    gradients = row_gradients(model, units.chosen, batch, row_losses)
    step = 1e-5
    for path in ("bert.encoder.layer.1.attention", "bert.encoder.layer.0.output.dense", "classifier"):
        unit = units.chosen[path]
        for position in (0, 3):
            values = []
            for sign in (1, -1):
                factors = torch.ones(len(unit.kept), dtype=torch.float64)
                factors[position] += sign * step
                with torch.no_grad(), gated(model, {path: (unit, factors)}):
                    values.append(row_losses(model, batch[0]))
            difference = (values[0] - values[1]) / (2 * step)
            torch.testing.assert_close(gradients[path][:, position].double(), difference, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method", ["surgeon", "fisher", "kl", "fluctuation"])
def test_p1_the_size_of_batches_changes_nothing(method: str) -> None:
    model, inputs, units = parts()
    alone = score(model, units, in_batches(inputs, 1), row_losses, method).values
    for size in (2, 4):
        together = score(model, units, in_batches(inputs, size), row_losses, method).values
        for path, values in alone.items():
            close(together[path], values, dtype=torch.float32)


def test_p4_a_dead_neuron_has_no_score_and_goes_first() -> None:
    model, inputs, _ = parts()
    layer = model.bert.encoder.layer[1]
    with torch.no_grad():
        layer.output.dense.weight[:, 7] = 0
    look = Look(model)
    units = Units.of(model, look.layers, look.find_blocks(inputs))
    for method in ("surgeon", "fisher", "kl", "fluctuation"):
        values = score(model, units, in_batches(inputs, 4), row_losses, method).values
        assert float(values["bert.encoder.layer.1.output.dense"][7]) == 0.0
        assert float(values["bert.encoder.layer.1.output.dense"][6]) > 0.0


def test_drawn_labels_are_those_of_the_model() -> None:
    """Over many rows the mean of squares is the Fisher information that the probabilities themselves give."""
    model, inputs, _ = parts()
    batch = in_batches(inputs, 4)[0]
    with torch.no_grad():
        probabilities = model(**{k: v for k, v in batch.inputs.items() if k != "labels"}).logits.softmax(-1)
    counts = torch.zeros_like(probabilities)
    draws = 400
    for draw in range(draws):
        items = [Item(4 * draw + row, {}) for row in range(4)]
        with torch.no_grad():
            losses = own_outputs(model, Batch(batch.inputs, items))
        drawn = (losses[:, None] + probabilities.log()).abs().argmin(-1)
        counts[torch.arange(4), drawn] += 1
    assert float((counts / draws - probabilities).abs().max()) < 0.1
