"""What least squares reads of a projection: its weight times that is what the projection gives, of convolutions too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tolerance import close
from torch import nn
from transformers.pytorch_utils import Conv1D

from topwork import Batch, Block, Item
from topwork_compress.positions import MOST, inputs_of, outputs_of
from topwork_lens.layers.projections import output_dim

PROJECTIONS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 5), (3, 7, 6)),
    "Conv1D of GPT-2": (lambda: Conv1D(5, 6), (3, 7, 6)),
    "convolution of one position": (lambda: nn.Conv2d(6, 5, 1), (3, 6, 4, 5)),
    "1-d, strided, padded": (lambda: nn.Conv1d(6, 5, 3, stride=2, padding=1), (3, 6, 9)),
    "2-d, uneven": (lambda: nn.Conv2d(6, 5, (3, 2), stride=(1, 2), padding=(2, 0)), (3, 6, 6, 7)),
    "2-d, dilated, same size": (lambda: nn.Conv2d(6, 5, 3, padding="same", dilation=2), (3, 6, 6, 7)),
    "2-d, circular": (lambda: nn.Conv2d(6, 5, 3, padding=1, padding_mode="circular"), (3, 6, 6, 7)),
    "3-d": (lambda: nn.Conv3d(6, 5, 2, bias=False), (3, 6, 4, 3, 3)),
}


def parts(projection: Any, batches: list[Batch]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    model = nn.ModuleDict({"out": projection})
    unit = Block("out", inside="", width=6)

    def losses(_: Any, batch: Batch) -> torch.Tensor:
        return projection(batch.inputs["x"]).flatten(1).sum(1)

    return inputs_of(model, unit, batches, losses), outputs_of(model, {"out": unit}, batches, losses)["out"]


@pytest.mark.parametrize("name", PROJECTIONS)
def test_inputs_times_weights_are_outputs(name: str) -> None:
    make, shape = PROJECTIONS[name]
    torch.manual_seed(0)
    projection, value = make().double(), torch.randn(shape, dtype=torch.float64)
    rows = [Item(row, {}) for row in range(len(value))]
    (read,), (given,) = parts(projection, [Batch({"x": value}, rows)])
    weight = projection.weight.movedim(output_dim(projection), -1).flatten(0, -2).float()
    bias = 0 if projection.bias is None else projection.bias.float()
    assert len(read) == len(given) == projection(value).numel() // 5
    close(read.flatten(1) @ weight + bias, given, steps=50)


def test_of_many_positions_the_same_ones_are_read_and_given_and_no_padding() -> None:
    torch.manual_seed(0)
    projection = nn.Linear(2, 5)
    value = torch.randn(4, MOST, 2)
    mask = (torch.arange(MOST)[None] < torch.tensor([MOST, 5, 7, 900])[:, None]).long()
    value[mask == 0] = torch.nan
    rows = [Item(row, {}) for row in range(4)]
    batches = [Batch({"x": value, "attention_mask": mask}, rows), Batch({"x": value[:1]}, rows[:1])]
    read, given = parts(projection, batches)
    assert [len(part) for part in read] == [-(-MOST * 4 // 5), -(-MOST // 5)]
    for inputs, outputs in zip(read, given, strict=True):
        close(projection(inputs.flatten(1)), outputs, steps=50)
