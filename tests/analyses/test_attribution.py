"""Attribution patching against exact patching, direct attribution against the scalar, and both on a linear toy."""

from __future__ import annotations

from typing import Any

import lens_models
import pytest
import torch
from tolerance import close
from torch import nn

from topwork import Refused, UsageError
from topwork_analyses.patching.attribution import attribution_patching
from topwork_analyses.patching.direct import direct_attribution
from topwork_lens.look import Look


class LinearAttention(nn.Module):
    """Attention that weighs all positions alike: linear in its input."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 4
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            projection(states).unflatten(-1, (4, 4)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        weights = (0 * (query @ key.transpose(-1, -2))).softmax(-1)
        return self.out_proj((weights @ value).transpose(1, 2).flatten(2))


class LinearToy(nn.Module):
    """Two such layers in a residual stream, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleDict({"self_attn": LinearAttention()}) for _ in range(2))
        self.classifier = nn.Linear(16, 3)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            states = states + layer["self_attn"](states)
        return self.classifier(states.mean(1))


def test_estimates_are_exact_in_a_linear_model() -> None:
    torch.manual_seed(0)
    model = LinearToy().double().eval()
    clean, corrupt = ({"states": torch.randn(3, 5, 16, dtype=torch.float64)} for _ in range(2))
    result = attribution_patching(Look(model), clean, corrupt, lambda outputs: outputs[:, 0] - outputs[:, 1], top=8)
    assert len(result.effects) == 8
    for effect in result.effects:
        assert effect.exact is not None
        assert abs(effect.estimate - effect.exact) < 1e-9
    assert result.correlation() == pytest.approx(1.0)


def batches(name: str) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    model, batch = lens_models.make(name)
    clean = lens_models.without_labels(batch, model)
    main = model.main_input_name
    changed = clean[main].clone()
    if main == "input_ids":
        changed[:, 2] = 7
    else:
        changed += 0.1 * torch.randn(changed.shape)
    return model, clean, {**clean, main: changed}


@pytest.mark.parametrize("name", ["bert", "vit", "wav2vec2"])
def test_estimates_rank_attention_heads_as_exact_patches_do(name: str) -> None:
    torch.manual_seed(0)
    model, clean, corrupt = batches(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    result = attribution_patching(Look(model), clean, corrupt, lambda outputs: outputs.logits[:, 0], top=6)
    assert [effect.chosen for effect in result.effects].count("random") == 6
    with torch.no_grad():
        baseline = model(**corrupt).logits[:, 0].mean()
        close(result.corrupt, baseline, dtype=torch.float32)
        close(result.clean, model(**clean).logits[:, 0].mean(), dtype=torch.float32)
    print(f"{name}: rank correlation {result.correlation(None):.3f}, effects {result.size('top'):.3g} (top)")
    assert result.size("top") > result.size("random")
    assert result.correlation(None) > 0.5
    assert str(result).startswith("Attribution(clean ")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_exact_effect_is_that_of_a_hook() -> None:
    model, clean, corrupt = batches("bert")
    look = Look(model)
    result = attribution_patching(look, clean, corrupt, lambda outputs: outputs.logits[:, 0], top=12)
    kept: list[torch.Tensor] = []
    dense = model.bert.encoder.layer[1].attention.output.dense
    handle = dense.register_forward_pre_hook(lambda module, args: kept.append(args[0].clone()))
    with torch.no_grad():
        model(**clean)
        handle.remove()
        plain = model(**corrupt).logits[:, 0].mean()

        def put(module: Any, args: tuple) -> tuple:
            context = args[0].clone()
            context[..., 8:16] = kept[0][..., 8:16]
            return (context,)

        handle = dense.register_forward_pre_hook(put)
        expected = model(**corrupt).logits[:, 0].mean() - plain
        handle.remove()
    effect = next(e for e in result.effects if e.path == look[1].path and e.head == 1)
    close(effect.exact, expected, dtype=torch.float32, scale=1.0)


def test_a_scalar_is_a_number_for_each_row() -> None:
    model, clean, corrupt = batches("bert")
    with pytest.raises(UsageError, match="the scalar returned"):
        attribution_patching(Look(model), clean, corrupt, lambda outputs: outputs.logits)


@pytest.mark.parametrize("name", ["gpt2", "llama", "vit"])
def test_direct_contributions_add_up_to_the_scalar(name: str) -> None:
    model, batch = lens_models.make(name)
    inputs = lens_models.without_labels(batch, model)

    def scalar(outputs: Any) -> torch.Tensor:
        logits = outputs.logits
        return logits[:, 0] if logits.dim() == 2 else logits[:, 3, 7]

    result = direct_attribution(Look(model), inputs, scalar)
    head = model.classifier if name == "vit" else model.lm_head
    norm = {"gpt2": "transformer.ln_f", "llama": "model.norm", "vit": "vit.layernorm"}[name]
    index = 0 if name == "vit" else 7
    constant = 0.0 if head.bias is None else float(head.bias[index])
    bias = getattr(model.get_submodule(norm), "bias", None)
    constant += 0.0 if bias is None else float(head.weight[index] @ bias)
    close(result.remainder, torch.full((4,), constant, dtype=torch.float64), dtype=torch.float32, scale=10.0)
    assert {path: value.shape for path, value in result.heads.items()} == {
        layer.path: (4, 4) for layer in Look(model).layers
    }


def test_norms_inside_of_the_stream_are_refused() -> None:
    model, batch = lens_models.make("bert")
    with pytest.raises(Refused, match="not the sum"):
        direct_attribution(Look(model), lens_models.without_labels(batch, model), lambda outputs: outputs.logits[:, 0])


def test_integrated_gradients_add_up_where_single_gradients_do_not() -> None:
    """A cubic of contexts that are linear in the states: over all heads the integral is the change of the scalar."""
    torch.manual_seed(0)
    model = WithoutResiduals().double().eval()
    clean, corrupt = ({"states": torch.randn(3, 5, 16, dtype=torch.float64)} for _ in range(2))

    def scalar(outputs: torch.Tensor) -> torch.Tensor:
        return outputs[:, 0] ** 3

    errors = []
    for steps in (1, 10, 100):
        result = attribution_patching(Look(model), clean, corrupt, scalar, top=1, steps=steps)
        total = sum(effect.estimate for effect in result.effects if effect.path == "layers.1")
        errors.append(abs(total - (result.clean - result.corrupt)) / abs(result.clean - result.corrupt))
    print(f"relative error of the sum over heads with 1, 10 and 100 steps: {errors}")
    assert errors[1] < 0.02 < errors[0]
    # The error of midpoints falls with the square of the steps.
    assert errors[2] < errors[1] / 50


class WithoutResiduals(nn.Module):
    """Two linear attention layers without residual connections, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(LinearAttention() for _ in range(2))
        self.classifier = nn.Linear(16, 3)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            states = layer(states)
        return self.classifier(states.mean(1))


def test_no_steps_are_refused() -> None:
    model, clean, corrupt = batches("bert")
    with pytest.raises(UsageError, match="0 steps"):
        attribution_patching(Look(model), clean, corrupt, lambda outputs: outputs.logits[:, 0], steps=0)
