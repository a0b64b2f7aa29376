"""Pruning as strangers come to it: odd arguments, wrappers, parts of models, half precision, adapters, quantised and
computed weights, and what is written then."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lens_models
import numpy
import pytest
import soft_models
import torch
from tolerance import close
from torch import nn

import topwork
from topwork import CheckpointError, Refused, UsageError, alterations
from topwork_lens.layers.description import describe
from topwork_lens.look import Look
from topwork_lens.pruning.rebuild import rebuild

make, first_output = lens_models.make, lens_models.first_output
IDS = torch.tensor([[5, 9, 31, 7, 2], [8, 8, 3, 40, 11]])


def bert() -> Any:
    return make("bert")[0]


def kept(look: Any) -> list[tuple[int, ...]]:
    return [layer.kept for layer in look.layers]


# ---------------------------------------------------------------- what may be asked

WRONG: list[Any] = [
    *(
        [0],
        None,
        {0: "13"},
        {0: ["1"]},
        {0: [1.0]},
        {0: [True, False]},
        {0: None},
        {0: [[1]]},
        {0: torch.tensor([True])},
    ),
    *({None: [1]}, {0.5: [1]}, {True: [1]}, {0: [-1]}, {0: numpy.array([4])}, {3: [0]}, {("encoder", 0, 1): [0]}),
]


@pytest.mark.parametrize("heads", WRONG, ids=str)
def test_what_is_no_choice_of_attention_heads_is_told(heads: Any) -> None:
    model = bert()
    with pytest.raises(UsageError):
        topwork.prune_heads(model, heads)
    with pytest.raises(UsageError), topwork.mask_heads(model, heads):
        pass
    assert alterations(model) == {}


def test_numbers_may_be_numpys_and_torchs() -> None:
    asked = {numpy.int64(0): numpy.array([1, 1]), 1: torch.tensor(2), "encoder.2": range(2)}
    assert list(topwork.prune_heads(bert(), asked).removed.values()) == [[1], [2], [0, 1]]


# ---------------------------------------------------------------- from whatever side a model is looked at


class Around(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner = model

    def forward(self, input_ids: torch.Tensor) -> Any:
        return self.inner(input_ids=input_ids)[0]


DOORS: dict[str, Callable[[Any], Any]] = {
    "itself": lambda model: model,
    "part": lambda model: model.bert,
    "encoder": lambda model: model.bert.encoder,
    "data parallel": nn.DataParallel,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "module of one's own": Around,
}


@pytest.mark.parametrize("first", DOORS)
@pytest.mark.parametrize("second", ["itself", "part", "module of one's own"])
def test_original_numbers_hold_from_every_side(first: str, second: str) -> None:
    model, whole = bert(), bert()

    def check():
        return model(input_ids=IDS)

    topwork.prune_heads(DOORS[first](model), {0: [1]}, check=check)
    again = topwork.prune_heads(DOORS[second](model), {0: [1, 2]}, check=check)
    assert list(again.removed.values()) == [[2]]
    assert kept(topwork.look(model))[0] == (0, 3)
    with topwork.mask_heads(whole, {0: [1, 2]}):
        expected = first_output(whole, {"input_ids": IDS})
    close(first_output(model, {"input_ids": IDS}), expected)


@pytest.mark.parametrize("alter", ["prune", "gate"])
def test_what_was_altered_through_a_part_is_saved(alter: str, tmp_path: Path) -> None:
    model = bert()
    look = topwork.look(model.bert)
    if alter == "prune":
        look.prune_heads({0: [1]})
    else:
        look.keep_masked({0: [1]})
    topwork.save_pretrained(model, tmp_path / "saved")
    again = topwork.from_pretrained(tmp_path / "saved")
    assert torch.equal(first_output(again, {"input_ids": IDS}), first_output(model, {"input_ids": IDS}))
    assert topwork.look(again).table() == topwork.look(model).table()


@pytest.mark.parametrize("alter", ["prune_heads", "keep_masked"])
def test_its_own_save_pretrained_writes_nothing_that_loads_wrong(alter: str, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    model = copy.deepcopy(bert())
    getattr(topwork.look(model), alter)({0: [1]})
    model = copy.deepcopy(model)
    model.save_pretrained(tmp_path / "saved", state_dict=model.state_dict())
    with pytest.raises(OSError, match="no file named"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    again = topwork.from_pretrained(tmp_path / "saved")
    assert torch.equal(first_output(again, {"input_ids": IDS}), first_output(model, {"input_ids": IDS}))
    with pytest.raises(UsageError):
        model.save_pretrained(tmp_path / "other", push_to_hub=True)
    with pytest.raises(UsageError):
        model.save_pretrained(tmp_path / "other", state_dict={})


def test_a_refusal_leaves_save_pretrained_alone(tmp_path: Path) -> None:
    model = bert()
    with pytest.raises(ZeroDivisionError):
        topwork.prune_heads(model, {0: [1]}, check=lambda: 1 / 0)
    model.save_pretrained(tmp_path)
    assert torch.equal(
        first_output(type(model).from_pretrained(tmp_path), {"input_ids": IDS}), first_output(model, {"input_ids": IDS})
    )


def test_what_a_plugin_taught_is_put_back_with_that_plugin_alone() -> None:
    from dataclasses import replace

    def taught(path: str, module: Any, model: Any) -> Any:
        found = describe(path, module, model)
        return None if found is None else replace(found, pattern="")

    plugins = SimpleNamespace(hook=SimpleNamespace(attention_layer=taught))
    model, other = bert(), bert()
    Look(model, plugins).prune_heads({0: [1]})
    section = copy.deepcopy(alterations(model)["lens"])
    rebuild(other, section, plugins)
    assert kept(Look(other, plugins)) == kept(Look(model, plugins))
    with pytest.raises(CheckpointError, match="not loaded"):
        rebuild(bert(), section)


# ---------------------------------------------------------------- half precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_wrong_cut_is_found_in_half_precision(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 eps of bfloat16 are half of the largest output: layers are compared in float32."""
    from topwork_lens.pruning import slicing

    right = slicing.index_of

    def shifted(pieces: Any, heads: Any, groups: Any, size: int) -> list[int]:
        found = right(pieces, heads, groups, size)
        return [(place + 1) % size for place in found] if "value.weight" in pieces[0].parameter else found

    model = bert().to(dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    monkeypatch.setattr(slicing, "index_of", shifted)
    result = topwork.prune_heads(model, {0: [1, 2]})
    assert result.layers[0]["form"] == "soft"
    assert "differ" in result.layers[0]["form_reason"]
    assert all(check.tolerance == 1e-5 and check.proves for check in result.by_layer.values())
    assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {dtype}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items() if "layer.1." in name)


