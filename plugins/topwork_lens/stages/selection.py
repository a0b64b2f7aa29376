"""Options of the stages that choose attention heads: by importance, at random, or by name."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from topwork import Json, Stage, UsageError
from topwork_lens.stages.head_importance import Group, HeadImportance, ScoreOptions, score_model

if TYPE_CHECKING:
    from topwork import RandomBaseline, Run
    from topwork_lens.look import Look
    from topwork_lens.scoring.selection import Choice, Importance


class SelectionOptions(Stage):
    """Base of stages that choose attention heads; exactly one of `share`, `count`, `threshold`, `heads`, `layers`."""

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
    def _check_options(self) -> SelectionOptions:
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
        """Return the roles whose rows the stage reads."""
        roles = ("calibrate",) if isinstance(self.importance, ScoreOptions) else ()
        return (*roles, "evaluate") if self.compare_random else roles

    def precheck(self, before: Sequence[Stage]) -> str | None:
        """Return a problem when nothing before the stage scores the attention heads that it needs scores of."""
        needs = self.importance is None and not self.random and self.heads is None and self.layers is None
        if needs and not any(stage.name == HeadImportance.name for stage in before):
            return "nothing scores the attention heads: put head_importance before it, or give `importance`"
        return None

    def precheck_model(self, run: Run) -> str | None:
        """Return a problem when the model has no layer or attention head of a name that the stage was given."""
        from topwork_lens.look import Look

        try:
            self._named(Look(run.model, run.plugins))
        except UsageError as error:
            return str(error)
        return None

    def shared_problem(self, run: Run) -> str | None:
        """Return a problem when attention heads that may be chosen share their weights with other layers."""
        from topwork_lens.look import Look

        look = Look(run.model, run.plugins)
        return shared_problem(look, self.groups, self._named(look))

    def _named(self, look: Look) -> Any:
        """Return the attention heads that the options name, by layer; None when scores or chance choose them.

        Raises:
            UsageError: the model has no such layer or attention head.
        """
        from topwork_lens.layers.discovery import heads_by_layer
        from topwork_lens.scoring.selection import whole_layers

        if self.heads is not None:
            return heads_by_layer(look.layers, dict(self.heads))
        return whole_layers(look.active_layers(), self.layers) if self.layers is not None else None

    def choose(self, run: Run, look: Look) -> dict[str, list[int]]:
        """Choose attention heads: original numbers by module path, without those that are masked already.

        Raises:
            UsageError: a named layer or attention head does not exist, or nothing says how important they are.
        """
        from topwork_lens.layers.discovery import heads_by_layer
        from topwork_lens.scoring.selection import choose, choose_random, wanted_of, whole_layers

        if self.heads is not None:
            return {path: numbers for path, (_, numbers) in heads_by_layer(look.layers, dict(self.heads)).items()}
        layers = look.active_layers()
        if self.layers is not None:
            return whole_layers(layers, self.layers)
        if self.random:
            chosen = choose_random(layers, self.choice(), run.seed)
        else:
            chosen = choose(layers, self.choice(), self._importance(run))
        count = sum(map(len, chosen.values()))
        if not count:
            run.say("no attention head was chosen")
        elif count < wanted_of(layers, self.choice()):
            run.say(f"{count} attention heads go, no more: every layer keeps {self.at_least} or more (at_least)")
        return chosen

    def choice(self) -> Choice:
        """Return the rules by which attention heads are chosen."""
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

    def compare_with_random(self, run: Run, look: Look, chosen: dict[str, list[int]]) -> dict[str, Json] | None:
        """Measure the metric on evaluation rows with the chosen attention heads masked, and with as many random ones.

        Returns:
            "draws", "random_<metric>" (the mean), "masked_<metric>", "values", and the same as "baseline", as the
            result of a stage has it; None when no comparison is wanted.
        """
        from topwork_lens.scoring.selection import Choice, choose_random

        if not self.compare_random:
            return None
        primary = run.task.metric().primary
        at_least = 0 if self.heads is not None or self.layers is not None else self.at_least
        size = Choice(None, sum(map(len, chosen.values())), None, at_least, self.choice().groups, self.by)
        layers = look.active_layers()
        draws = [choose_random(layers, size, run.seed + draw) for draw in range(self.compare_random)]
        with look.mask_heads(chosen):
            masked = run.evaluate("evaluate")[primary]
        values = []
        for draw in draws:
            with look.mask_heads(draw):
                values.append(run.evaluate("evaluate")[primary])
        mean = sum(values) / len(values)
        drawn = {"draws": len(values), f"random_{primary}": mean, f"masked_{primary}": masked, "values": values}
        return {**drawn, "baseline": random_baseline(primary, "evaluate", values, masked)}


def shown(comparison: dict[str, Json] | None) -> dict[str, Json]:
    """Return the numbers of `compare_with_random` that the summary shows."""
    return {name: value for name, value in (comparison or {}).items() if name.startswith(("random_", "masked_"))}


def random_baseline(metric: str, role: str, values: Sequence[float], chosen: float) -> RandomBaseline:
    """Return the random baseline of a stage's result.

    Args:
        metric: name of the metric.
        role: whose rows it was measured on.
        values: the metric of each random choice.
        chosen: the metric of the stage's own choice, measured in the same way.
    """
    return {
        "draws": len(values),
        "role": role,
        "metrics": {metric: sum(values) / len(values)},
        "each": [{metric: value} for value in values],
        "chosen": {metric: chosen},
    }


def baseline_keys(comparison: dict[str, Json] | None) -> dict[str, Json]:
    """Return the keys of a stage's result that `compare_with_random` fills: none, or `random_baseline` and `random`."""
    if comparison is None:
        return {}
    # `random` is what results had before `random_baseline`; readers of earlier results know it.
    return {
        "random_baseline": comparison["baseline"],
        "random": {key: value for key, value in comparison.items() if key != "baseline"},
    }


def shared_problem(look: Look, groups: Sequence[str] | None, paths: Collection[str] | None = None) -> str | None:
    """Return a problem when attention heads that may be removed share their weights with another layer.

    Encoder and decoder with one copy of their weights are the common case: a layer cannot become smaller alone.

    Args:
        look: the model.
        groups: only layers of these groups may be pruned; None for all.
        paths: only these layers may be pruned; None for all.
    """
    from topwork_lens.layers.discovery import group_of
    from topwork_lens.pruning.slicing import shared_elsewhere
    from topwork_lens.scoring.selection import in_groups

    present = {group_of(layer) for layer in look.layers}
    chosen = in_groups(look.active_layers(), [group for group in groups if group in present] if groups else None)
    for layer in chosen:
        if paths is not None and layer.path not in paths:
            continue
        if layer.prunable and (user := shared_elsewhere(look.model, layer)) is not None:
            free = sorted({group_of(other) for other in chosen if shared_elsewhere(look.model, other) is None})
            instead = f"prune `groups: [{', '.join(free)}]` alone, or " if free and paths is None else ""
            return (
                f"`{layer.path}` cannot be pruned: its weights are also those of {user}; {instead}switch the attention "
                "heads off with mask_heads (for prune_schedule: `prune: false`), or build the model without `share`"
            )
    return None
