"""Arguments of a wrong type, shape or range: one error that names the argument, not one of torch or Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lens_models
import pytest
import torch
from tolerance import close

import topwork
from topwork import TopworkError
from topwork_lens.look import Look

NAN = float("nan")


def bert() -> tuple[Any, dict[str, Any]]:
    return lens_models.make("bert")


def capture(*what: Any, **options: Any) -> None:
    model, batch = bert()
    with torch.no_grad(), Look(model).capture(*what, **options):
        model(**batch)


def gates(factors: Any) -> None:
    model, batch = bert()
    with torch.no_grad(), Look(model).gates(factors):
        model(**batch)


def patch(value: Any) -> None:
    model, batch = bert()
    with torch.no_grad(), Look(model).patch("context", value):
        model(**batch)


def prune(**options: Any) -> None:
    model, batch = bert()
    Look(model).prune_heads(topwork.importance(model, [batch], method="random"), **options)


def prune_checked(check: Any) -> None:
    model, _ = bert()
    Look(model).prune_heads({0: [0]}, check=check)


def importance(batches: Any, **options: Any) -> None:
    topwork.importance(bert()[0], batches, **options)


def labelled(labels: Any) -> list[dict[str, Any]]:
    return [{**bert()[1], "labels": labels}]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: capture(["weights"]), "unknown capture"),
        (lambda: capture(3), "unknown capture"),
        (lambda: capture("weights", device="cuda:99"), "no device 'cuda:99'"),
        (lambda: gates([1, 2]), "by layer, not by a list"),
        (lambda: gates(torch.ones(3, 5)), r"\(3, 5\) does not fit"),
        (lambda: gates({0: torch.ones(4, dtype=torch.complex64)}), "real numbers"),
        (lambda: Look(bert()[0]).set_gates([1, 2]), "by layer, not by a list"),
        (lambda: patch(NAN), "replaced with nan"),
        (lambda: prune(share="half"), "`share` must lie between 0 and 1, not 'half'"),
        (lambda: prune(count=100), "`count` is 100, and there are 12"),
        (lambda: prune(threshold=NAN), "`threshold` must be a score, not nan"),
        (lambda: prune(threshold="low"), "`threshold` must be a score, not 'low'"),
        (lambda: prune(share=0.3, at_least=-1), "`at_least` must be a number"),
        (lambda: prune_checked(3), "batch of the check is a int"),
        (lambda: prune_checked({"a": 1}), "does not run on the batch of the check"),
        (lambda: prune_checked({"input_ids": torch.ones(2, 3)}), "does not run on the batch of the check"),
        (lambda: importance([3]), "a batch is a int"),
        (lambda: importance("ab"), "a batch is a str"),
        (lambda: importance(None), "`batches` are a NoneType"),
        (lambda: importance([bert()[1]], loss=3), "`loss` is a int"),
        (lambda: importance([bert()[1]], loss=lambda out, _: out.logits.argmax(-1)), "`loss` returned torch.int64"),
        (lambda: importance(labelled(torch.zeros(3, dtype=torch.long))), "no loss of the first batch"),
        (lambda: importance(labelled(torch.full((4,), 99))), "no loss of the first batch"),
    ],
)
def test_a_wrong_argument_is_named(call: Callable[[], None], says: str) -> None:
    with pytest.raises(TopworkError, match=says):
        call()


def test_gates_are_a_tensor_of_layers_and_heads() -> None:
    """A head mask of transformers 4 with any factors; gradients flow into it."""
    model, batch = bert()
    look = Look(model)
    factors = torch.rand(3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with look.gates(factors):
        gated = model(**batch)
        gated.loss.backward()
    with torch.no_grad(), look.gates(dict(enumerate(factors.detach()))):
        expected = model(**batch)
    close(gated.logits.detach(), expected.logits)
    assert factors.grad is not None and bool((factors.grad != 0).all())
    look.set_gates(factors.detach())
    with torch.no_grad():
        close(model(**batch).logits, expected.logits)
