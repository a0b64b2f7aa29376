"""Patches: identity changes nothing, a zero is a mask, clean values restore clean outputs; everything is undone."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lens_models
import pytest
import torch
from tolerance import STEPS, close

from architectures import build
from topwork import Refused, UsageError
from topwork_lens.layers.torch_mha import is_folded
from topwork_lens.look import Look

NAMES = ("bert", "llama", "gpt2", "vit", "swin", "bart", "wav2vec2", "timm_vit")
#: what every one of them has
EVERYWHERE = (
    *("embeddings", "hidden_states", "context", "head_output", "attention_output"),
    *("mlp_input", "mlp_activation", "mlp_output", "head_input"),
)
WITHOUT_ATTENTION = ("convnext", "mamba", "resnet")
SAMPLE = ("gpt_bigcode", "zamba2", "t5", "swinv2", "wavlm", "falcon", "albert", "deberta")


def prepared(name: str) -> tuple[Any, dict[str, torch.Tensor], torch.Tensor]:
    model, batch = lens_models.make(name)
    inputs = lens_models.without_labels(batch, model)
    return model, inputs, lens_models.first_output(model, inputs)


@contextmanager
def hooked(module: torch.nn.Module, hook: Any) -> Iterator[None]:
    """A forward hook of this test."""
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("what", EVERYWHERE)
@pytest.mark.parametrize("name", NAMES)
def test_a_patch_that_gives_back_what_it_gets_changes_nothing(name: str, what: str) -> None:
    model, inputs, plain = prepared(name)
    calls = []

    def same(value: torch.Tensor) -> torch.Tensor:
        calls.append(value.shape)
        return value

    with Look(model).patch(what, same):
        assert torch.equal(lens_models.first_output(model, inputs), plain)
    assert calls
    assert torch.equal(lens_models.first_output(model, inputs), plain)


@pytest.mark.parametrize("name", NAMES)
def test_a_context_of_zero_is_a_mask(name: str) -> None:
    model, inputs, plain = prepared(name)
    look = Look(model)
    path = look.layers[1].path
    with look.mask_heads({path: [1]}):
        masked = lens_models.first_output(model, inputs)
    with look.patch("context", 0.0, heads={path: [1]}):
        assert torch.equal(lens_models.first_output(model, inputs), masked)
    with look.patch("head_output", 0.0, heads=[(path, 1)]):
        close(lens_models.first_output(model, inputs), masked)
    assert not torch.equal(masked, plain)


@pytest.mark.parametrize("what", EVERYWHERE)
@pytest.mark.parametrize("name", ["bert", "llama", "swin", "bart", "timm_vit"])
def test_clean_values_put_back_into_a_corrupt_run_restore_the_clean_output(name: str, what: str) -> None:
    model, inputs, plain = prepared(name)
    look = Look(model)
    main = getattr(model, "main_input_name", "x")
    corrupt = {**inputs, main: inputs[main].flip(0)}  # masks stay: every layer reads them
    with torch.no_grad(), look.capture(what) as seen:
        model(**inputs)
    corrupted = lens_models.first_output(model, corrupt)
    with look.patch(what, seen):
        restored = lens_models.first_output(model, corrupt)
    assert not torch.equal(restored, corrupted)
    if what in ("embeddings", "hidden_states", "head_input"):
        close(restored, plain)


def test_one_state_position_and_neuron_are_those_of_a_hook() -> None:
    model, inputs, plain = prepared("bert")

    def edit(module: Any, args: Any, output: Any) -> Any:
        state = (output[0] if isinstance(output, tuple) else output).clone()
        state[:, 2, 5] = 7.0
        return (state, *output[1:]) if isinstance(output, tuple) else state

    with hooked(model.bert.encoder.layer[1], edit):
        expected = lens_models.first_output(model, inputs)
    with Look(model).patch("hidden_states", 7.0, layers=2, positions=2, neurons=5):
        assert torch.equal(lens_models.first_output(model, inputs), expected)
    assert not torch.equal(expected, plain)


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2"])
def test_a_neuron_of_zero_is_a_column_of_zeros(name: str) -> None:
    model, inputs, _ = prepared(name)
    look = Look(model)
    with torch.no_grad(), look.capture("mlp_activation") as seen:
        model(**inputs)
    path = list(seen("mlp_activation"))[1]
    cut = copy.deepcopy(model)
    last = {"bert": "output.dense", "llama": "down_proj", "gpt2": "c_proj"}[name]
    weight = cut.get_submodule(f"{path}.{last}").weight
    with torch.no_grad():
        (weight.T if name != "gpt2" else weight)[3] = 0
    with look.patch("mlp_activation", 0.0, layers=path, neurons=[3]):
        close(lens_models.first_output(model, inputs), lens_models.first_output(cut, inputs))


def test_means_and_values_of_other_rows() -> None:
    model, inputs, _ = prepared("bert")
    look = Look(model)
    kept: dict[str, torch.Tensor] = {}
    with torch.no_grad(), look.capture("context", "mlp_output", layers=[1]) as seen:
        model(**inputs)
    mean = seen["context", 1].mean((0, 1))
    with look.patch("context", "mean", heads={1: [2]}):
        by_name = lens_models.first_output(model, inputs)
    with look.patch("context", mean[2], heads={1: [2]}):
        close(by_name, lens_models.first_output(model, inputs))
    with look.patch("mlp_output", "resample", layers=1, seed=3), look.capture("mlp_output", layers=[1]) as after:
        kept["resampled"] = lens_models.first_output(model, inputs)
    clean, changed = seen["mlp_output", 1], after["mlp_output", 1]
    sources = [next(index for index in range(4) if torch.equal(clean[index], row)) for row in changed]
    assert sorted(sources) == [0, 1, 2, 3]
    assert all(source != index for index, source in enumerate(sources))
    with look.patch("mlp_output", "resample", layers=1, seed=3):
        assert torch.equal(lens_models.first_output(model, inputs), kept["resampled"])


def test_patches_nest_and_the_last_one_has_the_last_word_and_captures_see_it() -> None:
    model, inputs, plain = prepared("bert")
    look = Look(model)
    with look.capture("mlp_output", layers=[0]) as early, look.patch("mlp_output", 1.0, layers=0):
        with (
            look.patch("mlp_output", lambda value: value + 1, layers=0),
            look.capture("mlp_output", layers=[0]) as late,
        ):
            lens_models.first_output(model, inputs)
        assert bool((late["mlp_output", 0] == 2).all())
        lens_models.first_output(model, inputs)
    assert [float(value.mean()) for value in early.calls("mlp_output", 0)] == [2.0, 1.0]
    assert torch.equal(lens_models.first_output(model, inputs), plain)


def test_an_error_inside_undoes_the_patch_and_a_copy_is_not_patched() -> None:
    model, inputs, plain = prepared("bert")
    look = Look(model)

    def copied_and_stopped() -> None:
        with look.patch("context", 0.0):
            assert torch.equal(lens_models.first_output(copy.deepcopy(model), inputs), plain)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        copied_and_stopped()
    assert torch.equal(lens_models.first_output(model, inputs), plain)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_patch_is_in_force_in_its_thread_alone() -> None:
    model, inputs, plain = prepared("bert")
    outputs: dict[float, torch.Tensor] = {}
    barrier = threading.Barrier(3)

    def run(value: float) -> None:
        with Look(model).patch("mlp_output", value, layers=1):
            barrier.wait()
            outputs[value] = lens_models.first_output(model, inputs)
            barrier.wait()

    threads = [threading.Thread(target=run, args=(value,)) for value in (0.0, 1.0)]
    for thread in threads:
        thread.start()
    barrier.wait()
    outputs[-1.0] = lens_models.first_output(model, inputs)
    barrier.wait()
    for thread in threads:
        thread.join()
    assert torch.equal(outputs[-1.0], plain)
    for value in (0.0, 1.0):
        with Look(model).patch("mlp_output", value, layers=1):
            assert torch.equal(outputs[value], lens_models.first_output(model, inputs))


def test_gradients_flow_through_a_patch() -> None:
    model, inputs, _ = prepared("bert")
    factor = torch.ones((), requires_grad=True)
    with Look(model).patch("context", lambda value: value * factor, heads={1: [2]}):
        model(**inputs).logits.square().sum().backward()
    gate = torch.ones(4, requires_grad=True)
    with Look(model).gates({1: gate}):
        model(**inputs).logits.square().sum().backward()
    assert factor.grad is not None and gate.grad is not None
    close(factor.grad, gate.grad[2])


@pytest.mark.parametrize("name", WITHOUT_ATTENTION)
def test_models_without_attention_are_patched_too(name: str) -> None:
    model, inputs = build.tiny(name)
    look = Look(model)
    with torch.no_grad():
        plain = model(**copy.deepcopy(dict(inputs)))[0]
        with look.patch("hidden_states", lambda value: value):
            assert torch.equal(model(**copy.deepcopy(dict(inputs)))[0], plain)
        with look.patch("hidden_states", 0.0):
            assert not torch.equal(model(**copy.deepcopy(dict(inputs)))[0], plain)


WRONG = [
    ({"what": "attentions", "value": 0.0}, "attentions"),
    ({"what": "context", "value": torch.zeros(7)}, "fits neither context"),
    ({"what": "context", "value": "median"}, "median"),
    ({"what": "context", "value": object()}, "nothing can be replaced with a object"),
    ({"what": "context", "value": lambda value: value[:1]}, "the edit of context returned"),
    ({"what": "mlp_output", "value": 0.0, "heads": [1]}, "has no attention heads"),
    ({"what": "mlp_output", "value": 0.0, "positions": 99}, "no index 99 among 9 positions"),
    ({"what": "mlp_output", "value": 0.0, "layers": 5}, "mlp_output"),
    ({"what": "context", "value": 0.0, "heads": {0: [9]}}, "no attention head 9"),
    ({"what": "mlp_output", "value": {0: 0.0}, "layers": 1}, "named twice"),
]


@pytest.mark.parametrize(("options", "cause"), WRONG, ids=[cause for _, cause in WRONG])
def test_wrong_arguments_are_refused(options: dict[str, Any], cause: str) -> None:
    model, inputs, plain = prepared("bert")
    with pytest.raises(UsageError, match=cause), Look(model).patch(**options):
        model(**inputs)
    assert torch.equal(lens_models.first_output(model, inputs), plain)


def test_captured_values_of_too_few_runs_are_refused() -> None:
    model, inputs, _ = prepared("bert")
    look = Look(model)
    with torch.no_grad(), look.capture("context") as seen:
        model(**inputs)
    with look.patch("context", seen):
        model(**inputs)
        with pytest.raises(UsageError, match="captured 1 times"):
            model(**inputs)


def test_single_heads_of_a_layer_that_mixes_them_are_refused() -> None:
    model, inputs = build.tiny("bitnet")
    with pytest.raises(Refused) as caught, Look(model).patch("context", 0.0, heads=[1]):
        model(**copy.deepcopy(dict(inputs)))
    assert caught.value.reason == "not_a_head"


def exact(name: str) -> None:
    """Identity patches of every activation that an architecture has change no number of its outputs."""
    model, inputs = build.tiny(name)
    look = Look(model)
    with torch.no_grad():
        plain = model(**copy.deepcopy(dict(inputs)))
        for what in ("hidden_states", "context", "head_output", "attention_output", "mlp_activation", "mlp_output"):
            try:
                with look.patch(what, lambda value: value):
                    output = model(**copy.deepcopy(dict(inputs)))
            except Refused as refused:
                if refused.reason != "unknown_layout":
                    raise
                continue
            values = [(output[key], plain[key]) for key in plain] if isinstance(plain, dict) else [(output, plain)]
            for after, before in values:
                if isinstance(before, torch.Tensor) and before.is_floating_point():
                    # What torch computes in one call is taken apart: the same numbers but for rounding.
                    folded = any(is_folded(module) for module in model.modules())
                    close(after, before, steps=STEPS if folded else 0, equal_nan=True)


@pytest.mark.parametrize("name", SAMPLE)
def test_identity_is_exact_in_a_sample_of_architectures(name: str) -> None:
    exact(name)


@pytest.mark.architectures
@pytest.mark.parametrize("name", [name for name in build.sixty() if name not in SAMPLE])
def test_identity_is_exact_in_every_architecture(name: str) -> None:
    exact(name)


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_hidden_states_that_a_model_returns_are_the_patched_ones_in_every_run(name: str) -> None:
    """The library records them by hooks that stay from the first run on; task heads such as DPT's read its records."""
    model, inputs, _ = prepared(name)
    look = Look(model)
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
        with look.capture("hidden_states") as seen:
            model(**inputs)
        (stack,) = seen.hidden_states(run=0)
        with look.patch("hidden_states", {(stack, 1): torch.zeros_like}):
            patched = model(**inputs, output_hidden_states=True).hidden_states
    assert states[1].abs().max() > 0 == patched[1].abs().max()
    assert torch.equal(states[0], patched[0])
