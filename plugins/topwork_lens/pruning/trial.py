"""Trial prunings: the form in which each attention layer can really be pruned, measured on a copy of the model.

Entry point: `tried`. What a layer's description says ("hard": all its slices are known) is an upper bound: reshapes,
norms over all heads or modules that are replaced at run time show when a pruned layer runs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import nn

from topwork import AttentionLayer, Batch, Refused, UsageError
from topwork_lens.model_state import quiet
from topwork_lens.pruning.probes import call_on, captured_inputs, further_batches
from topwork_lens.pruning.prune import prune


@dataclass(frozen=True)
class Trial:
    """Outcome of the trial pruning of one layer.

    Args:
        form: "hard", "soft" or "" (refused).
        why: the reason for "soft" and for a refusal.
        checked_with: the batches on which masked and pruned were compared.
    """

    form: str
    why: str
    checked_with: str


def tried(
    model: nn.Module, layers: Sequence[AttentionLayer], check: Mapping[str, Any] | Batch | None, plugins: Any = None
) -> dict[str, Trial]:
    """Prune one attention head of each layer in a copy of the model; return what came out, by path.

    All layers are pruned together; where that is refused, each alone.

    Args:
        model: the model, which stays as it is.
        layers: its layers; those with one attention head left are not tried.
        check: the batch of the check; None for a made one.
        plugins: that describe attention layers.

    Raises:
        UsageError: the batch is a function, which runs the model and not a copy of it.
    """
    if callable(check):
        raise UsageError("a function runs the model itself, and a trial needs a copy", hint="give a dict of inputs")
    heads = {layer.path: [layer.kept[0]] for layer in layers if len(layer.kept) > 1}
    if not heads:
        return {}
    other = copy.deepcopy(model)
    call = call_on(other, check)
    batches = _names(other, call, layers)
    try:
        return _outcomes(prune(other, heads, call, plugins).layers, heads, batches)
    except Refused:
        results: dict[str, Trial] = {}
        for path, numbers in heads.items():
            other = copy.deepcopy(model)
            try:
                results |= _outcomes(
                    prune(other, {path: numbers}, call_on(other, check), plugins).layers, [path], batches
                )
            except Refused as error:
                results[path] = Trial("", str(error), batches)
        return results


def _outcomes(lines: Sequence[Mapping[str, Any]], paths: Any, batches: str) -> dict[str, Trial]:
    return {
        line["path"]: Trial("soft" if "soft" in line["form"] else "hard", line["form_reason"], batches)
        for line in lines
        if line["path"] in paths and line["form"] != "whole"
    }


def _names(model: nn.Module, call: Callable[[], Any], layers: Sequence[AttentionLayer]) -> str:
    """Words for the batches of the check: the one that is given or made, and its other sizes that the model takes."""
    names = ["the batch"]
    with suppress(Exception), quiet(model):
        inputs, _ = captured_inputs(model, call)
        counts = list(dict.fromkeys((layer.heads, len(layer.kept) - 1) for layer in layers))[:2]
        for batch in further_batches(model, inputs, counts) if inputs else ():
            with suppress(Exception):
                model(**batch.inputs)
                names.append(batch.name)
    return ", ".join(names)
