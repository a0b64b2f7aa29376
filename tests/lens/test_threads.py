"""Threads, nested and overlapping blocks: every block sees and changes its own runs, and nothing is left patched."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import lens_models
import pytest
import torch
from tolerance import close
from transformers.modeling_utils import AttentionInterface

from topwork_lens.look import Look

NAMES = ("bert", "llama", "vit", "wav2vec2")


def in_threads(works: list[Callable[[threading.Barrier], Any]]) -> list[Any]:
    """Run functions at once; each is given a barrier at which all of them wait."""
    barrier = threading.Barrier(len(works), timeout=60)
    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result() for future in [pool.submit(work, barrier) for work in works]]


@pytest.mark.parametrize("what", ["entropy", "weights"])
def test_captures_of_several_models_in_several_threads(what: str) -> None:
    before = AttentionInterface.get_interface

    def work(name: str) -> Callable[[threading.Barrier], None]:
        model, batch = lens_models.make(name)
        inputs = lens_models.without_labels(batch, model)
        look = Look(model)
        with torch.no_grad(), look.capture(what) as seen:
            model(**inputs)
        expected = seen(what)

        def captured(barrier: threading.Barrier) -> None:
            for _ in range(6):
                barrier.wait()
                with torch.no_grad(), look.capture(what) as seen:
                    barrier.wait()
                    model(**inputs)
                assert seen(what).keys() == expected.keys()
                assert all(torch.equal(value, expected[path]) for path, value in seen(what).items())

        return captured

    in_threads([work(name) for name in NAMES])
    assert AttentionInterface.get_interface is before


def test_masks_of_one_model_in_two_threads_and_a_third_without() -> None:
    model, batch = lens_models.make("bert")
    inputs = lens_models.without_labels(batch, model)
    look = Look(model)
    choices: list[dict[int, list[int]]] = [{0: [0]}, {0: [1, 2], 2: [3]}, {}]
    expected = []
    for heads in choices:
        with torch.no_grad(), look.mask_heads(heads):
            expected.append(model(**inputs).logits)

    def work(heads: dict[int, list[int]]) -> Callable[[threading.Barrier], torch.Tensor]:
        def masked(barrier: threading.Barrier) -> torch.Tensor:
            with torch.no_grad(), look.mask_heads(heads):
                barrier.wait()
                logits = model(**inputs).logits
                barrier.wait()
            return logits

        return masked

    for found, wanted in zip(in_threads([work(heads) for heads in choices]), expected):
        close(found, wanted)
    assert (expected[0] - expected[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["bert", "wavlm"])
def test_overlapping_blocks_end_in_any_order(name: str) -> None:
    """Of two masks the first may end before the second; then the second alone is in force, then none."""
    model, batch = lens_models.make(name)
    inputs = lens_models.without_labels(batch, model)
    look = Look(model)
    paths = [layer.path for layer in look.layers]

    def run(*masks: dict[str, list[int]]) -> Any:
        with torch.no_grad(), ExitStack() as stack:
            for mask in masks:
                stack.enter_context(look.mask_heads(mask))
            return model(**inputs)[0]

    one, two = {paths[0]: [0]}, {paths[-1]: [1], paths[0]: [2]}
    plain, second, both = run(), run(two), run(one, two)
    first_block, second_block = look.mask_heads(one), look.mask_heads(two)
    with torch.no_grad():
        first_block.__enter__()
        second_block.__enter__()
        close(model(**inputs)[0], both)
        first_block.__exit__(None, None, None)
        close(model(**inputs)[0], second)
        second_block.__exit__(None, None, None)
        close(model(**inputs)[0], plain)
    assert not [module for module in model.modules() if "forward" in vars(module)]


def test_overlapping_captures_see_their_own_runs() -> None:
    model, batch = lens_models.make("llama")
    inputs = lens_models.without_labels(batch, model)
    look = Look(model)
    before = AttentionInterface.get_interface
    first, second = look.capture("entropy"), look.capture("entropy")
    with torch.no_grad():
        one = first.__enter__()
        model(**inputs)
        two = second.__enter__()
        model(**inputs)
        first.__exit__(None, None, None)
        model(**inputs)
        second.__exit__(None, None, None)
        model(**inputs)
    assert (len(one.calls("entropy", 0)), len(two.calls("entropy", 0))) == (2, 2)
    assert AttentionInterface.get_interface is before


def test_a_copy_made_while_heads_are_masked_is_not_masked() -> None:
    model, batch = lens_models.make("bert")
    inputs = lens_models.without_labels(batch, model)
    look = Look(model)
    with torch.no_grad():
        plain = model(**inputs).logits
        with look.mask_heads({0: [0, 1]}):
            copied = copy.deepcopy(model)
            masked = model(**inputs).logits
            close(copied(**inputs).logits, plain)
        close(copied(**inputs).logits, plain)
    assert (masked - plain).abs().max() > 1e-3


@pytest.mark.parametrize("name", [*NAMES, "t5", "swin", "wavlm"])
def test_a_copy_runs_beside_the_block_in_which_it_was_made(name: str) -> None:
    """Captures, masks, gates and patches are of the model alone: nothing of the copy is seen, changed or refused."""
    model, batch = lens_models.make(name)
    inputs = lens_models.without_labels(batch, model)
    look = Look(model)
    path = look.layers[0].path
    what = ("entropy", "mass", "hidden", "context", "mlp_output", *(() if name == "wavlm" else ("query",)))
    other = {key: value.flip(0) for key, value in inputs.items()}
    plain, of_other = lens_models.first_output(model, inputs), lens_models.first_output(model, other)
    with look.capture(*what, keys=[0]) as seen:
        copied = copy.deepcopy(model)
        close(lens_models.first_output(copied, other), of_other)
        lens_models.first_output(model, inputs)
    assert {len(seen.calls(kind, path)) for kind in what if kind != "mlp_output"} == {1}
    with look.capture(*what, keys=[0]) as expected:
        lens_models.first_output(model, inputs)
    assert all(torch.equal(found, expected("hidden")[key]) for key, found in seen("hidden").items())
    for block in (look.mask_heads({path: [0]}), look.patch("context", 0.0, heads={path: [0]})):
        with block:
            copied = copy.deepcopy(model)
            close(lens_models.first_output(copied, inputs), plain)
