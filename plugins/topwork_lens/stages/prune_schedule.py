"""The stage `prune_schedule`: a search for attention heads that can be removed, then one pruning.

Entry point: `PruneSchedule`, its options; `ScheduleRun` is one run of it. The search itself lies in `schedule`.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from topwork import Json, Stage, UsageError, write_json
from topwork_lens.stages.head_importance import Group, ScoreOptions, score_model
from topwork_lens.stages.prune_heads import check_call
from topwork_lens.stages.selection import random_baseline

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from topwork import RandomBaseline, Run
    from topwork_lens.look import Look
    from topwork_lens.pruning.prune import Pruned
    from topwork_lens.schedule.baselines import Baselines
    from topwork_lens.schedule.schedule import Limits, Masks, Point, SearchResult
    from topwork_lens.scoring.selection import Choice, Importance


class PruneSchedule(Stage):
    """Score, take some attention heads away, measure on calibration rows, and so on until a limit; then cut once."""

    name: ClassVar[str] = "prune_schedule"
    changes_model: ClassVar[bool] = True

    share: float | None = Field(None, gt=0, le=1, description="end when this share of the attention heads is gone")
    flops: float | None = Field(None, gt=0, lt=1, description="end when this share of the model's operations is left")
    metric: float | None = Field(
        None, gt=0, le=1, description="end when the metric on calibration rows falls below this share of its first"
    )
    step: float = Field(0.1, gt=0, description="attention heads that go at once; below 1 a share of all")
    importance: ScoreOptions = Field(default_factory=lambda: ScoreOptions(), description="how they are scored")
    iterative: bool = Field(False, description="score the masked model again at every step")
    search: Literal["steps", "bisect"] = Field("steps", description="bisect: measure fewer steps, for `metric` alone")
    recover: dict[str, Any] | None = Field(
        None, description="options of the stage `train`: cut and train on after every step"
    )
    at_least: int = Field(1, ge=0, description="attention heads that every layer keeps")
    groups: list[Group] | None = Field(None, description="only attention heads of these groups")
    by: Literal["head", "group"] = Field("head", description="group: those that share keys and values go together")
    limit: PositiveInt | None = Field(None, description="measure on the first calibration rows only")
    evaluate: bool = Field(False, description="the curve also has the metric on evaluate rows; it chooses nothing")
    compare: list[Literal["michel", "taylor", "leave_one_out", "shapley", "entropy", "random"] | ScoreOptions] = Field(
        default_factory=list, description="other ways to choose, measured beside every point: methods, or score options"
    )
    compare_random: int = Field(
        0, ge=0, description="random choices that are measured beside every point (6 when `compare` names random)"
    )
    prune: bool = Field(True, description="false: only the curve; the model stays as it is")

    @model_validator(mode="after")
    def _check_options(self) -> PruneSchedule:
        if self.share is None and self.flops is None and self.metric is None:
            raise ValueError("say when it ends: give `share`, `flops` or `metric`")
        if self.search == "bisect" and (self.iterative or self.recover is not None or self.metric is None):
            raise ValueError("`search: bisect` needs `metric`, and neither `iterative` nor `recover`")
        if self.recover is not None and (not self.prune or self.compare_random or self.compare):
            raise ValueError(
                "`recover` changes the model: `prune: false`, `compare`, `compare_random` do not go with it"
            )
        names = [label(options) for options in [self.importance, *self.others()]]
        if len(set(names)) < len(names):
            raise ValueError("`compare` names the same way twice, or that of `importance`")
        return self

    def others(self) -> list[ScoreOptions]:
        """Return what is compared, but for random choices; a bare method is scored on as many rows as the schedule."""
        rows = self.importance.rows
        options = [ScoreOptions(method=way, rows=rows) if isinstance(way, str) else way for way in self.compare]
        return [way for way in options if way.method != "random"]

    def draws(self) -> int:
        """Return how many random choices are measured."""
        methods = [way if isinstance(way, str) else way.method for way in self.compare]
        return self.compare_random or (6 if "random" in methods else 0)

    def reads(self) -> tuple[str, ...]:
        """Return the roles whose rows the stage reads."""
        more = ("train",) if self.recover is not None else ()
        return ("calibrate", *more, *(("evaluate",) if self.evaluate else ()))

    def precheck_model(self, run: Run) -> str | None:
        """Return a problem when the attention heads cannot be removed because other layers have the same weights."""
        from topwork_lens.look import Look
        from topwork_lens.stages.selection import shared_problem

        return shared_problem(Look(run.model, run.plugins), self.groups) if self.prune else None

    def __call__(self, run: Run) -> dict[str, Json]:
        """Run the stage."""
        return ScheduleRun(self, run)()

    def choice(self) -> Choice:
        """Return the rules by which attention heads are chosen."""
        from topwork_lens.scoring.selection import Choice

        return Choice(at_least=self.at_least, groups=tuple(self.groups) if self.groups else None, by=self.by)

    def limits(self) -> Limits:
        """Return when the search ends."""
        from topwork_lens.schedule.schedule import Limits

        return Limits(self.share, self.flops, self.metric)


class ScheduleRun:
    """One run of the stage `prune_schedule`."""

    def __init__(self, stage: PruneSchedule, run: Run) -> None:
        self.stage, self.run = stage, run
        self.primary = run.task.metric().primary
        self.trainer: Any = None
        if stage.recover is not None:
            self.trainer = _train_stage(run, stage.recover)
        self.layers = self.look().active_layers()
        self.pruned: Masks = {}  # what recovery has pruned already
        self.previous: Any = None  # the model before the last step, when recovery changes it, and how it was pruned
        self.prunings: list[Pruned] = []  # what recovery has pruned, step by step
        self.roles = ("calibrate", "evaluate") if stage.evaluate else ("calibrate",)
        self.baselines: Baselines | None = None

    def look(self) -> Look:
        """Return the lens on the run's present model."""
        from topwork_lens.look import Look

        return Look(self.run.model, self.run.plugins)

    def __call__(self) -> dict[str, Json]:
        """Search, prune what the search found, and return the stage's result."""
        from topwork_lens.pruning.prune import count_heads
        from topwork_lens.schedule.baselines import area_gained, charts
        from topwork_lens.schedule.schedule import count_masked

        heads_before = count_heads(self.layers)
        search = self.search()
        last = next(point for point in reversed(search.curve) if point.removed == count_masked(search.removed))
        curve = [point.json() for point in search.curve]
        drawn = charts(self.name(), search.curve, self.primary, self.roles)
        if self.run.process.main:
            record = {"metric": self.primary, "curve": curve, "curves": drawn, "masks": search.removed}
            write_json(self.run.folder / "curve.json", record)
        result: dict[str, Json] = {"heads_before": heads_before, "heads_after": heads_before - last.removed}
        result |= {f"first_{self.primary}": search.curve[0].metric, f"last_{self.primary}": last.metric}
        if "random" in last.more:
            result[f"random_{self.primary}"] = last.more[f"random_{self.primary}"]
            result["area_gained"] = area_gained(drawn[-1])
            result["random_baseline"] = self.random_baseline(last)
        if self.stage.prune:
            pruned = self.prune(search)
            change = "pruning" if self.trainer is None else "pruning with recovery"
            result = {**result, **pruned.json(), **result, "change": change, "removal": pruned.removal()}
        result |= {"ended_by": search.reason, "measured": len(curve)}
        return {**result, "curves": drawn, "curve": curve, "masks": search.removed}

    def random_baseline(self, point: Point) -> RandomBaseline:
        """Return what random choices gave at a point, on evaluate rows where they are measured."""
        role = self.roles[-1]
        chosen = point.more[f"evaluate_{self.primary}"] if role == "evaluate" else point.metric
        return random_baseline(self.primary, role, point.more["random"][role], chosen)

    def name(self) -> str:
        """Return the name of the schedule's own curve."""
        again = ", scored at every step" if self.stage.iterative or self.trainer is not None else ""
        return label(self.stage.importance) + again

    def search(self) -> SearchResult:
        """Run the search, with the baselines that are wanted beside it."""
        from topwork_lens.flops import count_flops
        from topwork_lens.schedule.baselines import Baselines
        from topwork_lens.schedule.schedule import Schedule

        stage, look = self.stage, self.look()
        flops = count_flops(self.run.model, self.layers, look.call(check_call(self.run)))
        seeds = [self.run.seed + draw for draw in range(stage.draws())]
        scores = {label(options): score_model(self.run, options) for options in stage.others()}
        self.baselines = Baselines(self.layers, stage.choice(), self.metric, self.roles, scores, seeds)
        total = sum(len(layer.kept) for layer in self.layers)
        schedule = Schedule(
            self.layers,
            stage.choice(),
            round(stage.step * total) if stage.step < 1 else round(stage.step),
            stage.limits(),
            flops,
            *self.measures(),
            higher_is_better=self.run.task.metric().higher_is_better,
            iterative=stage.iterative or self.trainer is not None,
            settle=self.recover if self.trainer is not None else None,
            watch=self.measure_baselines,
        )
        return schedule.bisect() if stage.search == "bisect" else schedule.run()

    # ------------------------------------------------------------------ what the search measures

    def masking(self, masks: Masks) -> AbstractContextManager[None]:
        """Mask, for a block, everything that is removed and not pruned yet."""
        return self.look().mask_heads({path: heads for path, heads in masks.items() if heads})

    def metric(self, masks: Masks, role: str) -> float:
        """Return the metric of the masked model; only that on calibration rows decides anything."""
        limit = self.stage.limit if role == "calibrate" else None
        with self.masking(masks):
            return float(self.run.evaluate(role, limit=limit)[self.primary])

    def score(self, masks: Masks) -> Importance:
        """Return the importance of the masked model's attention heads."""
        with self.masking(masks):
            return score_model(self.run, self.stage.importance)

    def measures(self) -> tuple[Callable[[Masks], float], Callable[[Masks], Importance]]:
        """Return what measures and what scores the masked model: together in one pass where that is possible."""
        from topwork_lens.schedule.output_cache import CachedMeasure

        def measure(masks: Masks) -> float:
            return self.metric(masks, "calibrate")

        options = self.stage.importance
        if self.trainer is not None or options.method not in ("michel", "taylor") or options.precision != "float32":
            return measure, self.score
        cached = CachedMeasure(self.run.model, measure, self.score, self.stage.iterative, self.run.process.gather)
        return cached.measure, cached.score

    def measure_baselines(self, masks: Masks, point: Point) -> None:
        """Add to a point the metric on evaluate rows, and those of other choices of the same size."""
        assert self.baselines is not None
        metrics = {role: point.metric if role == "calibrate" else self.metric(masks, role) for role in self.roles}
        if self.stage.evaluate:
            point.more[f"evaluate_{self.primary}"] = metrics["evaluate"]
        point.more |= self.baselines(point.removed, metrics)
        if drawn := point.more.get("random"):
            point.more[f"random_{self.primary}"] = sum(drawn["calibrate"]) / len(drawn["calibrate"])
        self.run.say(f"  {point.removed} attention heads gone: {self.primary} {point.metric:.4g}")

    # ------------------------------------------------------------------ recovery

    def recover(self, masks: Masks, point: Point) -> float:
        """Prune what is removed, train on, and return the metric."""
        self.previous = (copy.deepcopy(self.run.model), self.pruned, list(self.prunings))
        self.prunings.append(self.look().prune_heads(masks, check=check_call(self.run)))
        self.pruned = masks
        with self.run.nested(f"recover-{point.removed:03d}"):
            trained = self.trainer(self.run)
        metric = float(self.run.evaluate("calibrate", limit=self.stage.limit)[self.primary])
        point.more |= {"recovered": metric, "recovery_loss": trained.get("loss")}
        self.run.say(f"  trained on: {self.primary} {metric:.4g}")
        return metric

    def prune(self, search: SearchResult) -> Pruned:
        """Prune, with the check, what the search found; recovery has pruned most of it already."""
        from topwork_lens.pruning.prune import Pruned

        if search.reason == "metric" and self.previous is not None:
            self.run.model, self.pruned, self.prunings = self.previous
        last = self.look().prune_heads(search.removed, check=check_call(self.run))
        pruned = Pruned.merged([*self.prunings, last])
        before, after = pruned.flops
        if search.reason == "flops" and self.stage.flops and after.total > self.stage.flops * before.total:
            left = after.total / before.total
            self.run.say(
                f"  {left:.1%} of the operations are left, more than the {self.stage.flops:.1%} asked for: some layers "
                "could only be pruned softly, or shared keys and values were copied (`by: group`)"
            )
        return pruned


def _train_stage(run: Run, options: dict[str, Any]) -> Any:
    """Return the stage `train` with these options.

    Raises:
        UsageError: they are wrong, or no plugin has such a stage.
    """
    from pydantic import ValidationError

    try:
        return run.plugins.stage("train")(**options)
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(["recover", *map(str, first["loc"])])
        raise UsageError(first["msg"], place=f"stage prune_schedule, {option}") from error


def label(options: ScoreOptions) -> str:
    """Return the name of a curve: the method, and the options that are not the default ones."""
    changed = options.model_dump(exclude_defaults=True, exclude={"method", "rows", "batch_size"})
    return ", ".join([options.method, *(f"{key} {value}" for key, value in changed.items())])
