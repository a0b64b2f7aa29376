"""The stage `head_effects`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from topwork import Json, Stage

if TYPE_CHECKING:
    from topwork import AttentionLayer, Run
    from topwork_analyses.head_effects.effects import Ablation, Effect
    from topwork_analyses.head_effects.row_values import MetricDifference, RowValues


class IntervalOptions(Stage):
    """Options of intervals over rows, and of the rows that are used."""

    role: Literal["calibrate", "evaluate"] = Field("evaluate", description="whose rows")
    limit: PositiveInt | None = Field(None, ge=2, description="use the first rows only")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="share of intervals that hold the true value")
    interval: Literal["BCa", "percentile"] = Field("BCa", description="how intervals are made of resamples")
    draws: PositiveInt | None = Field(
        None,
        ge=100,
        description="resamples of rows; by default 2000, or what a correction for all attention heads takes to become "
        "significant",
    )
    corpus_draws: PositiveInt = Field(
        200, ge=20, description="resamples where the metric is no mean over rows and is computed for each"
    )

    def options(self, seed: int, rows: int, comparisons: int) -> Any:
        """Return the options of the intervals.

        Args:
            seed: of the resamples.
            rows: that are resampled.
            comparisons: how many are corrected together.
        """
        from topwork_analyses.head_effects.row_values import Options
        from topwork_analyses.statistics.bootstrap import enough_draws

        draws = self.draws or enough_draws(rows, comparisons, self.confidence)
        return Options(self.confidence, self.interval, draws, self.corpus_draws, seed)


class HeadEffects(IntervalOptions):
    """Measure what changes without each attention head: intervals over rows, corrected for all attention heads."""

    name: ClassVar[str] = "head_effects"
    columns_shown: ClassVar[tuple[str, ...]] = ("heads", "significant", "better_without", "worst", "layers_fine_alone")

    tables: list[Literal["one_removed", "all_but_one"]] = Field(
        ["one_removed", "all_but_one"],
        min_length=1,
        description="one_removed: without each attention head; all_but_one: each layer with its best one alone",
    )
    measures: list[Literal["metric", "loss"]] = Field(
        ["metric", "loss"], min_length=1, description="the task's metric, the mean loss of the rows"
    )
    ablation: Literal["zero", "mean", "resample"] = Field(
        "zero",
        description="what takes the output's part: zero (as pruning does), its mean over rows, or the output at random "
        "other positions",
    )
    donors: PositiveInt = Field(64, description="rows of which means and samples are made")
    groups: list[Literal["encoder", "decoder", "cross", "backbone"]] | None = Field(
        None, description="only attention heads of these groups"
    )
    other_role: Literal["calibrate", "evaluate"] | None = Field(
        None, description="rows of another domain: effects of single attention heads there are correlated with these"
    )
    slices: str | None = Field(None, description="a column: which attention heads serve the rows with one value of it")

    @model_validator(mode="after")
    def _check(self) -> HeadEffects:
        if self.other_role == self.role:
            raise ValueError("`other_role` is the role whose rows are measured anyway: name the other one")
        if (self.other_role or self.slices) and "one_removed" not in self.tables:
            raise ValueError("`other_role` and `slices` need one_removed among `tables`")
        return self

    def reads(self) -> tuple[str, ...]:
        """Return the roles whose rows the stage reads."""
        return (self.role, self.other_role) if self.other_role else (self.role,)

    def __call__(self, run: Run) -> dict[str, Json]:
        """Run the stage."""
        from topwork_analyses.head_effects.report import counts, effect_lines, group_lines, layer_entries
        from topwork_lens.look import Look
        from topwork_lens.refusals import refuse
        from topwork_lens.scoring.selection import in_groups

        layers = in_groups(Look(run.model, run.plugins).active_layers(), self.groups)
        if not layers:
            raise refuse("unknown_layout", "no attention layer was found in this model", place=f"stage {self.name}")
        study = Study(self, run, self.role, layers)
        level, sign = 1 - self.confidence, study.difference.sign
        doubts = study.doubts(level)
        for doubt in doubts:
            run.say(f"head effects: {doubt}")
        result: dict[str, Json] = {"metrics": study.metrics(), "primary": study.difference.primary, "measures": "part"}
        result |= {
            "higher_is_better": sign > 0,
            "role": self.role,
            "ablation": self.ablation,
            "rows": len(study.base.rows),
            "remarks": doubts,
            "tables": {},
            "layers": [],
        }
        if "one_removed" in self.tables:
            singles = study.removed()
            result |= counts(singles, level, sign) | study.extremes(singles)
            result["layers"] = layer_entries(singles, layers)
            result["head_maps"] = [
                {"key": f"{name}_change", "title": f"Change of the {name} without each attention head", "fitted": True}
                for name in self.measures
            ]
            result["tables"]["One attention head removed"] = effect_lines(singles, layers)
            result["tables"]["By group"] = group_lines(singles, level, sign)
            result |= self._agreement(run, layers, singles)
            if self.slices:
                result["tables"][f"Slices by {self.slices}"] = study.slices(singles, self.slices)
        if "all_but_one" in self.tables:
            bests = study.alone()
            result["layers_fine_alone"] = sum(not study.harms(effect, level) for effect in bests)
            result["tables"]["Best attention head alone in its layer"] = effect_lines(bests, layers)
        return result

    def _agreement(self, run: Run, layers: list[AttentionLayer], effects: list[Effect]) -> dict[str, Json]:
        """Correlate effects with those on rows of another domain (Michel et al. 2019, section 3.4)."""
        if self.other_role is None:
            return {}
        from topwork_analyses.statistics.correlations import correlation

        others = Study(self, run, self.other_role, layers).removed()
        lines = []
        for name in self.measures:
            pairs = [(getattr(a, name).estimate, getattr(b, name).estimate) for a, b in zip(effects, others)]
            first, second = zip(*pairs, strict=True)
            kinds: tuple[Literal["pearson", "spearman"], ...] = ("pearson", "spearman")
            lines += [{"measure": name, **correlation(first, second, kind, seed=run.seed)} for kind in kinds]
        return {"agreement": lines}


class Study:
    """Effects on the rows of one role of a run.

    Args:
        stage: options of intervals, with `measures` and `limit`.
        run: the run with the whole model.
        role: whose rows.
        layers: the layers whose attention heads are ablated.
    """

    def __init__(self, stage: HeadEffects, run: Run, role: str, layers: list[AttentionLayer]) -> None:
        from topwork_analyses.head_effects.ablations import Donors, ablation_of
        from topwork_analyses.head_effects.row_values import MetricDifference, measure, without_peers
        from topwork_lens.look import Look

        self.run, self.role, self.layers = run, role, layers
        self.comparisons = sum(len(layer.kept) for layer in layers)
        donors = None if stage.ablation == "zero" else Donors.collect(run, role, layers, stage.donors)
        self.ablation: Ablation = ablation_of(stage.ablation, Look(run.model, run.plugins), donors, run.seed)
        # Samples are drawn batch by batch: the same ones for any number of processes, if each has all rows.
        measuring = without_peers(run) if stage.ablation == "resample" else run
        self.measured: Callable[[], RowValues] = lambda: measure(measuring, role, stage.limit, stage.measures)
        self.base = self.measured()
        self.difference: MetricDifference = MetricDifference(
            run.task, self.base.metrics, stage.options(run.seed, len(self.base.rows), self.comparisons)
        )

    def metrics(self) -> dict[str, float]:
        """Return metric and loss of the whole model."""
        metrics = {self.difference.primary: self.difference.value} if self.base.metrics else {}
        return metrics if self.base.losses is None else {**metrics, "loss": float(self.base.losses.mean())}

    def doubts(self, level: float) -> list[str]:
        """Return why no effect can be significant, where that is so: too few rows or resamples for the correction."""
        from topwork_analyses.statistics.bootstrap import too_few

        return too_few(len(self.base.rows), self.difference.options.draws, self.comparisons, level)

    def removed(self) -> list[Effect]:
        """Return the effect of each attention head."""
        from topwork_analyses.head_effects.effects import removed

        return removed(self.layers, self.ablation, self.measured, self.base, self.difference, self._progress("without"))

    def alone(self) -> list[Effect]:
        """Return the effect of leaving the best attention head of each layer alone."""
        from topwork_analyses.head_effects.effects import alone

        return alone(self.layers, self.ablation, self.measured, self.base, self.difference, self._progress("alone"))

    def harms(self, effect: Effect, level: float) -> bool:
        """Return whether an effect is significant and for the worse."""
        if effect.metric is not None and effect.metric_p is not None:
            return effect.metric_p <= level and self.difference.sign * effect.metric.estimate < 0
        return (
            effect.loss is not None
            and effect.loss_p is not None
            and effect.loss_p <= level
            and (effect.loss.estimate > 0)
        )

    def extremes(self, effects: list[Effect]) -> dict[str, Json]:
        """Return the worst and the best change, positive where something gets better."""
        values = [self.difference.sign * effect.metric.estimate for effect in effects if effect.metric is not None]
        values = values or [-effect.loss.estimate for effect in effects if effect.loss is not None]
        return {"worst": min(values), "best": max(values)} if values else {}

    def slices(self, effects: list[Effect], column: str) -> list[dict[str, Json]]:
        """Return a line for each slice of the rows by a column."""
        from topwork_analyses.head_effects.row_values import row_cells
        from topwork_analyses.head_effects.slices import slice_lines, slices_of

        groups = slices_of(row_cells(self.run.column(self.role, column), self.base.rows, column), column)
        return [
            {"measure": measure, **line}
            for measure in ("metric", "loss")
            for line in slice_lines(effects, groups, measure, self.difference.options)
        ]

    def _progress(self, label: str) -> Callable[[list[Any]], Any]:
        return lambda values: self.run.progress(values, label=f"head effects, {label}")