def test_a_norm_over_all_attention_heads_in_bfloat16() -> None:
    model, inputs = soft_models.make("olmo2")
    model = model.to(torch.bfloat16)
    wide = copy.deepcopy(model).float()
    topwork.prune_heads(model, {0: [1], 1: [2, 3]}, check=inputs)
    with topwork.mask_heads(wide, {0: [1], 1: [2, 3]}):
        expected = soft_models.logits(wide, inputs)
    found = soft_models.logits(model.float(), inputs)
    close(found, expected)


# ---------------------------------------------------------------- weights that are not plain


class Adapted(nn.Module):
    """As peft wraps a linear layer."""

    def __init__(self, base_layer: Any) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.down = nn.Linear(base_layer.in_features, 2, bias=False)
        self.up = nn.Linear(2, base_layer.out_features, bias=False)

    @property
    def weight(self) -> torch.Tensor:
        return self.base_layer.weight

    @property
    def bias(self) -> torch.Tensor:
        return self.base_layer.bias

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.base_layer(hidden) + self.up(self.down(hidden))


class Eighth(nn.Module):
    """A weight of 8-bit integers with one scale."""

    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.scale = float(linear.weight.detach().abs().max()) / 127
        self.register_buffer("weight", (linear.weight.detach() / self.scale).round().to(torch.int8))
        self.bias = linear.bias

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(hidden, self.weight.float() * self.scale, self.bias)


class Packed(nn.Module):
    """A weight that is unpacked by a method, as torch's own quantised layers do."""

    def weight(self) -> torch.Tensor:
        return torch.zeros(32, 32)


def masked_by_torch(linear: Any) -> Any:
    from torch.nn.utils import prune

    return prune.random_unstructured(linear, "weight", 0.3)


NOT_PLAIN: dict[str, tuple[Callable[[Any], Any], str]] = {
    "weight norm": (nn.utils.parametrizations.weight_norm, "computed by _WeightNorm"),
    "spectral norm": (nn.utils.parametrizations.spectral_norm, "computed by _SpectralNorm"),
    "pruning mask": (masked_by_torch, "computed before every call"),
    "adapter": (Adapted, "this Adapted belongs to a module inside it"),
    "quantised": (Eighth, "this Eighth is quantised or packed (int8)"),
}


@pytest.mark.parametrize("name", NOT_PLAIN)
@pytest.mark.parametrize("where", ["query", "dense"])
def test_weights_that_cannot_be_cut_are_named_and_can_be_masked(name: str, where: str) -> None:
    change, said = NOT_PLAIN[name]
    model = bert()
    owner = model.bert.encoder.layer[1].attention
    owner = owner.self if where == "query" else owner.output
    setattr(owner, where, change(getattr(owner, where)))
    before = first_output(model, {"input_ids": IDS})
    with pytest.raises(Refused) as refused:
        topwork.prune_heads(model, {0: [1], 1: [2]})
    assert refused.value.reason == "unknown_layout"
    assert said in refused.value.cause and str(refused.value.place).endswith(where)
    assert torch.equal(first_output(model, {"input_ids": IDS}), before)
    assert alterations(model) == {}
    with topwork.mask_heads(model, {1: [2]}):
        assert not torch.equal(first_output(model, {"input_ids": IDS}), before)
    topwork.prune_heads(model, {0: [1]})


def test_a_model_that_is_quantised_throughout_is_told_so() -> None:
    model = bert()
    for layer in model.bert.encoder.layer:
        for name in ("query", "key", "value"):
            setattr(layer.attention.self, name, Packed())
    with pytest.raises(UsageError, match="Packed, no plain linear layer") as told:
        topwork.prune_heads(model, {0: [1]})
    assert str(told.value.place).endswith("layer.0.attention.self.query")


@pytest.mark.parametrize(
    "damage", [{"kept": [0, 2, -1]}, {"kept": [0, 2, 2]}, {"kept": [0, 2, 4]}, {"kept": None}, {"groups_left": [9]}]
)
def test_a_damaged_note_is_not_believed(damage: dict[str, Any]) -> None:
    model = bert()
    topwork.prune_heads(model, {0: [1]})
    section = copy.deepcopy(alterations(model)["lens"])
    section["layers"]["bert.encoder.layer.0.attention"] |= damage
    with pytest.raises(CheckpointError, match="damaged"):
        rebuild(bert(), section)


def test_a_model_without_numbers_is_refused() -> None:
    with pytest.raises(Refused, match="device meta"):
        topwork.prune_heads(bert().to("meta"), {0: [1]})
