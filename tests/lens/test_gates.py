"""Gates: for a block, kept on the model, from a recipe; differentiable; and a masked model trains."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lens_models
import pytest
import torch
from lens_recipes import run
from tolerance import close

import topwork
from topwork import UsageError
from topwork_lens.look import Look

make, without_labels, first_output = lens_models.make, lens_models.without_labels, lens_models.first_output
NAMES = list(lens_models.TRANSFORMERS)
KINDS = ["bert", "vit", "wav2vec2", "bart", "llama"]


def output_weight(model: Any, layer: Any) -> torch.nn.Parameter:
    return model.get_submodule(f"{layer.path}.{layer.output}").weight


@pytest.mark.parametrize("name", NAMES)
def test_gates_for_a_block_scale_what_an_attention_head_puts_out(name: str) -> None:
    """The same as scaling its columns of the output projection; afterwards the model is as it was."""
    model, batch = make(name, torch.float64)
    inputs = without_labels(batch, model)
    look, plain = Look(model), first_output(model, inputs)
    layer = look.layers[0]
    factors = torch.linspace(0.25, 1.75, layer.heads, dtype=torch.float64)
    with look.gates({layer.path: factors}):
        gated = first_output(model, inputs)
    scaled = copy.deepcopy(model)
    weight = output_weight(scaled, layer)
    columns = factors.repeat_interleave(layer.width)
    with torch.no_grad():  # a Conv1D has its inputs in the first dimension
        weight.mul_(columns[:, None] if type(scaled.get_submodule(f"{layer.path}.{layer.output}")).__name__ == "Conv1D"
                    else columns)  # fmt: skip
    close(gated, first_output(scaled, inputs))
    assert (gated - plain).abs().max() > 1e-3
    assert torch.equal(plain, first_output(model, inputs))
    with look.gates({layer.path: [1.0] * layer.heads}):
        assert torch.equal(plain, first_output(model, inputs))


@pytest.mark.parametrize("name", KINDS)
def test_gradients_flow_into_gates(name: str) -> None:
    """dL/dgate by autograd: the score of one row is its absolute value; parameters get theirs as well."""
    model, batch = make(name, torch.float64)
    one = {key: value[:1] for key, value in batch.items()}
    look = Look(model)
    leaves = {layer.path: torch.ones(layer.heads, dtype=torch.float64, requires_grad=True) for layer in look.layers}
    with look.gates(leaves):
        model(**one).loss.backward()
    for layer in look.importance([one], normalise="none").layers:
        gradient = leaves[layer.path].grad
        assert gradient is not None
        expected = torch.tensor(layer.scores, dtype=torch.float64)
        close(gradient.abs(), expected)
    assert all(parameter.grad is not None for parameter in model.get_submodule(look.layers[0].path).parameters())
    # a gate for each item
    rows = torch.ones(4, look.layers[0].heads, dtype=torch.float64, requires_grad=True)
    with look.gates({look.layers[0].path: rows}):
        model(**batch).loss.backward()
    assert rows.grad is not None and len({tuple(row.tolist()) for row in rows.grad}) == 4


def test_gates_go_by_original_numbers_and_survive_an_exception() -> None:
    model, batch = make("bert")
    inputs = without_labels(batch, model)
    look = Look(model)
    with look.gates({0: [0.0, 0.5, 2.0, 1.0]}):
        expected = first_output(model, inputs)
    look.prune_heads({0: [0]}, check=inputs)
    with look.gates({0: [9.0, 0.5, 2.0, 1.0]}):
        close(first_output(model, inputs), expected)
    plain = first_output(model, inputs)
    with pytest.raises(ZeroDivisionError), look.gates({1: [0.0] * 4}):
        raise ZeroDivisionError
    assert torch.equal(plain, first_output(model, inputs))
    for wrong in ([1.0] * 3, torch.tensor(1.0), torch.ones(4, 3)):
        with pytest.raises(UsageError, match="for 4 attention heads"), look.gates({0: wrong}):
            pass


@pytest.mark.parametrize("name", KINDS)
def test_a_masked_model_trains(name: str) -> None:
    """What is masked gets no gradient and does not move; everything else learns; it is masked still."""
    model, batch = make(name)
    inputs = without_labels(batch, model)
    look = Look(model)
    layer = look.layers[0]
    look.keep_masked({layer.path: [1, 3]})
    weight = output_weight(model, layer)
    before = weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    torch.manual_seed(0)
    losses: list[float] = []  # without dropout, which would hide what is learned
    while len(losses) < 2 or (losses[-1] > 0.9 * losses[0] and len(losses) < 12):
        with torch.no_grad():
            losses.append(float(model.eval()(**batch).loss))
        model.train()
        for _ in range(15):
            model(**batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    assert losses[-1] <= 0.9 * losses[0], losses
    model.eval()
    moved = (weight.detach() - before).abs().unflatten(1, (layer.heads, layer.width)).amax((0, 2))
    assert (moved > 0).tolist() == [True, False, True, False]
    gated = first_output(model, inputs)
    look.set_gates({layer.path: [1.0] * layer.heads})
    with look.mask_heads({layer.path: [1, 3]}):
        close(first_output(model, inputs), gated)
    assert (first_output(model, inputs) - gated).abs().max() > 1e-4


def test_from_a_recipe(tmp_path: Path) -> None:
    """Masked, weakened, trained, saved, loaded: the gates are there, and prune_heads cuts what they have left."""
    stages = [
        {"mask_heads": {"heads": {0: [1, 2]}}},
        {"mask_heads": {"heads": {1: [0]}, "factor": 0.5}},
        {"train": {"steps": 3, "batch_size": 4}},
        "save",
        {"prune_heads": {"heads": {0: [1, 2]}}},
    ]
    done = run(tmp_path, stages)
    masked, weaker = done.results[0]["result"], done.results[1]["result"]
    assert (masked["heads_after"], weaker["heads_after"]) == (6, 6)
    kept = [[1.0, 0.0, 0.0, 1.0], [0.5, 1.0, 1.0, 1.0]]
    loaded = topwork.load(done.model_folder)
    assert [line["gates"] for line in loaded.look().table()] == kept
    batch = next(iter(done.loss_batches("evaluate")))
    with torch.no_grad():
        expected = loaded.task.row_losses(loaded.model, batch)
        close(done.task.row_losses(done.model, batch), expected)
    loaded.look().set_gates({0: [1.0] * 4, 1: [1.0] * 4})
    with torch.no_grad(), loaded.look().gates({0: kept[0], 1: kept[1]}):
        close(loaded.task.row_losses(loaded.model, batch), expected)
