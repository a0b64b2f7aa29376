"""The stage `prune_schedule`: a search for attention heads that can go, then one cut; the whole curve is kept."""

from __future__ import annotations

import copy
import shutil
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from topwork import Json, Stage, UsageError, write_json
from topwork_lens.stages.heads import Group, ScoreOptions, check_call, score_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from topwork import Run
    from topwork_lens.look import Look
    from topwork_lens.pruning.prune import Pruned
    from topwork_lens.schedule.baselines import Beside
    from topwork_lens.schedule.schedule import Found, Limits, Masks, Point
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
    def _ends(self) -> PruneSchedule:
        if self.share is None and self.flops is None and self.metric is None:
            raise ValueError("say when it ends: give `share`, `flops` or `metric`")
        if self.search == "bisect" and (self.iterative or self.recover is not None or self.metric is None):
            raise ValueError("`search: bisect` needs `metric`, and neither `iterative` nor `recover`")
        if self.recover is not None and (not self.prune or self.compare_random or self.compare):
            raise ValueError(
                "`recover` changes the model: `prune: false`, `compare`, `compare_random` do not go with it"
            )
        names = [label(one) for one in [self.importance, *self.others()]]
        if len(set(names)) < len(names):
            raise ValueError("`compare` names the same way twice, or that of `importance`")
        return self

    def others(self) -> list[ScoreOptions]:
        """What is compared, but for chance: a method alone is scored on as many rows as the schedule's own."""
        rows = self.importance.rows
        named = [ScoreOptions(method=one, rows=rows) if isinstance(one, str) else one for one in self.compare]
        return [one for one in named if one.method != "random"]

    def draws(self) -> int:
        """How many random choices are measured."""
        asked = any((one if isinstance(one, str) else one.method) == "random" for one in self.compare)
        return self.compare_random or (6 if asked else 0)

    def reads(self) -> tuple[str, ...]:
        more = ("train",) if self.recover is not None else ()
        return ("calibrate", *more, *(("evaluate",) if self.evaluate else ()))

    def __call__(self, run: Run) -> dict[str, Json]:
        return Work(self, run)()

    def choice(self) -> Choice:
        """The rules by which attention heads are chosen."""
        from topwork_lens.scoring.selection import Choice

        return Choice(at_least=self.at_least, groups=tuple(self.groups) if self.groups else None, by=self.by)

    def limits(self) -> Limits:
        """When it ends."""
        from topwork_lens.schedule.schedule import Limits

        return Limits(self.share, self.flops, self.metric)


