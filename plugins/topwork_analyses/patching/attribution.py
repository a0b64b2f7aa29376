"""Attribution patching: the effect of every attention head between two batches, in two forward passes and one backward.

Entry point: `attribution_patching`. The first-order estimate of what happens when the context of an attention head in a
corrupt run is replaced with that of a clean run is (clean - corrupt) * dscalar/dcontext, summed (Nanda 2023; Syed et
al. 2023, section 3). The heads with the largest estimates, and as many random ones, are patched exactly; how the ranks
of estimates and effects agree is part of the result.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from topwork import Json, UsageError
from topwork_analyses.statistics.correlations import coefficient
from topwork_lens.layers.context import is_gateable
from topwork_lens.look import Look
from topwork_lens.model_state import quiet
from topwork_lens.refusals import refuse
from topwork_lens.tables import LayerTable

#: called with the outputs of a model; returns a number for each row: [rows]
Scalar = Callable[[Any], torch.Tensor]


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
) -> Attribution:
    """Estimate the effect of every attention head, and measure those of the largest estimates and of random ones.

    Args:
        look: what `topwork.look(model)` returned.
        clean: inputs whose contexts are put into the corrupt run.
        corrupt: inputs of the same shapes.
        scalar: outputs -> [rows], such as the difference of two logits.
        top: how many attention heads are patched exactly; as many random ones are patched beside them.
        seed: of the choice of random attention heads.

    Raises:
        UsageError: the scalar is no number for each row.
        Refused: the scalar does not depend on any attention head, or a layer's contexts have other shapes.
    """
    layers = [layer for layer in look.layers if is_gateable(layer) and layer.kept]
    paths = [layer.path for layer in layers]
    with quiet(look.model):
        with look.capture("context", layers=paths) as before:
            clean_scalar = scalar_of(scalar, look.model(**clean))
        with torch.enable_grad(), look.capture("context", "context_gradient", layers=paths) as after:
            corrupt_scalar = scalar_of(scalar, look.model(**corrupt))
            if not corrupt_scalar.requires_grad:
                raise refuse("no_gradient", "the scalar does not depend on any attention head")
            corrupt_scalar.sum().backward()
        look.model.zero_grad(set_to_none=True)
        rows = len(corrupt_scalar)
        effects = []
        for layer in layers:
            if layer.path not in after.values.get("context_gradient", {}):
                continue
            sums = _estimates(before.calls("context", layer.path), after, layer.path)
            kept = zip(layer.kept, (sums / rows).tolist(), strict=True)
            effects += [HeadEffect(layer.path, head, estimate) for head, estimate in kept]
        baseline = float(corrupt_scalar.detach().double().mean())
        _choose(effects, top, seed)
        for effect in effects:
            if effect.chosen:
                with look.patch("context", before, heads={effect.path: [effect.head]}):
                    patched = scalar_of(scalar, look.model(**corrupt))
                effect.exact = float(patched.double().mean()) - baseline
    return Attribution(effects, float(clean_scalar.double().mean()), baseline)


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


def _estimates(clean: Sequence[torch.Tensor], after: Any, path: str) -> torch.Tensor:
    """[heads] in float64, summed over rows, positions and the runs of a shared layer."""
    corrupt, gradients = after.calls("context", path), list(reversed(after.calls("context_gradient", path)))
    total: torch.Tensor | None = None
    for before, now, gradient in zip(clean, corrupt, gradients, strict=True):
        if before.shape != now.shape:
            cause = f"contexts of shape {tuple(before.shape)} and {tuple(now.shape)}"
            raise refuse("check_failed", cause, place=path, hint="give batches of the same shapes")
        product = (before.double() - now.double()) * gradient.double()
        part = product.movedim(-2, 0).flatten(1).sum(1)
        total = part if total is None else total + part
    assert total is not None
    return total


def _choose(effects: Sequence[HeadEffect], top: int, seed: int) -> None:
    ordered = sorted(effects, key=lambda effect: -abs(effect.estimate))
    others = ordered[top:]
    for effect in ordered[:top]:
        effect.chosen = "top"
    for effect in random.Random(seed).sample(others, min(top, len(others))):
        effect.chosen = "random"
