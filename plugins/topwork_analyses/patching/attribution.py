"""Attribution patching: the effect of every attention head between two batches, in two forward passes and one backward.

Entry points: `attribution_patching` for two batches, `estimates` and `exact_effect` for two runs. The first-order
estimate of what happens when the context of an attention head in a corrupt run is replaced with that of a clean run is
(clean - corrupt) * dscalar/dcontext, summed (Nanda 2023; Syed et al. 2023, section 3). The heads with the largest
estimates, and as many random ones, are patched exactly; how the ranks of estimates and effects agree is part of the
result. With several steps the gradient is the mean over runs on the way from the corrupt to the clean input
(integrated gradients, Sundararajan et al. 2017; for patching Hanna et al. 2024, "EAP-IG").
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from topwork import AttentionLayer, Json, UsageError
from topwork_analyses.statistics.correlations import coefficient
from topwork_lens.capture.result import Captured
from topwork_lens.layers.context import is_gateable
from topwork_lens.look import Look
from topwork_lens.model_state import quiet
from topwork_lens.refusals import refuse
from topwork_lens.tables import LayerTable

#: called with the outputs of a model; returns a number for each row: [rows]
Scalar = Callable[[Any], torch.Tensor]
#: runs a model; returns a number for each row: [rows]
Run = Callable[[], torch.Tensor]


@dataclass
class HeadEffect:
    """Effect of patching one attention head, as the mean over rows.

    Args:
        path: of the attention layer.
        head: original index.
        estimate: first-order estimate of the change of the scalar.
        exact: the change, where it was measured.
        chosen: "top" for the largest estimates, "random" for the baseline; empty for the others.
    """

    path: str
    head: int
    estimate: float
    exact: float | None = None
    chosen: str = ""


@dataclass(repr=False)
class Attribution:
    """Estimated and exact effects of attention heads.

    Args:
        effects: of every attention head, in the order of the layers.
        clean: mean of the scalar on the clean batch.
        corrupt: mean of the scalar on the corrupt batch.
    """

    effects: list[HeadEffect]
    clean: float
    corrupt: float

    def __repr__(self) -> str:
        return f"Attribution(clean {self.clean:.4g}, corrupt {self.corrupt:.4g})\n{self.table()!r}"

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def table(self) -> LayerTable:
        """Return a dict for each attention head, the largest estimates first."""
        ordered = sorted(self.effects, key=lambda effect: -abs(effect.estimate))
        return LayerTable(dict(vars(effect)) for effect in ordered)

    def correlation(self, chosen: str | None = "top") -> float:
        """Return Spearman's rank correlation of estimates with exact effects; NaN when it is undefined.

        Args:
            chosen: "top", "random", or None for all that were patched.
        """
        pairs = [effect for effect in self.effects if effect.chosen and chosen in (None, effect.chosen)]
        if len(pairs) < 2:
            return float("nan")
        return coefficient([effect.estimate for effect in pairs], [effect.exact or 0.0 for effect in pairs])

    def size(self, chosen: str) -> float:
        """Return the mean absolute exact effect of the "top" or the "random" attention heads; NaN for none."""
        values = [abs(effect.exact or 0.0) for effect in self.effects if effect.chosen == chosen]
        return sum(values) / len(values) if values else float("nan")

    def json(self) -> dict[str, Json]:
        """Return the result as data."""
        return {
            "clean": self.clean,
            "corrupt": self.corrupt,
            "correlation": self.correlation(None),
            "correlation_top": self.correlation("top"),
            "effect_top": self.size("top"),
            "effect_random": self.size("random"),
            "effects": [dict(vars(effect)) for effect in self.effects],
        }


def attribution_patching(
    look: Look,
    clean: Mapping[str, Any],
    corrupt: Mapping[str, Any],
    scalar: Scalar,
    *,
    top: int = 20,
    seed: int = 0,
    steps: int = 1,
) -> Attribution:
    """Estimate the effect of every attention head, and measure those of the largest estimates and of random ones.

    Args:
        look: what `topwork.look(model)` returned.
        clean: inputs whose contexts are put into the corrupt run.
        corrupt: inputs of the same shapes.
        scalar: outputs -> [rows], such as the difference of two logits.
        top: how many attention heads are patched exactly; as many random ones are patched beside them.
        seed: of the choice of random attention heads.
        steps: runs with a gradient between the corrupt and the clean batch; 1 takes that of the corrupt one.

    Raises:
        UsageError: the scalar is no number for each row, or there are no steps.
        Refused: the scalar does not depend on any attention head, or a layer's contexts have other shapes.
    """

    def run(inputs: Mapping[str, Any]) -> Run:
        return lambda: scalar_of(scalar, look.model(**inputs))

    layers = attributed_layers(look)
    with quiet(look.model):
        between = _between(look, run(clean), run(corrupt)) if steps > 1 else None
        result = estimates(look, layers, run(clean), run(corrupt), steps, between)
        rows = len(result.corrupt)
        effects = [
            HeadEffect(layer.path, head, estimate)
            for layer in layers
            if layer.path in result.sums
            for head, estimate in zip(layer.kept, (result.sums[layer.path] / rows).tolist(), strict=True)
        ]
        baseline = float(result.corrupt.double().mean())
        choose(effects, top, seed)
        for effect in effects:
            if effect.chosen:
                patched = exact_effect(look, result.contexts, effect, run(corrupt))
                effect.exact = float(patched.double().mean()) - baseline
    return Attribution(effects, float(result.clean.double().mean()), baseline)


@dataclass
class Estimates:
    """First-order estimates of one clean and one corrupt run.

    Args:
        sums: path of a layer -> [heads] in float64, summed over rows, positions and the runs of a shared layer.
        clean: scalar of each row in the clean run.
        corrupt: scalar of each row in the corrupt run.
        contexts: of the clean run.
    """

    sums: dict[str, torch.Tensor]
    clean: torch.Tensor
    corrupt: torch.Tensor
    contexts: Captured


def attributed_layers(look: Look) -> list[AttentionLayer]:
    """Return the layers whose attention heads can be patched."""
    return [layer for layer in look.layers if is_gateable(layer) and layer.kept]


def estimates(
    look: Look,
    layers: Sequence[AttentionLayer],
    clean: Run,
    corrupt: Run,
    steps: int = 1,
    between: Callable[[float], torch.Tensor] | None = None,
) -> Estimates:
    """Return the estimates of all attention heads; the model is in evaluation mode.

    Args:
        look: at the model.
        layers: whose attention heads are estimated.
        clean: runs the model on the clean input; returns a scalar for each row.
        corrupt: the same on the corrupt input.
        steps: runs with a gradient; 1 takes that of the corrupt run.
        between: the same as `corrupt` with a share of the corruption taken away; needed for several steps.

    Raises:
        UsageError: there are no steps.
        Refused: the scalar does not depend on any attention head, or contexts have other shapes.
    """
    if steps < 1:
        raise UsageError(f"{steps} steps", hint="give 1, or 10 for integrated gradients")
    paths = [layer.path for layer in layers]
    with torch.no_grad(), look.capture("context", layers=paths) as before:
        clean_scalar = clean()
    first = _with_gradient(look, paths, corrupt if between is None else partial(between, 0.0))
    runs = [first]
    if between is not None and steps > 1:
        # Midpoints of equal parts: the rule whose error falls with the square of the steps.
        runs = [_with_gradient(look, paths, partial(between, (step + 0.5) / steps)) for step in range(steps)]
    corrupted, corrupt_scalar = first
    sums = {}
    for path in corrupted.values.get("context_gradient", {}):
        gradients = [seen.calls("context_gradient", path) for seen, _ in runs]
        sums[path] = _estimates(before.calls("context", path), corrupted.calls("context", path), gradients, path)
    return Estimates(sums, clean_scalar.detach(), corrupt_scalar.detach(), before)


def exact_effect(look: Look, contexts: Captured, effect: HeadEffect, corrupt: Run) -> torch.Tensor:
    """Return the scalar of each row when the context of one attention head is that of the clean run."""
    with torch.no_grad(), look.patch("context", contexts, heads={effect.path: [effect.head]}):
        return corrupt()


def _with_gradient(look: Look, paths: Sequence[str], run: Run) -> tuple[Captured, torch.Tensor]:
    with torch.enable_grad(), look.capture("context", "context_gradient", layers=list(paths)) as seen:
        value = run()
        if not value.requires_grad:
            raise refuse("no_gradient", "the scalar does not depend on any attention head")
        value.sum().backward()
    look.model.zero_grad(set_to_none=True)
    return seen, value


def _between(look: Look, clean: Run, corrupt: Run) -> Callable[[float], torch.Tensor]:
    """Return a run on the way to the clean batch: the first state is a share of the way nearer to that of it."""
    with torch.no_grad(), look.capture("hidden_states") as seen:
        clean()
    states = seen.hidden_states()
    path = first_state(look, states)
    goal = states[path][0]

    def run(share: float) -> torch.Tensor:
        with look.patch("hidden_states", {(path, 0): lambda state: state + share * (goal.to(state.dtype) - state)}):
            return corrupt()

    return run


def with_attention(look: Look, stacks: Sequence[str]) -> list[str]:
    """Return the stacks that hold attention layers, in their order."""
    return [stack for stack in stacks if any(layer.path.startswith(f"{stack}.") for layer in look.layers)]


def first_state(look: Look, states: Mapping[str, Sequence[torch.Tensor]]) -> str:
    """Return the stack whose first state is the input of the attention layers: the first that has any."""
    return next(iter([*with_attention(look, list(states)), *states]))


def scalar_of(scalar: Scalar, outputs: Any) -> torch.Tensor:
    """Return the scalar of each row: [rows].

    Raises:
        UsageError: it is something else.
    """
    value = scalar(outputs)
    if not isinstance(value, torch.Tensor) or value.dim() != 1:
        shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise UsageError(f"the scalar returned {shape}", hint="return a number for each row: [rows]")
    return value


def _estimates(
    clean: Sequence[torch.Tensor],
    corrupt: Sequence[torch.Tensor],
    gradients: Sequence[Sequence[torch.Tensor]],
    path: str,
) -> torch.Tensor:
    """[heads] in float64; `gradients` of each step, those of the last run of a layer first."""
    total: torch.Tensor | None = None
    for index, (before, now) in enumerate(zip(clean, corrupt, strict=True)):
        if before.shape != now.shape:
            cause = f"contexts of shape {tuple(before.shape)} and {tuple(now.shape)}"
            raise refuse("check_failed", cause, place=path, hint="give batches of the same shapes")
        gradient = torch.stack([list(reversed(each))[index].double() for each in gradients]).mean(0)
        product = (before.double() - now.double()) * gradient
        part = product.movedim(-2, 0).flatten(1).sum(1)
        total = part if total is None else total + part
    assert total is not None
    return total


def choose(effects: Sequence[HeadEffect], top: int, seed: int) -> None:
    """Mark the largest estimates, and as many random ones of the others."""
    ordered = sorted(effects, key=lambda effect: -abs(effect.estimate))
    others = ordered[top:]
    for effect in ordered[:top]:
        effect.chosen = "top"
    for effect in random.Random(seed).sample(others, min(top, len(others))):
        effect.chosen = "random"
