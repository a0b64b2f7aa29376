"""The run told in one line: the metric before pruning, after it, at random, after recovery; and what was removed."""

from __future__ import annotations

from typing import Any

from topwork_report.run_files import RunFiles, StageFiles, mappings, number, numbers

Card = dict[str, Any]


def is_pruning(stage: StageFiles) -> bool:
    """True for a stage that says how many attention heads there were before it and after."""
    return number(stage.result.get("heads_before")) is not None and number(stage.result.get("heads_after")) is not None


def measures_model(stage: StageFiles) -> bool:
    """Whether the metrics of a stage are those of the whole model; `StageResult` has the key.

    Of runs of earlier versions, which do not have it, only `evaluate` measures the model.
    """
    measures = stage.result.get("measures")
    return measures == "model" if isinstance(measures, str) else stage.name == "evaluate"


def metrics_of(stage: StageFiles) -> dict[str, float]:
    """The metrics of a stage's result; empty when it has none."""
    metrics = stage.result.get("metrics")
    return numbers(metrics) if isinstance(metrics, dict) else {}


def primary(run: RunFiles) -> str | None:
    """The metric that the story is told in: the one that the first evaluation names, else its first that is no loss."""
    for stage in filter(measures_model, run.stages):
        metrics = metrics_of(stage)
        named = stage.result.get("primary")
        if isinstance(named, str) and named in metrics:
            return named
        if metrics:
            return next((key for key in metrics if "loss" not in key), next(iter(metrics)))
    return None


def story(run: RunFiles) -> dict[str, Any] | None:
    """The cards of the strip, in the order of the stages; None when no metric was measured."""
    key = primary(run)
    if key is None:
        return None
    cards: list[Card] = []
    state = _State(any(is_pruning(stage) for stage in run.stages))
    for stage in run.stages:
        metrics = metrics_of(stage)
        if is_pruning(stage):
            cards.append(_pruned(stage))
            state.pruned, state.trained = True, False
            state.way = "masking" if "masked" in stage.result else "pruning"
            drawn = random_metrics(stage.result).get(key)
            if drawn is not None:
                state.random = {"value": drawn, "stage": stage}
        elif key in metrics and measures_model(stage):
            cards.append(state.measured(stage, metrics[key]))
            if state.random:
                cards.append(state.chance())
        elif "history" in stage.result:
            state.trained = True
    if state.random:
        cards.append(state.chance())
    _scale(cards)
    direction = next((s.result["higher_is_better"] for s in run.stages if "higher_is_better" in s.result), None)
    return {"metric": key, "cards": cards, "higher_is_better": direction if isinstance(direction, bool) else None}


class _State:
    """What has happened so far: it decides what a measurement is called."""

    def __init__(self, will_prune: bool) -> None:
        self.will_prune, self.pruned, self.trained = will_prune, False, False
        self.way = "pruning"
        self.random: dict[str, Any] | None = None
        self.first: float | None = None

    def measured(self, stage: StageFiles, value: float) -> Card:
        if self.pruned:
            label = "After recovery" if self.trained else f"After {self.way}"
        elif self.will_prune:
            label = "Before pruning"
        else:
            label = "After training" if self.trained else "Evaluation"
        role = stage.options.get("role")
        card = self._card(label, value, stage)
        card["role"] = role if isinstance(role, str) and role != "evaluate" else None
        if self.first is None:
            self.first = value
        return card

    def chance(self) -> Card:
        assert self.random is not None
        drawn, self.random = self.random, None
        card = self._card("As many at random", drawn["value"], drawn["stage"])
        return {**card, "kind": "random", "role": None}

    def _card(self, label: str, value: float, stage: StageFiles) -> Card:
        change = None if self.first is None else value - self.first
        return {"kind": "value", "label": label, "value": value, "change": change, "stage": stage}


def _pruned(stage: StageFiles) -> Card:
    result = stage.result
    before, after = result["heads_before"], result["heads_after"]
    card: Card = {
        "kind": "pruned",
        "word": "Masked" if "masked" in result else "Pruned",
        "stage": stage,
        "removed": before - after,
        "before": before,
        "after": after,
    }
    card["share"] = (before - after) / before if before else 0.0
    sizes = number(result.get("parameters_before")), number(result.get("parameters_after"))
    card["parameters"] = sizes if None not in sizes else None
    return card


def random_metrics(result: dict[str, Any]) -> dict[str, float]:
    """Metrics of the random baseline: `random` is one draw or several (then their mean is taken).

    A draw is {metric: value}, {"metrics": {metric: value}}, or has the metrics as `random_<metric>`.
    """
    drawn = result.get("random")
    if isinstance(drawn, dict) and isinstance(drawn.get("draws"), list) and not isinstance(drawn.get("metrics"), dict):
        drawn = drawn["draws"]
    if isinstance(drawn, list):
        each = [random_metrics({"random": draw}) for draw in mappings(drawn)]
        shared = [key for key in (each[0] if each else {}) if all(key in draw for draw in each)]
        return {key: sum(draw[key] for draw in each) / len(each) for key in shared}
    if not isinstance(drawn, dict):
        return {}
    named = {key.removeprefix("random_"): value for key, value in numbers(drawn).items() if key.startswith("random_")}
    if named:
        return named
    return numbers(drawn["metrics"]) if isinstance(drawn.get("metrics"), dict) else numbers(drawn)


def _scale(cards: list[Card]) -> None:
    """Bars on one scale from 0: up to 1 when all values lie there (or 100), else up to the largest; none below 0."""
    values = [card["value"] for card in cards if card["kind"] != "pruned"]
    top = max(values, default=0.0)
    top = 1.0 if top <= 1 else top
    for card in cards:
        if card["kind"] != "pruned" and min(values) >= 0 and top > 0:
            card["bar"] = round(card["value"] / top, 4)
