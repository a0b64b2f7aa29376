"""The stages that score, mask and prune attention heads. torch is imported only when one runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from topwork import Json, Stage, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from topwork import Run
    from topwork_lens.look import Look
    from topwork_lens.scoring.selection import Choice, Importance

Group = Literal["encoder", "decoder", "cross", "backbone"]


class ScoreOptions(BaseModel):
    """How attention heads are scored."""

    model_config = ConfigDict(extra="forbid")

    method: Literal["michel", "taylor", "leave_one_out", "shapley", "entropy", "random"] = Field(
        "michel", description="michel: mean |gradient of the gate|; the others are described in the README"
    )
    rows: PositiveInt = Field(1000, description="take at most this many calibration rows")
    reduction: Literal["example", "token", "batch"] = Field(
        "example", description="what the absolute value is taken of"
    )
    normalise: Literal["layer", "none", "global"] = Field("layer", description="layer: divide by the layer's l2 norm")
    batch_size: PositiveInt | None = Field(None, description="rows a batch; by default what the memory budget allows")
    precision: Literal["float32", "bf16"] = Field(
        "float32", description="bf16: under autocast; several times faster where the machine has it, and ranks alike"
    )
    orders: PositiveInt = Field(8, description="shapley: random orders in which the attention heads go")
    groups: list[Group] | None = Field(None, description="score only these groups")


def score_model(run: Run, options: ScoreOptions) -> Importance:
    """Score the attention heads of the run's model on calibration rows, by the task's own row losses."""
    import torch

    from topwork_lens.look import Look

    batches = run.loss_batches("calibrate", limit=options.rows, batch_size=options.batch_size)
    with torch.autocast(run.device.type, torch.bfloat16, enabled=options.precision == "bf16"):
        return Look(run.model, run.plugins).importance(
            run.progress(batches, label=f"head importance ({options.method})"),
            options.method,
            row_losses=run.task.row_losses,
            reduction=options.reduction,
            normalise=options.normalise,
            seed=run.seed,
            orders=options.orders,
            groups=options.groups,
            gather=run.process.gather,
        )


class HeadImportance(ScoreOptions, Stage):
    """Score every attention head by how much the task's loss depends on it."""

    name: ClassVar[str] = "head_importance"
    columns_shown: ClassVar[tuple[str, ...]] = ("method", "rows")

    def reads(self) -> tuple[str, ...]:
        return ("calibrate",)

    def __call__(self, run: Run) -> dict[str, Json]:
        importance = score_model(run, self)
        if run.process.main:
            importance.save(run.folder)
        run.process.barrier()
        return importance.json()


