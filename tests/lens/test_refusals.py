"""The closed list of refusals: at most eight reasons, each raised here once by the case that it stands for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import soft_models
import torch
from lens_models import make

from architectures import build
from topwork import AttentionLayer, Batch, Item, Refused
from topwork_lens.layers import position_bias as adapters
from topwork_lens.layers.description import describe
from topwork_lens.look import Look
from topwork_lens.refusals import REASONS, refuse


def bert() -> tuple[Any, dict[str, torch.Tensor], Look]:
    model, batch = make("bert")
    return model, batch, Look(model)


def unknown_layout() -> None:
    def all_but_one(path: str, module: Any, model: Any) -> AttentionLayer | None:
        return None if "layer.1" in path else describe(path, module, model)

    model, batch, _ = bert()
    look = Look(model, SimpleNamespace(hook=SimpleNamespace(attention_layer=all_but_one)))
    look.importance([batch])


def not_a_head() -> None:
    model, x, look = soft_models.rigid_model(mixed=True)
    look.prune_heads({0: [0]}, check=lambda: model(x))


def shared_parameter() -> None:
    model, _, look = bert()
    one, two = (model.bert.encoder.layer[i].attention.self for i in (0, 1))
    two.query.weight = one.query.weight
    look.prune_heads({0: [1]})


def not_run() -> None:
    model, batch, look = bert()
    with look.mask_heads({1: [0]}):
        model.bert.encoder.layer[1].attention.forward = lambda hidden, *args, **kwargs: (hidden, None)
        model(input_ids=batch["input_ids"])


def no_weights() -> None:
    model, batch, look = bert()
    with look.capture("entropy"):
        layer = model.bert.encoder.layer[0].attention.self
        own = layer.forward
        # the context is not what its weights and values give
        layer.forward = lambda *args, **kwargs: own(*args, **kwargs)
        from transformers.modeling_utils import AttentionInterface

        chosen = AttentionInterface._global_mapping["sdpa"]
        AttentionInterface._global_mapping["sdpa"] = lambda *args, **kwargs: (chosen(*args, **kwargs)[0] + 1, None)
        try:
            model(input_ids=batch["input_ids"])
        finally:
            AttentionInterface._global_mapping["sdpa"] = chosen


def losses(model: Any, batch: Batch) -> torch.Tensor:
    inputs = {key: value for key, value in batch.inputs.items() if key != "labels"}
    return torch.nn.functional.cross_entropy(model(**inputs).logits, batch.inputs["labels"], reduction="none")


def no_gradient() -> None:
    _, batch, look = bert()
    whole = Batch(batch, [Item(row, {}) for row in range(4)])
    look.importance([whole], row_losses=lambda model, one: losses(model, one).detach())


def batch_coupled() -> None:
    _, batch, look = bert()
    whole = Batch(batch, [Item(row, {}) for row in range(4)])
    look.importance([whole], row_losses=lambda model, one: losses(model, one).mean().expand(4))


def check_failed() -> None:
    model, _ = build.tiny("jev")  # no batch of it can be made
    Look(model).prune_heads({0: [1]})


CASES: list[Callable[[], None]] = [
    *(unknown_layout, not_a_head, shared_parameter, not_run, no_weights, no_gradient, batch_coupled, check_failed)
]


def test_the_list_is_closed() -> None:
    assert sorted(case.__name__ for case in CASES) == sorted(REASONS)
    assert len(REASONS) <= 8
    with pytest.raises(AssertionError):
        refuse("because", "of something")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_each_reason_is_given_for_its_case(case: Callable[[], None]) -> None:
    with pytest.raises(Refused) as refused:
        case()
    assert refused.value.reason == case.__name__
    assert refused.value.cause


def test_adapters_are_few() -> None:
    """What an architecture needs is data; where data cannot say it, a named function, and at most a dozen of them."""
    own = [
        name
        for name, found in vars(adapters).items()
        if inspect.isfunction(found)
        and found.__module__ == adapters.__name__
        and list(inspect.signature(found).parameters) == ["module", "kept"]
    ]
    assert {"shared_position_bias"} <= set(own)
    assert len(own) <= 12