class Work:
    """One run of the stage."""

    def __init__(self, stage: PruneSchedule, run: Run) -> None:
        self.stage, self.run = stage, run
        self.primary = run.task.metric().primary
        self.trainer: Any = None
        if stage.recover is not None:
            self.trainer = _train_stage(run, stage.recover)
        self.layers = self.look().active_layers()
        self.cut: Masks = {}  # what recovery has cut already
        self.good: Any = None  # the model before the last step, when recovery changes it, and how it was cut
        self.cuts: list[Pruned] = []  # what recovery has cut, step by step
        self.roles = ("calibrate", "evaluate") if stage.evaluate else ("calibrate",)
        self.other: Beside | None = None

    def look(self) -> Look:
        from topwork_lens.look import Look

        return Look(self.run.model, self.run.plugins)

    def __call__(self) -> dict[str, Json]:
        from topwork_lens.pruning.prune import count_heads
        from topwork_lens.schedule.baselines import charts, gained

        first = count_heads(self.layers)
        found = self.search()
        last = next(point for point in reversed(found.curve) if point.removed == sum(map(len, found.gone.values())))
        curve = [point.json() for point in found.curve]
        drawn = charts(self.name(), found.curve, self.primary, self.roles)
        if self.run.process.main:
            kept = {"metric": self.primary, "curve": curve, "curves": drawn, "masks": found.gone}
            write_json(self.run.folder / "curve.json", kept)
        result: dict[str, Json] = {"heads_before": first, "heads_after": first - last.removed}
        result |= {f"first_{self.primary}": found.curve[0].metric, f"last_{self.primary}": last.metric}
        if "random" in last.more:
            result[f"random_{self.primary}"] = last.more[f"random_{self.primary}"]
            result["area_gained"] = gained(drawn[-1])
        if self.stage.prune:
            result = {**result, **self.finished(found, result)}
        result |= {"ended_by": found.reason, "measured": len(curve)}
        return {**result, "curves": drawn, "curve": curve, "masks": found.gone}

    def name(self) -> str:
        """What the schedule's own curve is called."""
        again = ", scored at every step" if self.stage.iterative or self.trainer is not None else ""
        return label(self.stage.importance) + again

    def search(self) -> Found:
        from topwork_lens.flops import count_flops
        from topwork_lens.schedule.baselines import Beside
        from topwork_lens.schedule.schedule import Schedule

        stage, look = self.stage, self.look()
        flops = count_flops(self.run.model, self.layers, look.call(check_call(self.run)))
        seeds = [self.run.seed + draw for draw in range(stage.draws())]
        scores = {label(one): score_model(self.run, one) for one in stage.others()}
        self.other = Beside(self.layers, stage.choice(), self.metric, self.roles, scores, seeds)
        total = sum(len(layer.kept or ()) for layer in self.layers)
        schedule = Schedule(
            self.layers,
            stage.choice(),
            round(stage.step * total) if stage.step < 1 else round(stage.step),
            stage.limits(),
            flops,
            *self.asked(),
            higher_is_better=self.run.task.metric().higher_is_better,
            iterative=stage.iterative or self.trainer is not None,
            settle=self.recovered if self.trainer is not None else None,
            watch=self.beside,
        )
        return schedule.bisect() if stage.search == "bisect" else schedule.run()

    # ------------------------------------------------------------------ what the search asks

    def masked(self, gone: Masks) -> Any:
        """Masks everything that is gone and not cut yet, for a block."""
        return self.look().mask_heads({path: numbers for path, numbers in gone.items() if numbers})

    def metric(self, gone: Masks, role: str) -> float:
        """The metric of the masked model; only that on calibration rows decides anything."""
        limit = self.stage.limit if role == "calibrate" else None
        with self.masked(gone):
            return float(self.run.evaluate(role, limit=limit)[self.primary])

    def score(self, gone: Masks) -> Importance:
        with self.masked(gone):
            return score_model(self.run, self.stage.importance)

    def asked(self) -> tuple[Callable[[Masks], float], Callable[[Masks], Importance]]:
        """What measures and what scores the masked model."""
        from topwork_lens.schedule.output_cache import Together

        def measure(gone: Masks) -> float:
            return self.metric(gone, "calibrate")

        how = self.stage.importance
        if self.trainer is not None or how.method not in ("michel", "taylor") or how.precision != "float32":
            return measure, self.score
        both = Together(self.run.model, measure, self.score, self.stage.iterative, self.run.process.gather)
        return both.measure, both.score

    def beside(self, gone: Masks, point: Point) -> None:
        """More numbers for a point: on evaluate rows, and other choices of the same size."""
        assert self.other is not None
        own = {role: point.metric if role == "calibrate" else self.metric(gone, role) for role in self.roles}
        if self.stage.evaluate:
            point.more[f"evaluate_{self.primary}"] = own["evaluate"]
        point.more |= self.other(point.removed, own)
        if drawn := point.more.get("random"):
            point.more[f"random_{self.primary}"] = sum(drawn["calibrate"]) / len(drawn["calibrate"])
        self.run.say(f"  {point.removed} attention heads gone: {self.primary} {point.metric:.4g}")

    # ------------------------------------------------------------------ recovery

    def recovered(self, gone: Masks, point: Point) -> float:
        """Cut what is gone, train on, and measure again."""
        self.good = (copy.deepcopy(self.run.model), self.cut, list(self.cuts))
        self.cuts.append(self.look().prune_heads(gone, check=check_call(self.run)))
        self.cut = gone
        folder, name = self.run.folder, f"recover-{point.removed:03d}"
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True, exist_ok=True)
        self.run.folder = folder / name
        try:
            trained = self.trainer(self.run)
        finally:
            self.run.folder = folder
            self.run.model.eval()
            self.run.process.barrier()
            shutil.rmtree(folder / name, ignore_errors=True)
        metric = float(self.run.evaluate("calibrate", limit=self.stage.limit)[self.primary])
        point.more |= {"recovered": metric, "recovery_loss": trained.get("loss")}
        self.run.say(f"  trained on: {self.primary} {metric:.4g}")
        return metric

    def finished(self, found: Found, result: dict[str, Json]) -> dict[str, Json]:
        """Cut what the search found (recovery has done that already), with the check."""
        from topwork_lens.pruning.prune import together

        if found.reason == "metric" and self.good is not None:
            self.run.model, self.cut, self.cuts = self.good
        look = self.look()
        pruned = together([*self.cuts, look.prune_heads(found.gone, check=check_call(self.run))])
        before, after = pruned.flops
        if found.reason == "flops" and self.stage.flops and after.total > self.stage.flops * before.total:
            left = after.total / before.total
            self.run.say(
                f"  {left:.1%} of the operations are left, more than the {self.stage.flops:.1%} asked for: some layers "
                "could only be pruned softly, or shared keys and values were copied (`by: group`)"
            )
        return {**pruned.json(), **result}


def _train_stage(run: Run, options: dict[str, Any]) -> Any:
    """The stage `train` with these options.

    Raises:
        UsageError: they are wrong, or no plugin has such a stage.
    """
    from pydantic import ValidationError

    try:
        return run.plugins.stage("train")(**options)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(["recover", *map(str, first["loc"])])
        raise UsageError(first["msg"], place=f"stage prune_schedule, {place}") from error


def label(options: ScoreOptions) -> str:
    """What a curve is called: the method, and the options that are not the default ones."""
    said = options.model_dump(exclude_defaults=True, exclude={"method", "rows", "batch_size"})
    return ", ".join([options.method, *(f"{key} {value}" for key, value in said.items())])
