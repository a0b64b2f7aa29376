"""Direct attribution: what each write to the residual stream adds to a scalar of the outputs, the final norm frozen.

Entry point: `direct_attribution`. In a model whose norms stand before its layers, the last hidden state is the sum of
the embeddings and of what attention and feed-forward networks write. With the statistics of the final norm held fixed,
a scalar that is linear in the normed state is the sum of the parts' contributions and of biases (Elhage et al. 2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from topwork import UsageError
from topwork_analyses.patching.attribution import Run, Scalar, scalar_of, with_attention
from topwork_lens.activations.sites import is_norm
from topwork_lens.capture.result import Captured
from topwork_lens.capture.verification import tolerance
from topwork_lens.look import Look
from topwork_lens.model_state import quiet
from topwork_lens.refusals import refuse


@dataclass
class DirectAttribution:
    """Contributions to a scalar, [rows] each.

    Args:
        embeddings: of the first hidden state.
        heads: of each attention head: [rows, heads], by the path of the layer.
        attention_biases: of the biases of output projections, by the path of the layer.
        networks: of feed-forward networks, by path.
        scalar: the scalar itself.
        remainder: the scalar less all contributions: biases of the final norm and of the task head, and all that is
            not linear in the normed state.
    """

    embeddings: torch.Tensor
    heads: dict[str, torch.Tensor]
    attention_biases: dict[str, torch.Tensor]
    networks: dict[str, torch.Tensor]
    scalar: torch.Tensor
    remainder: torch.Tensor


def direct_attribution(
    look: Look, inputs: Mapping[str, Any], scalar: Scalar, stack: str | None = None
) -> DirectAttribution:
    """Return what each write to the residual stream of a stack adds to a scalar.

    Args:
        look: what `topwork.look(model)` returned.
        inputs: of the model.
        scalar: outputs -> [rows].
        stack: path of the stack of layers; None for the only one with attention.

    Raises:
        Refused: the stack has no final norm, or its last state is not the sum of what was written to it.
        UsageError: there are several stacks, or the scalar is no number for each row.
    """
    return direct_attribution_of(look, lambda: scalar_of(scalar, look.model(**inputs)), stack)


def direct_attribution_of(look: Look, run: Run, stack: str | None = None) -> DirectAttribution:
    """Return what each write to the residual stream of a stack adds to the scalar of a run; see `direct_attribution`.

    Args:
        look: what `topwork.look(model)` returned.
        run: runs the model once and returns [rows].
        stack: path of the stack of layers; None for the only one with attention.

    Raises:
        Refused: the stack has no final norm, or its last state is not the sum of what was written to it.
        UsageError: there are several stacks.
    """
    names = ("hidden_states", "head_output", "attention_output", "mlp_output", "final_norm", "final_norm_gradient")
    with quiet(look.model), torch.enable_grad(), look.capture(*names) as seen:
        value = run()
        value.sum().backward()
    look.model.zero_grad(set_to_none=True)
    states = seen.hidden_states()
    path = _chosen(look, list(states), stack)
    inside = f"{path}."
    attention = {p: seen["attention_output", p] for p in seen.values["attention_output"] if p.startswith(inside)}
    networks = {p: seen["mlp_output", p] for p in seen.values.get("mlp_output", {}) if p.startswith(inside)}
    first, last = states[path][0], states[path][-1]
    if not _is_sum(last, [first, *attention.values(), *networks.values()]):
        cause = "the last hidden state is not the sum of what was written: norms or scales stand in the stream"
        raise refuse("check_failed", cause, place=path)
    frozen = _frozen(look.model, path, last, seen)
    heads = {p: frozen(seen["head_output", p]) for p in attention}
    biases = {p: frozen(output - seen["head_output", p].sum(-2)) for p, output in attention.items()}
    parts = {p: frozen(output) for p, output in networks.items()}
    embeddings = frozen(first)
    explained = embeddings + sum(v.sum(-1) for v in heads.values()) + sum(biases.values()) + sum(parts.values())
    scalars = value.detach().double()
    return DirectAttribution(embeddings, heads, biases, parts, scalars, scalars - explained)


def _is_sum(last: torch.Tensor, writes: Sequence[torch.Tensor]) -> bool:
    """Return whether a state is the sum of what was written; writes of other shapes add up to no state."""
    if any(write.shape != last.shape for write in writes):
        return False
    difference = float((sum(writes) - last).abs().max())
    return difference <= 10 * tolerance(last.dtype) * float(last.abs().max())


def _chosen(look: Look, stacks: list[str], stack: str | None) -> str:
    """Return the stack that is named, or the only one with attention layers."""
    if stack is not None:
        if stack not in stacks:
            raise UsageError(f"no stack of layers `{stack}` ran", hint=f"there are {', '.join(stacks)}")
        return stack
    attending = with_attention(look, stacks)
    if len(attending) != 1:
        raise UsageError(f"there are states of {', '.join(attending or stacks)}", hint="name one: stack=...")
    return attending[0]


def _frozen(model: nn.Module, path: str, last: torch.Tensor, seen: Captured) -> Any:
    """Return the map from a write [rows, positions, (heads,) width] to its contribution [rows, (heads)]."""
    normed = seen["final_norm", path].double()
    gradient = seen["final_norm_gradient", path].double()
    last = last.double()
    norm = _norm_of(model, path, last.float(), seen["final_norm", path])
    weight = getattr(norm, "weight", None)
    scale = torch.ones(last.shape[-1], dtype=torch.float64) if weight is None else weight.detach().double()
    bias = getattr(norm, "bias", None)
    shifted = normed if bias is None else normed - bias.detach().double()
    for centred in (True, False):
        state = last - last.mean(-1, keepdim=True) if centred else last
        for factor in (scale, 1 + scale):
            # The statistic is the one number of each position that explains the normed state.
            unit = state * factor
            inverse = (shifted * unit).sum(-1, keepdim=True) / unit.square().sum(-1, keepdim=True)
            if float((unit * inverse - shifted).abs().max()) <= 1e-4 * float(shifted.abs().max()):
                return _Frozen(gradient * factor * inverse, centred)
    raise refuse("check_failed", f"{type(norm).__name__} is no norm by a mean and a scale", place=path)


def _norm_of(model: nn.Module, path: str, last: torch.Tensor, normed: torch.Tensor) -> nn.Module:
    for name, module in model.named_modules():
        is_inner = name.startswith(f"{path}.") or ".parametrizations." in name or any(module.children())
        if is_inner or not is_norm(module) or _width(module) not in (None, last.shape[-1]):
            continue
        with torch.no_grad():
            output = module(last.to(normed.dtype))
        if output.shape == normed.shape and float((output - normed).abs().max()) <= 1e-4:
            return module
    raise refuse("check_failed", "the final norm was not found again", place=path)


def _width(module: nn.Module) -> int | None:
    weight = getattr(module, "weight", None)
    return None if weight is None else len(weight)


class _Frozen:
    """The linear map that a norm with fixed statistics and the gradient behind it are.

    Args:
        gradient: [rows, positions, width]: of the scalar in the centred state.
        centred: whether the norm subtracts the mean.
    """

    def __init__(self, gradient: torch.Tensor, centred: bool) -> None:
        self.gradient = gradient - gradient.mean(-1, keepdim=True) if centred else gradient

    def __call__(self, write: torch.Tensor) -> torch.Tensor:
        equation = "rpw,rphw->rh" if write.dim() == 4 else "rpw,rpw->r"
        return torch.einsum(equation, self.gradient, write.double())
