"""Pruned models run after saving and loading, on every length: also where the model replaces attention modules."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch

from topwork import Refused, alterations
from topwork_lens.look import Look
from topwork_lens.pruning.rebuild import rebuild


def big_bird() -> Any:
    from transformers import BigBirdConfig, BigBirdModel

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    special: dict[str, Any] = {"block_size": 4, "num_random_blocks": 1, "sep_token_id": 2}
    model = BigBirdModel(BigBirdConfig(vocab_size=60, intermediate_size=40, **sizes, **special)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def output(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        result: torch.Tensor = model(input_ids=ids)[0]
    return result


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / one.abs().max())


@pytest.mark.parametrize("before", ["short", "long", "never"])
@pytest.mark.parametrize("check", ["short", "long"])
def test_a_model_that_replaces_its_attention_is_pruned_in_a_form_that_survives(before: str, check: str) -> None:
    """BigBird builds another attention module at its first short input, from its configuration."""
    batches = {"short": torch.randint(3, 60, (2, 12)), "long": torch.randint(3, 60, (2, 64))}
    heads = {0: [1, 3], 1: [0]}
    whole, model = big_bird(), big_bird()
    if before != "never":
        output(whole, batches[before])
        output(model, batches[before])
    Look(model).prune_heads(heads, check={"input_ids": batches[check]})
    fresh = big_bird()
    rebuild(fresh, json.loads(json.dumps(alterations(model)["lens"])))
    fresh.load_state_dict(model.state_dict())
    for first in ("long", "short"):
        for one in (copy.deepcopy(model), copy.deepcopy(fresh)):
            reference = copy.deepcopy(whole)
            with Look(reference).mask_heads(heads):
                expected = output(reference, batches[first])
            if one is not model and before == "short" and first == "long":
                continue  # a model that was loaded starts with block-sparse attention again
            assert distance(expected, output(one, batches[first])) < 1e-5


def test_a_check_leaves_the_modules_of_the_model_as_they_were() -> None:
    """Its short batches would turn BigBird to full attention for good."""
    model = big_bird()
    before = [type(module) for module in model.modules()]
    Look(model).prune_heads({0: [1]}, check={"input_ids": torch.randint(3, 60, (2, 64))})
    after = [type(module).__mro__ for module in model.modules() if type(module).__name__ != "ParametrizationList"]
    assert [name for name in (kind.__name__ for kind in before) if "Attention" in name] == [
        name for kinds in after for name in [kinds[0].__name__] if "Attention" in name
    ]
    assert model.attention_type == "block_sparse"


def test_without_a_check_the_last_scored_batch_serves_where_no_batch_can_be_made() -> None:
    class Two(torch.nn.Module):
        """A model whose inputs nothing tells."""

        def __init__(self) -> None:
            super().__init__()
            self.attention = torch.nn.MultiheadAttention(16, 4, batch_first=True)

        def forward(self, queries: torch.Tensor, keys: torch.Tensor) -> Any:
            from transformers.utils import ModelOutput

            context = self.attention(queries, keys, keys, need_weights=False)[0]
            return ModelOutput(loss=context.square().mean(), context=context)

    torch.manual_seed(0)
    model = Two().eval()
    with pytest.raises(Refused, match="give one"):
        Look(model).prune_heads({0: [1]})
    inputs = {"queries": torch.randn(2, 5, 16), "keys": torch.randn(2, 7, 16)}
    Look(model).importance([inputs])
    whole = copy.deepcopy(model)
    result = Look(model).prune_heads({0: [1]})
    assert result.check is not None and result.check.proves
    with Look(whole).mask_heads({0: [1]}):
        assert distance(whole(**inputs).context, model(**inputs).context) < 1e-5