class ChoosingStage(Stage):
    """What choosing attention heads has in common; exactly one of `share`, `count`, `threshold`, `heads`,
    `layers`."""

    changes_model: ClassVar[bool] = True

    share: float | None = Field(None, gt=0, le=1, description="of the attention heads that there are now")
    count: PositiveInt | None = Field(None, description="how many attention heads")
    threshold: float | None = Field(None, description="all attention heads whose score is below")
    heads: dict[int | str, list[int]] | None = Field(
        None, description="original numbers by layer: a number, `group.number` such as decoder.0, or a module path"
    )
    layers: list[int | str] | None = Field(None, description="whole layers, named like those of `heads`")
    importance: Path | ScoreOptions | None = Field(
        None, description="a file, or options to score by; by default the latest head_importance of this run"
    )
    random: bool = Field(False, description="choose at random instead of by importance")
    at_least: int = Field(1, ge=0, description="attention heads that every layer keeps; 0 lets whole layers go")
    groups: list[Group] | None = Field(None, description="only attention heads of these groups")
    by: Literal["head", "group"] = Field("head", description="group: those that share keys and values go together")
    compare_random: int = Field(
        0, ge=0, description="evaluate this many random choices of the same size, masked, beside the chosen ones"
    )

    @model_validator(mode="after")
    def _one_way(self) -> ChoosingStage:
        ways = ("share", "count", "threshold", "heads", "layers")
        given = [name for name in ways if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(ways)}{': not ' if given else ''}{' and '.join(given)}")
        named = next((name for name in ("heads", "layers") if getattr(self, name) is not None), None)
        if named and (self.random or self.importance or self.groups or self.by == "group"):
            raise ValueError(f"`{named}` names the attention heads: random, importance, groups, by do not go with it")
        if self.random and (self.importance or self.threshold is not None):
            raise ValueError("`random` takes no importance and no threshold")
        return self

    def reads(self) -> tuple[str, ...]:
        roles = ("calibrate",) if isinstance(self.importance, ScoreOptions) else ()
        return (*roles, "evaluate") if self.compare_random else roles

    def choose(self, run: Run, look: Look) -> dict[str, list[int]]:
        """Original numbers by module path; attention heads that are masked already are not chosen again."""
        from topwork_lens.layers.discovery import heads_by_layer
        from topwork_lens.scoring.selection import choose, choose_random, wanted_of, whole_layers

        if self.heads is not None:
            return {path: numbers for path, (_, numbers) in heads_by_layer(look.layers, dict(self.heads)).items()}
        layers = look.active_layers()
        if self.layers is not None:
            return whole_layers(layers, self.layers)
        if self.random:
            chosen = choose_random(layers, self._choice(), run.seed)
        else:
            chosen = choose(layers, self._choice(), self._importance(run))
        found = sum(map(len, chosen.values()))
        if not found:
            run.say("no attention head was chosen")
        elif found < wanted_of(layers, self._choice()):
            run.say(f"{found} attention heads go, no more: every layer keeps {self.at_least} or more (at_least)")
        return chosen

    def _choice(self) -> Choice:
        from topwork_lens.scoring.selection import Choice

        groups = tuple(self.groups) if self.groups is not None else None
        return Choice(self.share, self.count, self.threshold, self.at_least, groups, self.by)

    def _importance(self, run: Run) -> Importance:
        from topwork_lens.scoring.selection import Importance

        if isinstance(self.importance, ScoreOptions):
            return score_model(run, self.importance)
        if self.importance is not None:
            return Importance.load(self.importance)
        for record in reversed(run.results):
            if record["stage"] == HeadImportance.name:
                return Importance.from_json(record["result"])
        raise UsageError(
            "nothing says how important the attention heads are",
            place=f"stage {self.name}",
            hint="put head_importance before it, or give `importance` or `random: true`",
        )

    def compared(self, run: Run, look: Look, chosen: dict[str, list[int]]) -> dict[str, Json] | None:
        """The metric with the chosen attention heads masked, and with as many random ones, on the evaluation rows."""
        from topwork_lens.scoring.selection import Choice, choose_random

        if not self.compare_random:
            return None
        primary = run.task.metric().primary
        least = 0 if self.heads is not None or self.layers is not None else self.at_least
        size = Choice(None, sum(map(len, chosen.values())), None, least, self._choice().groups, self.by)
        layers = look.active_layers()
        draws = [choose_random(layers, size, run.seed + draw) for draw in range(self.compare_random)]
        with look.mask_heads(chosen):
            masked = run.evaluate("evaluate")[primary]
        values = []
        for draw in draws:
            with look.mask_heads(draw):
                values.append(run.evaluate("evaluate")[primary])
        mean = sum(values) / len(values)
        return {"draws": len(values), f"random_{primary}": mean, f"masked_{primary}": masked, "values": values}


