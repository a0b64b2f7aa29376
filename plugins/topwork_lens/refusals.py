"""Reasons for which the lens refuses, a closed list: each stands for numbers that would be wrong.

Entry point: `refuse`, the only way in which this package makes a `Refused`.
"""

from __future__ import annotations

from topwork import Refused

REASONS = {
    "unknown_layout": "attention runs here, but nothing says where its attention heads are in its weights",
    "not_a_head": "a slice of the context is not the output of one attention head, or a feature that of one neuron",
    "shared_parameter": "a parameter that would be cut is used by another module too",
    "not_run": "the attention layer did not run, or its output projection was never called",
    "no_weights": "the attention weights cannot be seen, or do not explain the context that was computed",
    "no_gradient": "no gradient reached what is to be scored, or it would be lost",
    "batch_coupled": "the rows of a batch influence each other's losses",
    "check_failed": "the masked and the pruned model differ, or the pruned one does not run",
}


def refuse(reason: str, cause: str, *, place: str | None = None, hint: str | None = None) -> Refused:
    """Return a `Refused`, to be raised, whose reason is one of `REASONS`."""
    assert reason in REASONS, reason
    return Refused(cause, place=place, reason=reason, hint=hint)
