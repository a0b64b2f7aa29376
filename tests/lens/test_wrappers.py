"""Masks and gates under torch.compile, gradient checkpointing, inference mode, and on layers that do not run."""

from __future__ import annotations

from typing import Any

import lens_models
import pytest
import torch
from tolerance import close
from torch.utils.checkpoint import checkpoint

from topwork import Refused, UsageError
from topwork_lens.look import Look

NAMES = ("bert", "llama", "vit", "bart")


def logits(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs)[0]


# ------------------------------------------------------------------ compiled models


@pytest.mark.parametrize("form", ["wrapped", "in place"])
@pytest.mark.parametrize("name", ["bert", "vit"])
def test_masks_of_a_model_that_was_compiled_and_ran(name: str, form: str) -> None:
    """Kept, lifted, changed and for a block: each is in force in the compiled model, and none afterwards."""
    model, batch = lens_models.make(name)
    inputs = lens_models.without_labels(batch, model)
    compiled: Any = torch.compile(model, backend="eager") if form == "wrapped" else model
    if form == "in place":
        model.compile(backend="eager")
    plain = logits(compiled, inputs)
    look = Look(compiled)
    with look.mask_heads({0: [1, 2]}):
        masked = logits(compiled, inputs)
    close(logits(compiled, inputs), plain)
    assert (masked - plain).abs().max() > 1e-3
    look.keep_masked({0: [1, 2]})
    close(logits(compiled, inputs), masked)
    look.set_gates({0: [1.0] * 4})
    close(logits(compiled, inputs), plain)


def test_gradients_of_gates_of_a_model_that_was_compiled_and_ran() -> None:
    model, batch = lens_models.make("bert")
    gradients = []
    for wrapped in (model, torch.compile(model, backend="eager")):
        wrapped(**batch)
        gates = torch.ones(4, requires_grad=True)
        with Look(wrapped).gates({0: gates}):
            wrapped(**batch).loss.backward()
        gradients.append(gates.grad)
    close(gradients[1], gradients[0])


# ------------------------------------------------------------------ gradient checkpointing


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_gates_with_gradient_checkpointing(name: str, reentrant: bool) -> None:
    """Backward inside the block is exact; without it the block is refused at its end, whatever is called later."""
    model, batch = lens_models.make(name, torch.float64)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.train()
    model.config.attention_dropout = 0.0
    look = Look(model)
    layer = look.layers[1]
    expected = torch.ones(layer.heads, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(0)
    with look.gates({layer.path: expected}):
        model(**batch).loss.backward()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads() if reentrant and name != "vit" else None
    gates = torch.ones(layer.heads, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(0)
    with look.gates({layer.path: gates}):
        model(**batch).loss.backward()
    close(gates.grad, expected.grad)
    with pytest.raises(Refused, match="call backward inside the block") as refused, look.gates({layer.path: gates}):
        model(**batch)
    assert refused.value.reason == "no_gradient"
    with torch.no_grad(), look.mask_heads({layer.path: [0]}):
        model(**batch)


class Nested(torch.nn.Module):
    """Checkpoints a model whose own layers are checkpointed."""

    def __init__(self, model: Any, reentrant: bool) -> None:
        super().__init__()
        self.model, self.reentrant = model, reentrant

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return checkpoint(lambda image: self.model(image).logits, pixel_values, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", ["vit", "swin"])
def test_gates_with_checkpointing_inside_of_checkpointing(name: str, reentrant: bool) -> None:
    """As in Swin, whose stages and layers are both checkpointed."""
    model, batch = lens_models.make(name, torch.float64)
    image = batch["pixel_values"].requires_grad_()
    gradients = []
    for nested in (False, True):
        if nested:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.train()
        for module in model.modules():
            module.training = nested and "Drop" not in type(module).__name__
        run = Nested(model, reentrant) if nested else model
        layer = Look(run).layers[0]
        gates = torch.ones(layer.heads, dtype=torch.float64, requires_grad=True)
        with Look(run).gates({layer.path: gates}):
            output = run(image)
            (output if nested else output.logits).square().sum().backward()
        gradients.append(gates.grad)
    close(gradients[1], gradients[0])


# ------------------------------------------------------------------ inference mode


@pytest.mark.parametrize("name", ["bert", "llama", "t5", "deberta_v2"])
def test_a_model_that_was_pruned_in_inference_mode_can_be_trained(name: str) -> None:
    model, batch = lens_models.make(name)
    look = Look(model)
    with torch.inference_mode():
        look.prune_heads({look.layers[0].path: [1]}, check=lens_models.without_labels(batch, model))
        look.keep_masked({look.layers[-1].path: [0]})
    assert not any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers()))
    model.train()(**batch).loss.backward()
    assert any(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_importance_in_inference_mode_is_that_outside(name: str) -> None:
    model, batch = lens_models.make(name)
    expected = Look(model).importance([batch])
    with torch.inference_mode():
        copied = {key: value.clone() for key, value in batch.items()}
        found = Look(model).importance([copied])
    for one, other in zip(found.layers, expected.layers):
        close(torch.tensor(one.scores), torch.tensor(other.scores))


# ------------------------------------------------------------------ layers that do not run


class Towers(torch.nn.Module):
    """Two towers, of which a batch uses one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = lens_models.make("bert")[0], lens_models.make("bert")[0]

    def forward(self, tower: str, **inputs: torch.Tensor) -> torch.Tensor:
        return getattr(self, tower)(**inputs)[0]


def test_a_mask_on_a_tower_that_does_not_run_is_noted() -> None:
    model = Towers()
    inputs = lens_models.without_labels(lens_models.make("bert")[1], model.first)
    look = Look(model)
    paths = [layer.path for layer in look.layers]
    first, second = paths[0], paths[-1]
    with torch.no_grad(), look.mask_heads({first: [0]}):
        masked = model("first", **inputs)
    with (
        torch.no_grad(),
        pytest.warns(UserWarning, match=f"{second} did not run"),
        look.mask_heads({first: [0], second: [1]}),
    ):
        close(model("first", **inputs), masked)


# ------------------------------------------------------------------ shapes of gates


@pytest.mark.parametrize(
    ("gates", "cause"),
    [
        (torch.ones(2, 4), "gates for 2 items, and the batch has 4"),
        (torch.ones(3), "3 gates for 4 attention heads"),
        (torch.ones(4, 5, 4), r"gates for \(5,\) positions"),
        (torch.ones(1, 1, 1, 4), "gates of shape"),
        ([1.0, float("nan"), 1.0, 1.0], "no finite number"),
        (["a", 1, 1, 1], "gates must be numbers"),
        (torch.ones(4, dtype=torch.complex64), "gates"),
    ],
    ids=str,
)
def test_gates_of_another_shape_are_refused(gates: Any, cause: str) -> None:
    model, batch = lens_models.make("bert")
    inputs = lens_models.without_labels(batch, model)
    with torch.no_grad(), pytest.raises(UsageError, match=cause), Look(model).gates({0: gates}):
        model(**inputs)


def test_gates_by_item_are_those_of_each_item_alone() -> None:
    model, batch = lens_models.make("bert")
    inputs = lens_models.without_labels(batch, model)
    gates = torch.rand(4, 4)
    look = Look(model)
    with torch.no_grad(), look.gates({0: gates}):
        together = model(**inputs).logits
    for item in range(4):
        with torch.no_grad(), look.gates({0: gates[item]}):
            close(model(**inputs).logits[item], together[item])
