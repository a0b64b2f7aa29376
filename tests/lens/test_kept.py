"""What is captured is kept where it was asked for, in bounded memory; afterwards the model is as it was. Never a silent
nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lens_models
import pytest
import torch
from torch import nn

from benchmarks.allocated import peak_bytes
from topwork import Refused, UsageError
from topwork_lens.look import Look

make, without_labels, first_output = lens_models.make, lens_models.without_labels, lens_models.first_output


def test_what_was_captured_lies_on_disk_when_asked(tmp_path: Path) -> None:
    model, batch = make("gpt2")
    look, ids = Look(model), batch["input_ids"][:1]
    options: dict[str, Any] = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    with look.capture("weights", "context") as kept:
        model.generate(ids, **options)
    # A bound of one byte: nothing is kept in memory.
    with look.capture("weights", "context", folder=tmp_path / "seen", memory=1) as seen:
        model.generate(ids, **options)
    files = sorted(path.name for path in (tmp_path / "seen").iterdir())
    assert sum("weights" in name for name in files) == 9
    for what in ("weights", "context"):
        for layer in range(3):
            stored = seen.calls(what, layer)
            assert not isinstance(stored, list)
            for one, other in zip(stored, kept.calls(what, layer), strict=True):
                assert torch.equal(one, other)


def test_a_quantised_copy_is_a_quarter_of_the_size_and_exact_to_half_a_step() -> None:
    model, batch = make("bert")
    with torch.no_grad(), Look(model).capture("weights", "quantised") as seen:
        model(**without_labels(batch, model))
    weights, small = seen["weights", 1], seen["quantised", 1]
    assert small.dtype == torch.uint8
    assert small.numel() * small.element_size() * 4 == weights.numel() * weights.element_size()
    assert (small.float() / 255 - weights).abs().max() <= 0.5 / 255 + 1e-6


def peak(what: str, layers: int, tokens: int, decoder: bool = False) -> int:
    from transformers import BertConfig, BertModel

    sizes: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
    sizes |= {
        "vocab_size": 20,
        "num_hidden_layers": layers,
        "max_position_embeddings": 2048,
        "is_decoder": decoder,
        "use_cache": False,
    }
    model, ids = BertModel(BertConfig(**sizes)).eval(), torch.ones(1, tokens, dtype=torch.long)
    look = Look(model)

    def work() -> None:
        with torch.no_grad(), look.capture(what):
            model(ids)

    work()
    return peak_bytes(work)


def test_the_memory_of_a_reduction_grows_neither_with_layers_nor_with_the_square_of_tokens() -> None:
    for decoder in (False, True):
        one = peak("entropy", 2, 768, decoder)
        assert peak("entropy", 6, 768, decoder) < 1.1 * one
        assert peak("entropy", 2, 1536, decoder) < 2.3 * one
    whole = peak("weights", 2, 384)
    assert peak("weights", 6, 384) > 1.8 * whole
    assert peak("weights", 2, 768) > 3 * whole


class Broken(Exception):
    """What goes wrong inside a model."""


@pytest.mark.parametrize("name", ["bert", "timm_vit"])
def test_after_an_exception_inside_the_model_it_is_as_it_was(name: str) -> None:
    model, batch = make(name)
    inputs = without_labels(batch, model)
    parameters = list(model.named_parameters())
    parameters[0][1].requires_grad_(False)
    parameters[1][1].grad = torch.ones_like(parameters[1][1])
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # gradients of attention weights are refused with it
    deepest = [module for module in model.modules() if isinstance(module, nn.LayerNorm)][-1]
    handle = deepest.register_forward_hook(lambda *_: (_ for _ in ()).throw(Broken()))
    look = Look(model)
    assert look.layers
    before = state(model)
    with pytest.raises(Broken), look.capture("weights_gradient", "context_gradient", "hidden"):
        model(**inputs)
    assert state(model) == before
    handle.remove()
    assert torch.equal(parameters[1][1].grad, torch.ones_like(parameters[1][1]))
    # Nothing watches any more: a softmax is torch's own again.
    assert torch.overrides._get_current_function_mode_stack() == []


def state(model: nn.Module) -> dict[str, Any]:
    return {
        "hooks": {path: (len(m._forward_pre_hooks), len(m._forward_hooks)) for path, m in model.named_modules()},
        "own": {path: sorted(vars(m)) for path, m in model.named_modules()},
        "training": {path: m.training for path, m in model.named_modules()},
        "gradients": {name: (p.requires_grad, p.grad is None) for name, p in model.named_parameters()},
        "implementation": getattr(getattr(model, "config", None), "_attn_implementation", None),
    }


def test_everything_is_restored_also_after_an_exception() -> None:
    from transformers.modeling_utils import AttentionInterface

    model, batch = make("bert")
    inputs = without_labels(batch, model)
    own, before = AttentionInterface.get_interface, first_output(model, inputs)
    implementation = model.config._attn_implementation

    def hooks() -> int:
        return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())

    count = hooks()
    look = Look(model)
    model.train()

    def broken() -> None:
        with look.capture("entropy", "hidden", "context"), look.mask_heads({0: [1]}):
            model(**inputs)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    assert AttentionInterface.get_interface is own
    assert model.config._attn_implementation == implementation
    assert model.training
    assert hooks() == count
    model.eval()
    assert torch.equal(before, first_output(model, inputs))


def test_another_model_in_the_block_is_not_seen() -> None:
    model, batch = make("bert")
    other, _ = make("bert")
    inputs = without_labels(batch, model)
    with torch.no_grad(), Look(model).capture("entropy") as seen:
        other(**inputs)
        model(**inputs)
    assert len(seen.calls("entropy", 0)) == 1


def test_never_a_silent_nothing() -> None:
    model, batch = make("bert")
    inputs = without_labels(batch, model)
    look = Look(model)
    with torch.no_grad(), look.capture("entropy", "context_gradient") as seen:
        pass
    with pytest.raises(Refused) as refused:
        seen["entropy", 0]
    assert refused.value.reason == "not_run"
    with pytest.raises(Refused) as refused:
        seen["context_gradient", 0]
    assert refused.value.reason == "no_gradient"
    with pytest.raises(UsageError, match="did you mean `entropy`"), look.capture("entropi"):
        pass
    with pytest.raises(UsageError, match="needs the positions"), look.capture("mass"):
        pass
    with torch.no_grad(), pytest.raises(UsageError, match="exceeds"), look.capture("weights", memory=100):
        model(**inputs)
    with pytest.raises(Refused) as refused, Look(torch.nn.Linear(2, 2)).capture("entropy"):
        pass
    assert refused.value.reason == "unknown_layout"
