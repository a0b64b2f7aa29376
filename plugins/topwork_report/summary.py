"""The headline of the page: one metric over the stages of a run, and the parts of the model that were taken away.

Entry point: `headline_cards`. Every card is made of keys of `topwork.StageResult`; the names of stages, metrics and
options decide nothing.
"""

from __future__ import annotations

from typing import Any

from topwork_report.run_files import RunFiles, StageFiles, count_in, mappings, numbers

Card = dict[str, Any]


def measures_model(stage: StageFiles) -> bool:
    """Return whether the metrics of a stage are those of the whole model, as the stage itself says."""
    return stage.result.get("measures") == "model"


def metrics_of(stage: StageFiles) -> dict[str, float]:
    """Return the metrics of a stage's result; empty when it has none."""
    return _metrics(stage.result.get("metrics"))


def removal_of(stage: StageFiles) -> dict[str, Any] | None:
    """Return the `removal` of a stage's result, None when the stage took nothing away or does not say how many."""
    removal = stage.result.get("removal")
    if not isinstance(removal, dict):
        return None
    before, after = count_in(removal, "before"), count_in(removal, "after")
    return removal if before is not None and after is not None and after <= before else None


def baseline_of(stage: StageFiles) -> dict[str, float]:
    """Return the metrics of a stage's random baseline; empty when it has none."""
    baseline = stage.result.get("random_baseline")
    return _metrics(baseline.get("metrics")) if isinstance(baseline, dict) else {}


def text_in(values: Any, key: str, default: str) -> str:
    """Return the text under a key of a JSON object, and the default where there is none."""
    value = values.get(key) if isinstance(values, dict) else None
    return value if isinstance(value, str) and value else default


def primary_metric(run: RunFiles) -> tuple[str, bool | None] | None:
    """Return the metric of the headline, and whether higher is better.

    It is the `primary` metric of the first stage that measures the model. None when no stage does, or none names it.
    """
    for stage in filter(measures_model, run.stages):
        primary, direction = stage.result.get("primary"), stage.result.get("higher_is_better")
        if isinstance(primary, str) and primary in metrics_of(stage):
            return primary, direction if isinstance(direction, bool) else None
    return None


def headline_cards(run: RunFiles) -> dict[str, Any] | None:
    """Return the headline of a run, {"metric", "cards", "higher_is_better"}; None when the model was not measured."""
    primary = primary_metric(run)
    if primary is None:
        return None
    metric, higher_is_better = primary
    story = _Story(run, metric)
    for stage in run.stages:
        story.add(stage)
    story.add_baseline()
    _add_bars(story.cards)
    return {"metric": metric, "cards": story.cards, "higher_is_better": higher_is_better}


class _Story:
    """The cards so far, and what was done to the model so far: a measurement is named by what came before it."""

    def __init__(self, run: RunFiles, metric: str) -> None:
        removing = [stage for stage in run.stages if removal_of(stage)]
        self.metric = metric
        self.cards: list[Card] = []
        self.first_removal = text_in(removing[0].result, "change", "removal") if removing else None
        self.last_change: str | None = None
        self.removed = False
        self.baseline: tuple[float, str | None, StageFiles] | None = None
        self.first_values: dict[str | None, float] = {}  # whose rows -> the first value that was measured on them

    def add(self, stage: StageFiles) -> None:
        """Add the cards of a stage, if it has any."""
        removal, metrics = removal_of(stage), metrics_of(stage)
        if removal is not None:
            self.cards.append(_removal_card(stage, removal))
            self.removed = True
        if stage.result.get("change"):
            self.last_change = text_in(stage.result, "change", "the change")
        chance = baseline_of(stage).get(self.metric)
        if chance is not None:
            role = text_in(stage.result.get("random_baseline"), "role", "")
            self.baseline = (chance, role or None, stage)
        if self.metric in metrics and measures_model(stage):
            rows = text_in(stage.result, "role", "") or None
            self.cards.append(self._value_card(self._label(), metrics[self.metric], rows, stage))
            self.first_values.setdefault(rows, metrics[self.metric])
            self.add_baseline()

    def add_baseline(self) -> None:
        """Add the card of the random baseline that waits for the measurement which it is compared with."""
        if self.baseline is not None:
            value, role, stage = self.baseline
            self.cards.append({**self._value_card("As many at random", value, role, stage), "kind": "random"})
            self.baseline = None

    def _label(self) -> str:
        if self.first_removal is not None and not self.removed:
            return f"Before {self.first_removal}"
        if self.last_change is None:
            return "Evaluation"
        if self.removed and self.last_change == "training":
            return "After recovery"
        return f"After {self.last_change}"

    def _value_card(self, label: str, value: float, role: str | None, stage: StageFiles) -> Card:
        first = self.first_values.get(role)
        change = None if first is None else value - first
        return {"kind": "value", "label": label, "value": value, "change": change, "role": role, "stage": stage}


def _removal_card(stage: StageFiles, removal: dict[str, Any]) -> Card:
    before, after = removal["before"], removal["after"]
    sizes = count_in(removal, "parameters_before"), count_in(removal, "parameters_after")
    return {
        "kind": "pruned",
        "word": text_in(removal, "how", "removed").capitalize(),
        "unit": text_in(removal, "unit", "parts"),
        "stage": stage,
        "removed": before - after,
        "before": before,
        "share": (before - after) / before if before else 0.0,
        "parameters": None if None in sizes else sizes,
        "further": _further_units(removal),
    }


def _further_units(removal: dict[str, Any]) -> list[tuple[str, int, int]]:
    """Return (unit, removed, before) of what was taken away beside the unit that the card counts, such as neurons."""
    sums: dict[str, list[int]] = {}
    for line in mappings(removal.get("by_layer")):
        before, after = count_in(line, "before"), count_in(line, "after")
        unit = text_in(line, "unit", "")
        if unit and unit != removal.get("unit") and before is not None and after is not None and after <= before:
            counts = sums.setdefault(unit, [0, 0])
            counts[0] += before - after
            counts[1] += before
    return [(unit, removed, before) for unit, (removed, before) in sums.items() if removed]


def _metrics(values: Any) -> dict[str, float]:
    return numbers(values) if isinstance(values, dict) else {}


def _add_bars(cards: list[Card]) -> None:
    """Add bars on one scale from 0: up to 1 when all values lie there, else up to the largest; none below 0."""
    values = [card["value"] for card in cards if card["kind"] != "pruned"]
    top = max(values, default=0.0)
    top = 1.0 if top <= 1 else top
    for card in cards:
        if card["kind"] != "pruned" and min(values) >= 0 and top > 0:
            card["bar"] = round(card["value"] / top, 4)