class PruneHeads(ChoosingStage):
    """Remove attention heads: the weights become smaller, and the pruned model is proved equal to the masked one."""

    name: ClassVar[str] = "prune_heads"

    check: bool = Field(True, description="compare masked and pruned on calibration rows; false: on random inputs")

    def reads(self) -> tuple[str, ...]:
        roles = super().reads()
        return ("calibrate", *roles) if self.check and "calibrate" not in roles else roles

    def __call__(self, run: Run) -> dict[str, Json]:
        from topwork_lens.look import Look

        look = Look(run.model, run.plugins)
        chosen = self.choose(run, look)
        beside = self.compared(run, look, chosen)
        found = look.prune_heads(chosen, check=check_call(run) if self.check else None).json()
        checks = found["check"] or {"proves": True, "layers": {}}
        if not checks["proves"] and not all(one["proves"] for one in checks["layers"].values()):
            run.say("the check of pruning proves nothing: masking these attention heads hardly changes the output")
        if found["removed"] and found["parameters_after"] >= found["parameters_before"]:
            run.say(
                "the model has not become smaller: attention heads that shared keys and values have copies of them; "
                "`by: group` takes those that share together"
            )
        # The summary table shows the first plain numbers.
        first = {key: found[key] for key in ("heads_before", "heads_after", "parameters_after")}
        return {
            **first,
            **_shown(beside),
            "speed_limit": found["speed_limit"],
            **found,
            **({"random": beside} if beside else {}),
        }


def check_call(run: Run) -> Callable[[], Any] | None:
    """Runs the model on a few calibration rows through the task; None when there are none.

    Every process gets the same rows: what they count and compare decides how each of them goes on.
    """
    batches = run.loss_batches("calibrate", limit=4 * run.process.count, batch_size=4)
    batch = next(iter(batches), None)
    if run.process.count > 1:
        gathered = run.process.gather(None if batch is None else batch.to("cpu"))
        shared = next((one for one in gathered if one is not None), None)
        batch = None if shared is None else shared.to(run.device)
    return None if batch is None else lambda: run.task.row_losses(run.model, batch)


class MaskHeads(ChoosingStage):
    """Switch attention heads off without removing them: gates of 0 that stay on the model and are saved with it."""

    name: ClassVar[str] = "mask_heads"

    factor: float = Field(0.0, description="what their output is multiplied by; 0 switches them off")

    def __call__(self, run: Run) -> dict[str, Json]:
        from topwork_lens.look import Look
        from topwork_lens.pruning.prune import count_heads

        look = Look(run.model, run.plugins)
        before = count_heads(look.active_layers())
        chosen = self.choose(run, look)
        beside = self.compared(run, look, chosen)
        masked = look.keep_masked(chosen, self.factor)
        after = count_heads(look.active_layers())
        found = {"heads_before": before, "heads_after": after, **_shown(beside), "masked": masked}
        return {**found, "layers": look.table(), **({"random": beside} if beside else {})}


class HeadAblation(Stage):
    """Measure what happens without each attention head, and with each alone in its layer; the model stays as it is."""

    name: ClassVar[str] = "head_ablation"

    tables: list[Literal["one_removed", "all_but_one"]] = Field(
        ["one_removed", "all_but_one"],
        description="one_removed: without each attention head; all_but_one: each alone in its layer",
    )
    role: Literal["calibrate", "evaluate"] = Field("evaluate", description="whose rows")
    limit: PositiveInt | None = Field(None, description="use the first rows only")
    groups: list[Group] | None = Field(None, description="only attention heads of these groups")

    def reads(self) -> tuple[str, ...]:
        return (self.role,)

    def __call__(self, run: Run) -> dict[str, Json]:
        from topwork_lens.look import Look
        from topwork_lens.scoring.ablation import ablate, summary
        from topwork_lens.scoring.selection import in_groups

        metric = run.task.metric()
        layers = in_groups(Look(run.model, run.plugins).active_layers(), self.groups)
        table = ablate(
            run.model,
            layers,
            lambda: float(run.evaluate(self.role, limit=self.limit)[metric.primary]),
            one="one_removed" in self.tables,
            all_but_one="all_but_one" in self.tables,
            progress=lambda values: run.progress(values, label="head ablation"),
        )
        return {**summary(table, metric.higher_is_better), "primary": metric.primary, "layers": table["layers"]}


def _shown(beside: dict[str, Json] | None) -> dict[str, Json]:
    return {name: value for name, value in (beside or {}).items() if name.startswith(("random_", "masked_"))}
