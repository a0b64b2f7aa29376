"""Data classes of a compression: `Budget` and `Settings`, the `Plan` that is made of them, the result `Compressed`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from topwork import AttentionLayer, Json, UsageError
from topwork_compress.search import Normalise
from topwork_compress.tuning import RIDGE, Fitted, Method
from topwork_compress.units import Costs, Masks, Units
from topwork_lens.pruning.prune import Pruned
from topwork_lens.tables import brief_indices, brief_list


@dataclass
class Budget:
    """Upper limit of the size of a model, as a share of what it was; one of the fields is given.

    Args:
        macs: of the multiply-accumulates on calibration rows.
        parameters: of the parameters.
        latency: of the measured seconds of the largest calibration batch.
    """

    macs: float | None = None
    parameters: float | None = None
    latency: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if len(given) != 1:
            raise UsageError("give one budget", hint="macs=0.5, parameters=0.5 or latency=0.5")
        ((name, value),) = given.items()
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
            raise UsageError(f"`{name}` is the share that is left, between 0 and 1, not {value!r}")

    @property
    def share(self) -> float:
        """The share that is left."""
        return float(next(value for value in (self.macs, self.parameters, self.latency) if value is not None))


@dataclass
class Settings:
    """Settings of a compression.

    Args:
        score: "surgeon", "fisher", "kl", "fluctuation", "magnitude" or "random"; None: "surgeon" where least squares
            fits what is left, else "fisher".
        tune: "lstsq", "bias" or "none".
        ridge: of least squares, see `tuning`.
        rearrange: swap by block Fisher.
        multiple: widths of blocks are multiples of it; None: of 16 for a budget in latency where all blocks have 128
            neurons or more, else of 1.
        at_least: heads and neurons that every layer and block keeps.
        layers: whole layers that are left out first, by measurement.
        uniform: all blocks of one width keep the same number of neurons, and attention heads stay, so that plain
            transformers loads the saved model.
        normalise: "kind" makes scores of heads and neurons comparable; None: for scores that are no estimate of a loss.
        seed: of random numbers.
    """

    score: str | None = None
    tune: Method = "lstsq"
    ridge: float = RIDGE
    rearrange: bool = True
    multiple: int | None = None
    at_least: int = 1
    layers: int = 0
    uniform: bool = False
    normalise: Normalise | None = None
    seed: int = 0

    def method(self) -> str:
        """Return the score that is used."""
        return self.score or ("surgeon" if self.tune == "lstsq" else "fisher")

    def how(self) -> Normalise:
        """Return how scores are normalised."""
        if self.normalise is not None:
            return self.normalise
        method = self.method()
        return "none" if method in ("surgeon", "fisher", "kl") else "cost" if method == "random" else "kind"


@dataclass
class Plan:
    """Units that will be removed, before any of them is.

    Args:
        units: of the model.
        costs: of the units.
        removed: original indices by path.
        cost: of the whole model then.
        budget: the largest cost allowed.
        rearranged: objective of block Fisher before and after the swaps, summed over layers and blocks.
    """

    units: Units
    costs: Costs
    removed: Masks
    cost: int
    budget: int
    rearranged: tuple[float, float] | None = None

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {before} -> {after}" for name, (before, after) in self.counts().items())
        cost = f"{self.costs.unit} {self.costs.total} -> {self.cost} of at most {self.budget}"
        return f"Plan({cost}, {counts}; removed {brief_indices(self.removed)})"

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return heads and neurons, before and after."""
        result = {}
        for kind, wanted in (("heads", True), ("neurons", False)):
            units = [unit for unit in self.units.chosen.values() if isinstance(unit, AttentionLayer) == wanted]
            before = sum(len(unit.kept) for unit in units)
            result[kind] = (before, before - sum(len(self.removed.get(unit.path, ())) for unit in units))
        return result


@dataclass
class Compressed:
    """Result of compression.

    Args:
        plan: what was removed.
        pruned: the proof that masked and pruned model agree, and the layers.
        tuned: what least squares changed.
        before: costs before, on the same rows.
        after: the counted cost of the smaller model.
        seconds: CPU seconds that each step took.
        left_out: original paths of whole layers that were left out.
        measured_layers: what was measured to choose them.
        kept_whole: why layers and blocks that were found are not smaller, by path.
        plain: of a uniform cut: which numbers of the config are smaller now; plain transformers loads the saved model.
        why_not_plain: of a uniform cut: why it would not, or "".
    """

    plan: Plan
    pruned: Pruned
    tuned: list[Fitted]
    before: int
    after: int
    seconds: dict[str, float] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    measured_layers: list[dict[str, Any]] = field(default_factory=list)
    kept_whole: dict[str, str] = field(default_factory=dict)
    plain: dict[str, int] = field(default_factory=dict)
    why_not_plain: str = ""

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {before} -> {after}" for name, (before, after) in self.plan.counts().items())
        parts = [f"{self.plan.costs.unit} {self.before} -> {self.after}, {counts}"]
        if self.left_out:
            parts.append(f"left out {brief_list(self.left_out)}")
        if self.plain:
            parts.append(f"plain transformers loads it: {self.plain}")
        if self.tuned:
            parts.append(f"fitted {sum(fitted.accepted for fitted in self.tuned)} of {len(self.tuned)}")
        return f"Compressed({'; '.join(parts)}; {self.pruned.check})"

    @property
    def limit(self) -> float:
        """How many times faster it would be if all of its time were what the budget counts."""
        # seconds that were measured again are the result, not the limit: that is what the table promised
        return self.before / (self.plan.cost if self.plan.costs.unit == "nanoseconds" else self.after)

    def json(self) -> dict[str, Json]:
        """Return the form that a stage's result has."""
        unit, plan = self.plan.costs.unit, self.plan
        counts = plan.counts()
        removable = plan.costs.removable(plan.units)
        result: dict[str, Json] = {
            f"{unit}_before": self.before,
            f"{unit}_after": self.after,
            f"{unit}_left": self.after / self.before,
            f"{unit}_predicted": plan.cost,
            "limit": self.limit,
            "share_of_heads": removable["heads"] / self.before,
            "share_of_neurons": removable["neurons"] / self.before,
            "neurons_before": counts["neurons"][0],
            "neurons_after": counts["neurons"][1],
        }
        tables: dict[str, Json] = {"what is left": self._left()}
        if self.tuned:
            tables["least squares"] = [entry.json() for entry in self.tuned]
        if self.kept_whole:
            tables["what stays whole"] = [{"path": path, "why": why} for path, why in self.kept_whole.items()]
        if self.plain or self.why_not_plain:
            result["plain_transformers"] = self.plain
            result["why_not_plain"] = self.why_not_plain
        if self.left_out:
            result["left_out"] = self.left_out
            tables["without whole layers"] = self.measured_layers
        return {**result, **self.pruned.json(), "seconds": self.seconds, "tables": tables}

    def by_layer(self) -> list[dict[str, Json]]:
        """Return how many attention heads or neurons each layer had and has, as `topwork.Removal` says it."""
        units = {"heads": "attention heads", "neurons": "neurons"}
        lines = self._left()
        return [
            {"unit": units[line["kind"]], **{name: line[name] for name in ("path", "before", "after")}}
            for line in lines
        ]

    def _left(self) -> list[dict[str, Json]]:
        table = []
        for path, unit in self.plan.units.chosen.items():
            kind = "heads" if isinstance(unit, AttentionLayer) else "neurons"
            now = len(unit.kept) - len(self.plan.removed.get(path, ()))
            table.append({"path": path, "kind": kind, "before": len(unit.kept), "after": now})
        return table
