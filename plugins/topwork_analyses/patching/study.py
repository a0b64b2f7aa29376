"""Attribution patching over rows of a role: estimates of all attention heads, exact effects of some, with intervals.

Entry point: `AttributionStudy`. The corrupt run of a row is the row itself with noise on the first hidden state of the
first stack with attention, which works for texts, images and sounds alike (Meng et al. 2022, "causal tracing").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy
import torch
from numpy.typing import NDArray

from topwork import Batch, Json
from topwork_analyses.patching.attribution import (
    HeadEffect,
    attributed_layers,
    choose,
    estimates,
    exact_effect,
    first_state,
)
from topwork_analyses.scalars.named import RowScalar
from topwork_analyses.statistics.bootstrap import enough_draws, mean_intervals, too_few
from topwork_analyses.statistics.corrections import holm
from topwork_analyses.statistics.correlations import correlation
from topwork_analyses.statistics.row_table import RowTable
from topwork_lens.layers.discovery import numbered
from topwork_lens.look import Look
from topwork_lens.model_state import quiet
from topwork_lens.refusals import refuse

if TYPE_CHECKING:
    from topwork import Run
    from topwork_analyses.patching.options import PatchingOptions

#: rows, and runs of each, by which is measured whether the scalar is smooth enough for estimates
SMOOTH_ROWS, SMOOTH_STEPS = 4, 10
#: share of a change that gradients have to explain, and rank correlation that estimates have to reach
ENOUGH_EXPLAINED, ENOUGH_AGREEMENT = 0.5, 0.5
#: rounding steps of a scalar that the effects of the largest estimates have to exceed
ROUNDING = 16


class AttributionStudy:
    """Estimated and exact effects on the rows of a run.

    Args:
        stage: its options.
        run: the run.
    """

    def __init__(self, stage: PatchingOptions, run: Run) -> None:
        self.stage, self.run = stage, run
        self.look = Look(run.model, run.plugins)
        self.layers = attributed_layers(self.look)
        if not self.layers:
            raise refuse("unknown_layout", "no attention layer was found in this model", place=f"stage {stage.name}")
        self.effects = [HeadEffect(layer.path, head, 0.0) for layer in self.layers for head in layer.kept]
        self.rows = 0
        #: means of the scalar in the clean and the corrupt runs
        self.scalars = numpy.zeros(2)

    def estimate(self) -> None:
        """Estimate the effects of all attention heads, and choose those that are patched exactly."""
        sums, scalars, rows = numpy.zeros(len(self.effects)), numpy.zeros(2), 0
        for batch in self._batches("estimates"):
            with quiet(self.run.model):
                clean, between = self._runs(batch)
                estimated = estimates(self.look, self.layers, clean, partial(between, 0.0), self.stage.steps, between)
            parts = [estimated.sums.get(layer.path, torch.zeros(len(layer.kept))) for layer in self.layers]
            sums += torch.cat([part.double().cpu() for part in parts]).numpy()
            scalars += [float(estimated.clean.sum()), float(estimated.corrupt.sum())]
            rows += 1
        gathered = self.run.process.gather((rows, sums, scalars))
        self.rows = sum(rows for rows, _, _ in gathered)
        self.scalars = sum(scalars for _, _, scalars in gathered) / max(1, self.rows)
        for effect, estimate in zip(self.effects, sum(sums for _, sums, _ in gathered) / max(1, self.rows)):
            effect.estimate = float(estimate)
        choose(self.effects, self.stage.top, self.run.seed)

    def measure(self) -> NDArray[numpy.float64]:
        """Patch the chosen attention heads exactly; return [rows, chosen] changes of the scalar."""
        chosen = [effect for effect in self.effects if effect.chosen]
        parts = RowTable(len(chosen))
        paths = [layer.path for layer in self.layers]
        for batch in self._batches("patches"):
            with quiet(self.run.model):
                clean, between = self._runs(batch)
                with self.look.capture("context", layers=paths) as contexts:
                    clean()
                base = float(between(0.0).sum())
                corrupt = partial(between, 0.0)
                changes = [float(exact_effect(self.look, contexts, effect, corrupt).sum()) - base for effect in chosen]
            parts.add(min(batch.row_numbers), changes)
        return RowTable.joined(self.run.process.gather(parts))

    def explained_by_gradients(self) -> float | None:
        """Return how much of the change from noise to the clean input gradients on the way there add up to.

        1 for a scalar without jumps (completeness, Sundararajan et al. 2017, proposition 1), less where a choice inside
        of the model or of its loss turns over: the best queries of a detector, a matching of boxes. None where nothing
        changes.
        """
        parts: list[tuple[float, float]] = []
        for batch in self._batches("gradients between", SMOOTH_ROWS):
            with quiet(self.run.model):
                clean, between = self._runs(batch)
                with torch.no_grad():
                    change = float((clean() - between(0.0)).sum())
                slopes = [self._slope(between, (step + 0.5) / SMOOTH_STEPS) for step in range(SMOOTH_STEPS)]
            parts.append((change, sum(slopes) / SMOOTH_STEPS))
        pairs = numpy.array([pair for process in self.run.process.gather(parts) for pair in process])
        total = float(numpy.abs(pairs[:, 0]).sum())
        return 1 - float(numpy.abs(pairs[:, 0] - pairs[:, 1]).sum()) / total if total > 0 else None

    def _slope(self, between: Callable[[float | torch.Tensor], torch.Tensor], share: float) -> float:
        at = torch.tensor(share, device=self.run.device, requires_grad=True)
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(between(at).sum(), at)
        return float(slope)

    def _batches(self, what: str, most: int | None = None) -> Iterator[Batch]:
        limit = self.stage.rows if most is None else min(most, self.stage.rows)
        batches = self.run.loss_batches(self.stage.role, limit=limit, batch_size=1)
        yield from self.run.progress(batches, label=f"attribution patching, {what}")

    def _runs(self, batch: Batch) -> tuple[Callable[[], torch.Tensor], Callable[[float | torch.Tensor], torch.Tensor]]:
        """Return the clean run of a row, and the corrupt one with a share of its noise taken away."""
        seed = self.run.seed + min(batch.row_numbers)

        scalar = RowScalar(self.run.task, self.run.model, batch, self.stage)

        def clean() -> torch.Tensor:
            return scalar()[None]

        with torch.no_grad(), self.look.capture("hidden_states") as seen:
            clean()
        stack = first_state(self.look, seen.hidden_states(run=0))

        def between(share: float | torch.Tensor) -> torch.Tensor:
            def with_noise(state: torch.Tensor) -> torch.Tensor:
                generator = torch.Generator().manual_seed(seed)
                noise = torch.randn(state.shape, generator=generator).to(state)
                return state + (1 - share) * self.stage.noise * state.detach().std() * noise

            with self.look.patch("hidden_states", {(stack, 0): with_noise}):
                return clean()

        return clean, between

    # ------------------------------------------------------------------ result

    def result(self, exact: NDArray[numpy.float64]) -> dict[str, Json]:
        """Return the result of the stage; the noise of a row is drawn with `seed` plus the index of the row.

        Args:
            exact: what `measure` returned.
        """
        for effect, value in zip((e for e in self.effects if e.chosen), exact.mean(0).tolist()):
            effect.exact = value
        clean, corrupt = self.scalars.tolist()
        metrics: dict[str, float | None] = {"scalar": clean, "scalar_corrupt": corrupt}
        agreement: list[dict[str, Json]] = []
        for name, pairs in self._pairs().items():
            metrics[f"effect_{name}"] = float(numpy.mean([abs(effect) for _, effect in pairs])) if pairs else None
            if len(pairs) > 1:
                first, second = zip(*pairs, strict=True)
                agreeing = correlation(first, second, confidence=self.stage.confidence, seed=self.run.seed)
                agreement.append({"attention heads": name, **agreeing})
                metrics[f"correlation_{name}"] = agreeing["estimate"]
        metrics["explained_by_gradients"] = self.explained_by_gradients()
        return {
            "rows": self.rows,
            "heads": len(self.effects),
            "patched": exact.shape[1],
            "seed": self.run.seed,
            "metrics": metrics,
            "remarks": [*remarks(metrics), *self._too_few(exact.shape[1])],
            "measures": "part",
            "role": self.stage.role,
            "layers": self._entries(),
            "head_maps": [
                {"key": "estimate", "title": "Estimated effect of each attention head", "fitted": True},
                {"key": "exact", "title": "Exact effect, where it was measured", "fitted": True},
            ],
            "tables": {
                "Attention heads that were patched": self._lines(exact),
                "Estimates against exact effects (rank correlation)": agreement,
            },
        }

    def _draws(self, patched: int) -> int:
        return self.stage.draws or enough_draws(self.rows, patched, self.stage.confidence)

    def _too_few(self, patched: int) -> list[str]:
        if self.rows < 2 or not patched:
            return []
        return too_few(self.rows, self._draws(patched), patched, 1 - self.stage.confidence)

    def _pairs(self) -> dict[str, list[tuple[float, float]]]:
        """Estimates and exact effects of the largest estimates, of random others, and of both."""
        named = {name: [e for e in self.effects if e.chosen == name] for name in ("top", "random")}
        named["patched"] = [*named["top"], *named["random"]]
        return {name: [(e.estimate, e.exact or 0.0) for e in effects] for name, effects in named.items()}

    def _lines(self, exact: NDArray[numpy.float64]) -> list[dict[str, Json]]:
        """Return a line for each attention head that was patched, with intervals over rows, the largest first."""
        names = {layer.path: key for key, layer in numbered(self.layers).items()}
        chosen = [(index, effect) for index, effect in enumerate(self.effects) if effect.chosen]
        intervals: list[Any] = [None] * len(chosen)
        p_values: list[float | None] = [None] * len(chosen)
        if len(exact) > 1:
            options: dict[str, Any] = {"confidence": self.stage.confidence, "draws": self._draws(len(chosen))}
            intervals = list(mean_intervals(exact, seed=self.run.seed, **options))
            p_values = list(holm([interval.p for interval in intervals]))
        lines = []
        for (_, effect), interval, p in zip(chosen, intervals, p_values, strict=True):
            group, number = names[effect.path]
            line: dict[str, Json] = {"group": group, "layer": number, "head": effect.head, "chosen": effect.chosen}
            line |= {"estimate": effect.estimate, "exact": effect.exact}
            if interval is not None:
                line |= {"low": interval.low, "high": interval.high, "p": p}
            lines.append(line)
        return sorted(lines, key=lambda line: -abs(line["estimate"]))

    def _entries(self) -> list[dict[str, Json]]:
        """Return an entry for each layer, with lists by original index of an attention head."""
        entries = []
        for (group, number), layer in numbered(self.layers).items():
            estimate: list[float | None] = [None] * layer.heads
            exact = list(estimate)
            for effect in self.effects:
                if effect.path == layer.path:
                    estimate[effect.head], exact[effect.head] = effect.estimate, effect.exact
            entry: dict[str, Json] = {"group": group, "number": number, "path": layer.path, "kind": layer.kind}
            entry |= {"side": layer.side, "heads": layer.heads, "kept": list(layer.kept)}
            entries.append({**entry, "estimate": estimate, "exact": exact})
        return entries


def remarks(metrics: Mapping[str, float | None]) -> list[str]:
    """Return what speaks against the estimates, or against exact effects too, by what was measured.

    Args:
        metrics: of the stage.
    """
    doubts = []
    explained, agreement = metrics.get("explained_by_gradients"), metrics.get("correlation_patched")
    if explained is not None and explained < ENOUGH_EXPLAINED:
        doubts.append(
            f"gradients explain {max(explained, 0):.0%} of the change from noise to the clean input: a choice inside"
            " (of queries, a matching) turns over, and estimates do not see it"
        )
    if agreement is not None and agreement < ENOUGH_AGREEMENT:
        doubts.append(f"estimates rank attention heads as exact patches do by {agreement:.2f}: read the exact ones")
    step = float(numpy.finfo(numpy.float32).eps) * max(abs(metrics["scalar"] or 0), abs(metrics["scalar_corrupt"] or 0))
    if (metrics.get("effect_top") or 0) < ROUNDING * step:
        doubts.append(
            f"the largest effects are {metrics['effect_top']:.1g} of a scalar of {metrics['scalar']:.3g}: rounding"
        )
    return doubts
