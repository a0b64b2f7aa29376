"""Neurons are found by runs of parts, with the answers that whole runs give; what is no neuron says why."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import topwork
from topwork_lens.blocks.partial_runs import PartialRuns
from topwork_lens.pruning.equivalence import Replay


class Residual(nn.Module):
    """A layer of a deep network of convolutions; counts its runs."""

    runs = 0

    def __init__(self, size: int, neurons: int) -> None:
        super().__init__()
        self.widen, self.narrow = nn.Conv2d(size, neurons, 1), nn.Conv2d(neurons, size, 1)

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        Residual.runs += 1
        return state + self.narrow(torch.relu(self.widen(state)))


class Deep(nn.Module):
    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Residual(4, 6 + index % 2) for index in range(layers))
        self.head = nn.Linear(4, 3)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            pixel_values = layer(pixel_values)
        return self.head(pixel_values.mean((2, 3)))


def test_finding_the_neurons_of_a_deep_network_computes_few_of_its_layers() -> None:
    torch.manual_seed(0)
    model, count = Deep(24).eval(), 24
    inputs = {"pixel_values": torch.randn(2, 4, 5, 5)}
    Residual.runs = 0
    blocks = topwork.look(model).find_blocks(inputs)
    assert [block.path for block in blocks] == [f"layers.{index}.narrow" for index in range(count)]
    # Whole runs for each pair of projections would be some 5 x 24 x 24 layers.
    assert Residual.runs < 20 * count


@pytest.mark.parametrize("near", [False, True])
def test_a_partial_run_gives_what_a_whole_run_gives(near: bool) -> None:
    torch.manual_seed(0)
    model = Deep(6).eval()
    batch = torch.randn(2, 4, 5, 5)
    runs = PartialRuns(Replay(model, (batch,), {}))
    consumer, changed = model.layers[4].narrow, model.layers[3].widen
    with torch.no_grad():
        changed.weight.add_(1.0)
        state = batch
        for layer in model.layers[:4]:
            state = layer(state)
        neurons = torch.relu(model.layers[4].widen(state))
        neurons_masked = neurons.index_fill(1, torch.tensor([0, 2]), 0)
        part = state + consumer(neurons_masked)
        whole = model.head(model.layers[5](part).mean((2, 3)))
    assert torch.equal(runs.inputs(consumer, [changed])[0], neurons)
    (output,) = runs.outputs(consumer, [0, 2], [changed], near=near)
    assert torch.equal(output, part if near else whole)
    assert "forward" not in vars(model.layers[0])


class Snake(nn.Module):
    """An activation with a parameter for each channel."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.rand(1, size, 1) + 0.5)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return value + torch.sin(self.alpha * value) ** 2 / self.alpha


class Sound(nn.Module):
    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.first, self.middle, self.second = nn.Conv1d(3, 7, 3), middle, nn.Conv1d(7, 5, 1)

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        return self.second(self.middle(self.first(input_values)))


def test_parameters_between_may_have_their_neurons_along_any_dimension() -> None:
    torch.manual_seed(0)
    model, inputs = Sound(Snake(7)).eval(), {"input_values": torch.randn(2, 3, 9)}
    look = topwork.look(model)
    (block,) = look.find_blocks(inputs)
    assert block.between == ("middle",)
    with torch.no_grad(), look.mask_neurons({0: [1, 4]}, check=inputs):
        masked = model(**inputs)
    look.prune(neurons={0: [1, 4]}, check=inputs)
    assert model.middle.alpha.shape == (1, 5, 1)
    torch.testing.assert_close(model(**inputs), masked, rtol=1e-5, atol=1e-5)


class Quantised(nn.Module):
    """Channels 3 -> 7 -> 5, rounded before the reader; or two readers, what they make is rounded."""

    def __init__(self, readers: int) -> None:
        super().__init__()
        self.first = nn.Linear(3, 7)
        self.readers = nn.ModuleList(nn.Linear(7, 5) for _ in range(readers))

    def forward(self, x: torch.Tensor) -> Any:
        neurons = self.first(x)
        if len(self.readers) == 1:
            return self.readers[0](torch.round(neurons * 1e-4))
        return sum(torch.round(reader(torch.relu(neurons)) * 1e-4) for reader in self.readers)


@pytest.mark.parametrize(("readers", "why"), [(1, "quantiser"), (2, "also read by readers.")])
def test_what_is_no_neuron_of_one_reader_says_why(readers: int, why: str) -> None:
    torch.manual_seed(0)
    model, inputs = Quantised(readers).eval(), {"x": torch.randn(4, 3)}
    blocks = topwork.look(model).find_blocks(inputs)
    assert len(blocks) == readers
    assert all(why in block.why and not block.prunable for block in blocks)
