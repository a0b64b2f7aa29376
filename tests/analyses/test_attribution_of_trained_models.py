"""Estimates of attribution patching rank attention heads of trained models as exact patches do."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from learning import Case
from learning_audio import CASES as AUDIO
from learning_text import CASES as TEXT
from learning_vision import CASES as VISION

import topwork

CASES: dict[str, Case] = {**TEXT, **VISION, **AUDIO}
#: task -> steps of training: until something is learned, and the loss still leaves numbers to explain
STEPS = {
    "text-classification": 25,
    "token-classification": 25,
    "image-classification": 40,
    "audio-classification": 40,
    "question-answering": 25,
}
DEEP: dict[str, Any] = {"num_hidden_layers": 3, "num_attention_heads": 8, "hidden_size": 64, "intermediate_size": 128}


@pytest.mark.learn
@pytest.mark.parametrize("name", STEPS)
def test_ranks_of_estimates_are_those_of_exact_effects(name: str) -> None:
    case = CASES[name]
    base = copy.deepcopy(case.base)
    base["config"] |= DEEP
    rows = case.rows or topwork.load_plugins().tasks[case.task].example_rows()
    torch.manual_seed(0)
    work = topwork.build(case.task, base, rows=rows, **case.options)
    before = work.apply("attribution_patching", {"evaluate": rows}, noise=0.3, rows=8)["metrics"]["scalar"]
    work.apply("train", {"train": rows, "calibrate": rows}, **{**case.training, "steps": STEPS[name]})
    result = work.apply("attribution_patching", {"evaluate": rows}, noise=0.3, rows=8, top=20)
    metrics = result["metrics"]
    print(
        f"{name}: {result['heads']} attention heads, rank correlation {metrics['correlation_top']:.3f} of the 20 with "
        f"the largest estimates, {metrics['correlation_patched']:.3f} of all; effects {metrics['effect_top']:.3g}, "
        f"of random heads {metrics['effect_random']:.3g}"
    )
    assert metrics["scalar"] > before, "it has learned"
    assert metrics["correlation_top"] >= 0.9
    assert metrics["correlation_patched"] >= 0.9
    assert metrics["effect_top"] > metrics["effect_random"]
