"""The form of each attention layer, measured again on other random configurations of a model type.

Entry point: `examine`. A form is read off the parameters as they are after pruning, and compared with what
`table(tried=True)` claimed, what the pruning reported, and the outcome in the coverage table.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from architectures import build, checks, run, shrink, timm_models
from topwork import Refused
from topwork_lens.capture.undescribed import observed
from topwork_lens.look import Look

#: sizes of two other configurations; entries that single types fix stay
CONFIGURATIONS: tuple[dict[str, int], ...] = (
    {"WIDTH": 48, "HEADS": 6, "HEAD_DIM": 8, "FFN": 80, "LAYERS": 3},
    {"WIDTH": 64, "HEADS": 4, "HEAD_DIM": 16, "FFN": 96, "LAYERS": 2},
)
#: rows and tokens of the batch of the check, where the model takes them
ROWS, TOKENS = 3, 6


@contextmanager
def sizes_of(sizes: Mapping[str, int]) -> Iterator[None]:
    """Models that are built in the block have other sizes."""
    before = {name: getattr(shrink, name) for name in sizes}
    for name, value in sizes.items():
        setattr(shrink, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(shrink, name, value)


def with_other_weights(model: nn.Module, seed: int) -> None:
    """Add random numbers to every matrix of a model, and let it forget what it has computed of the old ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.dim() > 1:
                parameter.add_((0.05 * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype))
    training = model.training
    model.train().train(training)  # LeViT keeps its position biases while it is evaluated


def configured(model_type: str, which: int) -> tuple[Any, dict[str, Any], str]:
    """A model of a type in another configuration, with weights of its own, inputs, and words for what is other.

    The sizes that are as wanted and that the type can be built with: all of them, the number of layers alone, or none.
    """
    sizes = CONFIGURATIONS[which]
    tries: list[Mapping[str, int]] = [sizes, {"LAYERS": sizes["LAYERS"]}]
    if model_type.startswith("timm/"):
        tries = tries[:1] if timm_models.takes_sizes(model_type.removeprefix("timm/")) else []
    for wanted in tries:
        try:
            with sizes_of(wanted):
                model, inputs = build.tiny(model_type, levels=(0,))
        except Exception:
            continue
        with_other_weights(model, which + 1)
        if runs(model, inputs):
            break
    else:
        wanted = {}
        model, inputs = build.tiny(model_type)
        with_other_weights(model, which + 1)
    return model, inputs, " ".join(f"{name}={value}" for name, value in wanted.items()) or "weights alone"


def read_sizes(module: nn.Module) -> dict[str, int]:
    """Numbers in each parameter as forward reads it: at full width where compact ones are scattered."""
    inside = {part for each in module.modules() if isinstance(each, ParametrizationList) for part in each.modules()}
    return {
        f"{path}.{name}": getattr(part, name).numel()
        for path, part in module.named_modules()
        if part not in inside
        for name in [*part._parameters, *getattr(part, "parametrizations", {})]
        if getattr(part, name) is not None
    }


def measured_form(whole: nn.Module, pruned: nn.Module) -> str:
    """ "hard" when forward reads smaller parameters, "soft" when fewer numbers are kept than forward reads."""
    before, after = read_sizes(whole), read_sizes(pruned)
    kept = sum(parameter.numel() for parameter in pruned.parameters())
    if kept < sum(after.values()):
        return "soft"
    return "hard" if any(after[name] < size for name, size in before.items()) else "whole"


def examine(model_type: str) -> dict[str, Any]:
    """The record of one model type.

    Returns:
        "configurations" (what `measure` says of each), "differences" between claims and measurements, and "outcome":
        "same" or "differs".
    """
    measured = [measure(model_type, which) for which in range(len(CONFIGURATIONS))]
    claimed = run.table_now()[model_type]["outcome"]
    differences = [f"{one['sizes']}: {line}" for one in measured for line in one["differences"]]
    differences += [
        f"{one['sizes']}: the table says {claimed}, measured {one['outcome']}: {one.get('why', '')}"
        for one in measured
        if one["outcome"] != claimed
    ]
    outcome = "differs" if differences else "same"
    return {"outcome": outcome, "configurations": measured, "differences": differences, "why": "; ".join(differences)}


def measure(model_type: str, which: int) -> dict[str, Any]:
    """What one configuration shows: "sizes", "outcome", "forms" by kind of attention, and "differences"."""
    model, inputs, sizes = configured(model_type, which)
    larger = checks.of_size(inputs, ROWS, TOKENS)
    if larger is not None and runs(model, larger):
        inputs, sizes = larger, f"{sizes} {ROWS} rows"
    look = Look(model)
    found = {"sizes": sizes, "forms": {}, "differences": []}
    claimed = {line["path"]: line["prunable"] for line in look.table(copy.deepcopy(inputs), tried=True)}
    chosen = checks.choice(look.layers)
    heads = {path: numbers for path, numbers in chosen.items() if claimed[path]}
    kinds = {layer.path: f"{layer.side} {layer.kind}" for layer in look.layers}
    if not heads:
        return found | refusal(look, chosen, inputs)
    whole = copy.deepcopy(model)
    try:
        reported = {line["path"]: line["form"] for line in look.prune_heads(heads, check=inputs).layers}
    except Refused as error:
        found["differences"].append(f"claimed {sorted(set(claimed.values()))}, refused: {error}"[:300])
        return found | {"outcome": "refused", "why": str(error)[:200]}
    for path in heads:
        form = measured_form(whole.get_submodule(path), model.get_submodule(path))
        counts = found["forms"].setdefault(kinds[path], {})
        counts[form] = counts.get(form, 0) + 1
        if not form == reported[path] == claimed[path]:
            found["differences"].append(f"{path}: claimed {claimed[path]}, reported {reported[path]}, measured {form}")
    difference = checks.unlike(whole, heads, model, inputs)
    if difference > checks.TOLERANCE:
        found["differences"].append(f"masked and pruned differ by {difference:.2g}")
    for path in chosen.keys() - heads.keys():  # all layers together, as the matrix prunes them, would be refused
        counts = found["forms"].setdefault(kinds[path], {})
        counts["refused"] = counts.get("refused", 0) + 1
    forms = {form for counts in found["forms"].values() for form in counts}
    return found | {"outcome": next(form for form in ("refused", "soft", "hard") if form in forms)}


def runs(model: nn.Module, inputs: Mapping[str, Any]) -> bool:
    """Whether a model takes a batch, and answers numbers."""
    try:
        return all(bool(output.isfinite().all()) for output in checks.outputs(model, inputs))
    except Exception:
        return False


def refusal(look: Look, chosen: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What comes out where every layer is said to be refused: "outcome", and why."""
    if not look.layers:
        with observed(look.model) as ways:
            checks.outputs(look.model, inputs)
        return {"outcome": "refused" if ways else "no attention"}
    try:
        look.prune_heads(chosen or {0: [0]}, check=inputs)
    except Refused as error:
        return {"outcome": "refused", "why": str(error)[:200]}
    return {"outcome": "hard", "differences": ["every layer is said to be refused, and pruning works"]}
