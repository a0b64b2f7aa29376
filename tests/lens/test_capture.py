"""Capture: equal to the library's own eager weights where it gives them, elsewhere to weights @ values; and after the
block everything is as it was."""

from __future__ import annotations

import copy
import math
from typing import Any

import lens_models
import pytest
import torch
from tolerance import close

from topwork import Refused, UsageError
from topwork_lens.capture import capture
from topwork_lens.capture import fast_reductions as quick
from topwork_lens.capture.reductions import Reducer
from topwork_lens.look import Look

make, without_labels, first_output = lens_models.make, lens_models.without_labels, lens_models.first_output


def library_weights(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """What transformers answers itself under its eager implementation, in the order encoder, decoder, cross."""
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        output = eager(**inputs, output_attentions=True)
    names = ("attentions", "encoder_attentions", "decoder_attentions", "cross_attentions")
    return [weights for name in names for weights in (getattr(output, name, None) or ())]


def in_library_order(look: Look) -> list[str]:
    order = {"encoder": 0, "decoder": 1, "cross": 2}
    lines = sorted(look.table(), key=lambda line: (order[line["group"]], line["number"]))
    return [line["path"] for line in lines]


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", list(lens_models.TRANSFORMERS))
def test_weights_are_the_library_s_own(name: str, implementation: str) -> None:
    model, batch = make(name)
    model.set_attn_implementation(implementation)
    inputs = without_labels(batch, model)
    expected = library_weights(model, inputs)
    look = Look(model)
    with torch.no_grad(), look.capture("weights", block=4) as seen:
        output = model(**inputs)
    assert torch.equal(first_output(model, inputs), output.logits)
    paths = in_library_order(look)
    if name == "albert":
        for one, other in zip(seen.calls("weights", paths[0]), expected, strict=True):
            close(one, other)
        return
    if name == "swin":
        # The library hands on the last block's weights of each stage only.
        paths = paths[1::2]
    assert len(paths) == len(expected)
    for path, weights in zip(paths, expected, strict=True):
        mine, valid = seen["weights", path], seen.calls("valid", path)[0]
        good = valid[:, None, :, None].expand_as(mine)
        close(mine[good], weights[good])


@pytest.mark.parametrize("name", ["bert", "distilbert", "modernbert", "bart", "vit", "swin", "wav2vec2", "timm_vit"])
def test_weights_times_values_is_the_context(name: str) -> None:
    model, batch = make(name, torch.float64)
    look = Look(model)
    values: dict[str, torch.Tensor] = {}
    handles = []
    for layer in look.layers:
        module = model.get_submodule(layer.path)
        for part in ("value", "self.value", "v_lin", "v_proj", "qkv", "Wqkv"):
            try:
                projection = module.get_submodule(part)
            except AttributeError:
                continue
            third = 2 if part in ("qkv", "Wqkv") else 0

            def keep(_: object, __: object, out: torch.Tensor, path: str = layer.path, third: int = third) -> None:
                values[path] = out.chunk(3, -1)[third] if third else out

            handles.append(projection.register_forward_hook(keep))
            break
    with torch.no_grad(), look.capture("weights", "context", block=3) as seen:
        model(**without_labels(batch, model))
    for handle in handles:
        handle.remove()
    assert len(values) == len(look.layers)
    for layer in look.layers:
        weights = seen["weights", layer.path]
        value = values[layer.path].unflatten(-1, (len(layer.kept or ()), -1)).transpose(1, 2)
        context = seen["context", layer.path]
        context = context.flatten(0, -4) if context.dim() > 4 else context
        good = seen.calls("valid", layer.path)[0]
        # Some of the library's eager functions take their softmax in float32 whatever the model's precision.
        close((weights @ value).transpose(1, 2)[good], context[good], dtype=torch.float32)


@pytest.mark.parametrize("name", ["bert", "vit", "bart", "swin", "timm_vit", "llama"])
def test_reductions_are_those_of_the_full_weights(name: str) -> None:
    model, batch = make(name)
    inputs = without_labels(batch, model)
    look = Look(model)
    what = ("entropy", "information", "distance", "mass", "argmax", "max", "mean", "weights")
    with torch.no_grad(), look.capture(*what, keys=[0, 2], block=5) as seen:
        model(**inputs)
    for layer in look.layers:
        weights, valid = seen["weights", layer.path], seen.calls("valid", layer.path)[0]
        entropy = -(weights * weights.clamp(min=1e-38).log()).sum(-1)
        close(seen["entropy", layer.path], entropy)
        assert (seen["entropy", layer.path] >= 0).all()
        assert (seen["information", layer.path] >= -1e-5).all()
        close(seen["mass", layer.path], weights[..., 0] + weights[..., 2])
        assert torch.equal(seen["argmax", layer.path], weights.argmax(-1))
        assert torch.equal(seen["max", layer.path], weights.amax(-1))
        queries, keys = weights.shape[-2:]
        between = (torch.arange(queries)[:, None] - torch.arange(keys)[None]).abs()
        if layer.kind == "cross":
            with pytest.raises(Refused, match="two sequences"):
                seen["distance", layer.path]
        else:
            distance = (weights * between).sum(-1)
            close(seen["distance", layer.path], distance)
        good = valid[:, None, :, None]
        mean = (weights * good).sum(2) / good.sum(2)
        close(seen["mean", layer.path], mean)


def gemma2() -> Any:
    """Its scores are bent by a tanh: not the usual formula."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = Gemma2Config(**sizes, head_dim=8, intermediate_size=48, vocab_size=50, attn_implementation="eager")
    config.attn_logit_softcapping, config.initializer_range = 0.5, 0.5
    torch.manual_seed(0)
    return Gemma2ForCausalLM(config).eval()


@pytest.mark.parametrize("name", ["bert", "llama", "modernbert", "bart", "swin", "timm_vit", "t5", "gemma2"])
@pytest.mark.parametrize("somewhere", [True, False])
def test_reductions_of_long_inputs_are_those_of_the_full_weights(
    monkeypatch: pytest.MonkeyPatch, name: str, somewhere: bool
) -> None:
    """By the usual formula where a module computes that, else by its own function."""
    monkeypatch.setattr(quick, "LEAST", 1)
    monkeypatch.setattr(quick, "CACHED", 40)
    answered: list[Any] = []
    monkeypatch.setattr(capture, "reduced", lambda *given: answered.append(quick.reduced(*given)) or answered[-1])
    model, batch = make("llama" if name == "gemma2" else name)
    inputs = without_labels(batch, model)
    model = gemma2() if name == "gemma2" else model
    look = Look(model)
    with torch.no_grad(), look.capture("weights") as full:
        model(**inputs)
    assert set(answered) == {None}, "full weights come from the module's own function"
    answered.clear()
    places = torch.randn(full["weights", look.layers[0].path].shape[-1], 2, dtype=torch.float64)
    places[1] = float("nan")
    what = ("entropy", "information", "distance", "mass", "argmax", "max")
    places = None if somewhere else places
    with torch.no_grad(), look.capture(*what, keys=[0, -2, 0], places=places) as seen:
        model(**inputs)
    assert {one is None for one in answered} == {name in ("t5", "gemma2")}
    for layer in look.layers:
        weights, good = full["weights", layer.path], full.calls("valid", layer.path)[0]
        allowed = (weights > 1e-35).any(1, keepdim=True)
        keys = torch.zeros(1, weights.shape[-1], dtype=torch.bool)
        keys[0, [0, -2]] = True
        chosen = Reducer(what, chosen=keys, places=places)
        for one, expected in chosen.block(weights, allowed, 0, weights.shape).items():
            if one == "distance" and layer.kind == "cross":
                continue
            found = seen[one, layer.path].transpose(1, 2)[good]
            nats = math.log(weights.shape[-1]) if one in ("entropy", "information") else None
            close(found, expected.transpose(1, 2)[good], scale=nats, equal_nan=True)


def test_uniform_attention_has_entropy_ln_n_and_padding_changes_nothing() -> None:
    model, batch = make("bert")
    inputs = without_labels(batch, model)
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.attention.self.query.weight.zero_()
            layer.attention.self.query.bias.zero_()
    look = Look(model)
    with torch.no_grad(), look.capture("entropy", "information") as seen:
        model(**inputs)
    for item in range(4):
        length = int(inputs["attention_mask"][item].sum())
        entropy = seen["entropy", 1][item, :, :length]
        close(entropy, torch.full_like(entropy, math.log(length)))
    information = seen["information", 1]
    close(information, torch.zeros_like(information), scale=math.log(information.shape[-1]))


def test_padding_does_not_change_what_is_seen() -> None:
    model, batch = make("bert")
    inputs = without_labels(batch, model)
    look = Look(model)
    with torch.no_grad(), look.capture("entropy", "distance") as padded:
        model(**inputs)
    length = int(inputs["attention_mask"][3].sum())
    alone = {key: value[3:, :length] for key, value in inputs.items()}
    with torch.no_grad(), look.capture("entropy", "distance") as seen:
        model(**alone)
    for what in ("entropy", "distance"):
        one, other = padded[what, 2][3:, :, :length], seen[what, 2]
        close(one, other)


def test_gradients_of_contexts_and_weights() -> None:
    """sum(weights * dL/dweights) is the gradient of a gate, and so is sum(context * dL/dcontext)."""
    model, batch = make("bert", torch.float64)
    look = Look(model)
    with look.capture("context", "context_gradient", "weights", "weights_gradient") as seen:
        model(**batch).loss.backward()
    for number in range(3):
        by_weights = (seen["weights", number] * seen["weights_gradient", number]).sum((2, 3))
        by_context = (seen["context", number] * seen["context_gradient", number]).sum((1, 3))
        assert by_context.abs().max() > 0
        close(by_weights, by_context)


def test_some_layers_and_attention_heads_by_original_numbers() -> None:
    model, batch = make("bert")
    inputs = without_labels(batch, model)
    look = Look(model)
    look.prune_heads({0: [1]}, check=inputs)
    with torch.no_grad(), look.capture("weights", "context", layers=[0], heads=[2]) as seen:
        model(**inputs)
    with torch.no_grad(), look.capture("weights", "context") as everything:
        model(**inputs)
    assert torch.equal(seen["weights", 0], everything["weights", 0][:, 1:2])
    assert torch.equal(seen["context", 0], everything["context", 0][:, :, 1:2])
    with pytest.raises(UsageError, match="unknown attention layer"):
        seen["weights", 1]
    with torch.no_grad(), look.capture("weights", heads={0: [2], 1: [0, 3]}) as some:
        model(**inputs)
    assert torch.equal(some["weights", 0], seen["weights", 0])
    assert torch.equal(some["weights", 1], everything["weights", 1][:, [0, 3]])
    # Numbers are those of the model, whichever layers are watched.
    with torch.no_grad(), look.capture("weights", layers=[1]) as one:
        model(**inputs)
    assert torch.equal(one["weights", 1], everything["weights", 1])
    with pytest.raises(UsageError, match="unknown attention layer"):
        one["weights", 0]
    with pytest.raises(UsageError, match="no attention head 7"), look.capture("weights", heads=[7]):
        pass


def test_generation_is_seen_step_by_step() -> None:
    model, batch = make("gpt2")
    ids = batch["input_ids"][:1]
    look = Look(model)
    with look.capture("weights", "distance") as seen:
        model.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0)
    shapes = [tuple(weights.shape) for weights in seen.calls("weights", 0)]
    assert shapes == [(1, 4, 9, 9), (1, 4, 1, 10), (1, 4, 1, 11), (1, 4, 1, 12)]
    step = seen.calls("weights", 0)[1][0, :, 0]
    expected = (step * (9 - torch.arange(10))).sum(-1)
    close(seen.calls("distance", 0)[1][0, :, 0], expected)
    with pytest.raises(UsageError, match="seen 4 times"):
        seen["weights", 0]


@pytest.mark.parametrize("name", ["bert", "swin", "t5", "albert", "timm_vit"])
def test_hidden_states(name: str) -> None:
    model, batch = make(name)
    inputs = without_labels(batch, model)
    look = Look(model)
    with torch.no_grad(), look.capture("hidden") as seen:
        model(**inputs)
    found = seen.values["hidden"]
    assert len(found) == {"bert": 3, "swin": 4, "t5": 4, "albert": 1, "timm_vit": 3}[name]
    if name == "bert":
        with torch.no_grad():
            expected = model(**inputs, output_hidden_states=True).hidden_states[1:]
        for states, own in zip(found.values(), expected, strict=True):
            assert torch.equal(states[0], own)


@pytest.mark.parametrize("rolled", [True, False])
@pytest.mark.parametrize("wanted", [("entropy",), ("weights_gradient",)])
def test_weights_that_do_not_explain_the_context_are_refused(
    monkeypatch: pytest.MonkeyPatch, wanted: tuple[str, ...], rolled: bool
) -> None:
    from transformers.models.bert import modeling_bert

    own = modeling_bert.eager_attention_forward

    def wrong(*args: object, **options: object) -> tuple:
        context, weights = own(*args, **options)
        return context, weights.roll(1, -1) if rolled else weights * 1.001

    monkeypatch.setattr(modeling_bert, "eager_attention_forward", wrong)
    model, batch = make("bert")
    with torch.no_grad(), pytest.raises(Refused) as refused, Look(model).capture(*wanted):
        model(**without_labels(batch, model))
    assert refused.value.reason == "no_weights"


def test_attention_that_cannot_be_seen_is_refused() -> None:
    model, batch = make("timm_vit")
    attention = model.blocks[1].attn

    def forward(x: torch.Tensor, **_: object) -> torch.Tensor:
        return attention.proj(attention.qkv(x).chunk(3, -1)[2])

    attention.forward = forward
    with torch.no_grad(), Look(model).capture("entropy") as seen:
        model(**batch)
    assert list(seen.missing("entropy")) == ["blocks.1.attn"]
    with pytest.raises(Refused) as refused:
        seen["entropy", 1]
    assert refused.value.reason == "no_weights"
    assert refused.value.place == "blocks.1.attn"


def test_distance_between_patches_leaves_special_positions_out() -> None:
    from topwork_lens.capture.reductions import distance

    places = torch.tensor([[float("nan")] * 2, [0, 0], [0, 1], [3, 4]], dtype=torch.float64)
    weights = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.5, 0.0, 0.0, 0.5]], dtype=torch.float64)
    found = distance(weights, places, places[[1, 0]])
    assert found[0] == pytest.approx((0 + 1 + 5) / 3)
    assert found[1].isnan()
