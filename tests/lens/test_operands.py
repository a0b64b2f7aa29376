"""Queries, keys, values, scores and weights: against what the library's own eager function is given, and autograd."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable
from typing import Any

import lens_models
import pytest
import torch
from tolerance import STEPS, close

from architectures import build
from topwork import Refused, UsageError
from topwork_lens.layers.torch_mha import is_folded
from topwork_lens.look import Look

#: models whose attention runs through the interface, by the module of their eager function
INTERFACE = {"bert": "bert", "llama": "llama", "gpt2": "gpt2", "vit": "vit", "modernbert": "modernbert"}
OPERANDS = ("query", "key", "value", "scores", "weights")
SAMPLE = ("bloom", "deberta", "mpnet", "swinv2", "timm/beit_base_patch16_224", "falcon", "wavlm", "gpt_neo")


def prepared(name: str) -> tuple[Any, dict[str, torch.Tensor]]:
    model, batch = lens_models.make(name)
    return model, lens_models.without_labels(batch, model)


class Recorded:
    """What the library's eager function is given, and the scores that this test computes of it."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[dict[str, torch.Tensor]] = []
        module = importlib.import_module(f"transformers.models.{name}.modeling_{name}")
        monkeypatch.setattr(module, "eager_attention_forward", self._function())

    def _function(self) -> Callable[..., Any]:
        def eager(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any) -> Any:
            times = query.shape[1] // key.shape[1]
            scale = options.get("scaling") or getattr(module, "scaling", None) or query.shape[-1] ** -0.5
            scores = query @ key.repeat_interleave(times, 1).transpose(-1, -2) * scale
            if attention_mask is not None:
                scores = scores + attention_mask
            weights = scores.softmax(-1)
            self.calls.append({"query": query, "key": key, "value": value, "scores": scores, "weights": weights})
            return (weights @ value.repeat_interleave(times, 1)).transpose(1, 2), weights

        return eager


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", INTERFACE)
def test_operands_and_gradients_are_those_of_an_eager_function(
    name: str, implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, inputs = prepared(name)
    model.set_attn_implementation(implementation)
    names = [what for what in OPERANDS if what != "weights"]
    look = Look(model)
    with look.capture(*names, *(f"{what}_gradient" for what in names)) as seen:
        loss = model(**inputs).logits.square().mean()
        loss.backward()
    model.set_attn_implementation("eager")
    recorded = Recorded(INTERFACE[name], monkeypatch)
    loss = model(**inputs).logits.square().mean()
    assert len(recorded.calls) == len(look.layers)
    tensors = [call[what] for call in recorded.calls for what in names]
    gradients = iter(torch.autograd.grad(loss, tensors))
    visible = inputs.get("attention_mask", torch.ones(4, seen["scores", 0].shape[-2])).bool()
    for index, call in enumerate(recorded.calls):
        for what in names:
            mine, gradient = seen[what, index], next(gradients)
            finite = call[what] > -1e9
            if what == "scores":  # a position that sees nothing is answered arbitrarily
                finite = finite & visible[:, None, :, None]
            close(mine[finite], call[what][finite])
            if what != "scores" or name != "modernbert":
                close(seen[f"{what}_gradient", index][finite], gradient[finite], scale=float(gradient.abs().max()))


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2", "bart", "deberta", "swin", "timm_vit"])
def test_a_value_of_zero_is_a_mask_and_a_query_of_zero_attends_alike_everywhere(name: str) -> None:
    model, inputs = prepared(name)
    look = Look(model)
    path = look.layers[1].path
    with look.mask_heads({path: [1]}):
        masked = lens_models.first_output(model, inputs)
    with look.patch("weights", 0.0, heads={path: [1]}):
        close(lens_models.first_output(model, inputs), masked)
    if look[path].groups == look[path].heads:
        with look.patch("value", 0.0, heads={path: [1]}):
            close(lens_models.first_output(model, inputs), masked)
    if name not in ("bert", "timm_vit"):
        return  # a position bias, or a causal mask
    with torch.no_grad(), look.patch("query", 0.0, layers=path), look.capture("entropy", layers=[path]) as seen:
        lens_models.first_output(model, inputs)
    keys = inputs["attention_mask"].sum(1) if name == "bert" else torch.full((4,), seen["entropy", path].shape[-1])
    expected = keys.double().log()[:, None, None].expand(seen["entropy", path].shape)
    close(seen["entropy", path], expected, dtype=torch.float32)


@pytest.mark.parametrize("name", ["bert", "llama", "timm_vit", "deberta", "wavlm"])
@pytest.mark.parametrize("inside", [True, False])
def test_captures_see_replaced_weights_wherever_their_block_was_entered(name: str, inside: bool) -> None:
    model, inputs = prepared(name)
    look = Look(model)
    keys = 2
    patch = look.patch("weights", lambda value: torch.zeros_like(value).index_fill(-1, torch.tensor([keys]), 1.0))
    capture = look.capture("weights", "context", "value")
    first, second = (patch, capture) if inside else (capture, patch)
    with torch.no_grad(), first as outer, second as inner:
        seen: Any = inner if inside else outer
        lens_models.first_output(model, inputs)
    for layer in look.layers:
        assert bool((seen["weights", layer.path][..., keys] == 1).all())
        assert float(seen["weights", layer.path].sum(-1).mean()) == 1.0
        value = seen["value", layer.path]
        value = value.repeat_interleave(layer.heads // value.shape[1], 1)[:, :, keys]
        close(seen["context", layer.path], value[:, None].expand_as(seen["context", layer.path]))


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("what", ["query", "value"])
@pytest.mark.parametrize("name", ["bert", "timm_vit", "deberta"])
def test_captured_statistics_follow_replaced_operands(name: str, what: str, inside: bool) -> None:
    model, inputs = prepared(name)
    look = Look(model)
    patch = look.patch(what, lambda value: 2 * value)
    capture = look.capture("weights", "scores", "query", "key", "value", "context")
    first, second = (patch, capture) if inside else (capture, patch)
    with torch.no_grad(), first as outer, second as inner:
        seen: Any = inner if inside else outer
        lens_models.first_output(model, inputs)
    with torch.no_grad(), look.capture(what) as plain:
        lens_models.first_output(model, inputs)
    close(seen[what, 0], 2 * plain[what, 0])
    for layer in look.layers:
        close(seen["scores", layer.path].softmax(-1), seen["weights", layer.path])
        close((seen["weights", layer.path] @ seen["value", layer.path]).transpose(1, 2), seen["context", layer.path])


def test_operands_stack_and_choose_heads_and_go_to_disk(tmp_path: Any) -> None:
    model, inputs = prepared("llama")
    look = Look(model)
    with torch.no_grad(), look.capture("query", "key", "scores", heads={0: [1], 2: [3]}, folder=tmp_path) as seen:
        model(**inputs)
    assert seen["query", 0].shape == (4, 1, 9, 8)
    assert seen["key", 0].shape == (4, 2, 9, 8)  # keys belong to groups
    assert seen.stack("scores").shape == (2, 4, 1, 9, 9)
    with pytest.raises(UsageError, match="share 2 groups"), look.patch("key", 0.0, heads=[1]):
        pass


def test_uniform_attention_by_patching_is_that_of_the_formula() -> None:
    model, inputs = prepared("bert")
    look = Look(model)
    with torch.no_grad(), look.capture("value", "context", layers=[0]) as plain:
        model(**inputs)
    with torch.no_grad(), look.patch("weights", 1 / 9, heads={0: [2]}), look.capture("context", layers=[0]) as seen:
        model(**inputs)
    mean = plain["value", 0][:, 2].mean(1)
    close(seen["context", 0][:, :, 2], mean[:, None].expand(-1, 9, -1))

    close(seen["context", 0][:, :, [0, 1, 3]], plain["context", 0][:, :, [0, 1, 3]])


def test_weights_under_dropout_are_not_replaced() -> None:
    model, inputs = prepared("bert")
    model.train()
    with pytest.raises(Refused, match="dropout"), Look(model).patch("weights", lambda value: value):
        model(**inputs)


def test_points_have_no_queries() -> None:
    model, inputs = build.tiny("deformable_detr")
    look = Look(model)
    with torch.no_grad(), look.capture("query", layers=[layer.path for layer in look.layers]) as seen:
        model(**copy.deepcopy(dict(inputs)))
    points = next(layer.path for layer in look.layers if layer.form == "deformable")
    with pytest.raises(Refused, match="attends to points"):
        seen["query", points]
    assert len(seen("query")) == sum(layer.form != "deformable" for layer in look.layers)


def explained(name: str) -> None:
    """Operands of one architecture explain each other, and giving them back changes nothing."""
    model, inputs = build.tiny(name)
    look = Look(model)

    def run() -> Any:
        return model(**copy.deepcopy(dict(inputs)))

    with torch.no_grad():
        plain = run()
    with torch.no_grad(), look.capture(*OPERANDS) as seen:
        run()
    assert seen.values["scores"]
    folded = any(is_folded(module) for module in model.modules())
    for path in seen.values["scores"]:
        calls = zip(*(seen.calls(what, path) for what in OPERANDS), strict=True)
        for query, key, value, scores, weights in calls:
            close(scores.softmax(-1), weights)
            assert query.shape[:3] == scores.shape[:3]
            assert key.shape[-2] == value.shape[-2] == scores.shape[-1]
    for what in OPERANDS:
        with torch.no_grad(), look.patch(what, lambda value: value):
            output = run()
        pairs = [(output[key], plain[key]) for key in plain] if isinstance(plain, dict) else [(output, plain)]
        for after, before in pairs:
            if isinstance(before, torch.Tensor) and before.is_floating_point():
                close(after, before, steps=STEPS if folded else 0, equal_nan=True)


@pytest.mark.parametrize("name", SAMPLE)
def test_operands_explain_each_other_in_a_sample_of_architectures(name: str) -> None:
    explained(name)


@pytest.mark.architectures
@pytest.mark.parametrize("name", [name for name in build.sixty() if name not in (*SAMPLE, "convbert")])
def test_operands_explain_each_other_in_every_architecture(name: str) -> None:
    explained(name)


def test_a_layer_with_another_first_product_is_refused() -> None:
    model, inputs = build.tiny("convbert")
    with pytest.raises(Refused, match="first product"), torch.no_grad(), Look(model).capture("query", "scores"):
        model(**copy.deepcopy(dict(inputs)))
