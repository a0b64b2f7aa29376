"""Results of `head_effects` as JSON: tables, lists by layer, and the numbers of the summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from topwork import AttentionLayer, Json
from topwork_analyses.head_effects.effects import Effect, significant
from topwork_lens.layers.discovery import group_of, numbered


def effect_lines(effects: Sequence[Effect], layers: Sequence[AttentionLayer]) -> list[dict[str, Json]]:
    """Return a line for each effect: layer, attention head, changes with their intervals and corrected p-values."""
    names = {layer.path: key for key, layer in numbered(layers).items()}
    lines = []
    for effect in effects:
        group, number = names[effect.layer.path]
        line: dict[str, Json] = {"group": group, "layer": number, "head": effect.head}
        for name, interval, p in (("metric", effect.metric, effect.metric_p), ("loss", effect.loss, effect.loss_p)):
            if interval is not None:
                line |= {f"{name} change": interval.estimate, f"{name} low": interval.low}
                line |= {f"{name} high": interval.high, f"{name} p": p}
        lines.append(line)
    return lines


def layer_entries(effects: Sequence[Effect], layers: Sequence[AttentionLayer]) -> list[dict[str, Json]]:
    """Return an entry for each layer with lists by original index of an attention head; None for pruned ones."""
    entries = []
    for (group, number), layer in numbered(layers).items():
        entry: dict[str, Json] = {"group": group, "number": number, "path": layer.path, "kind": layer.kind}
        entry |= {"side": layer.side, "heads": layer.heads, "kept": list(layer.kept)}
        of_layer = {effect.head: effect for effect in effects if effect.layer.path == layer.path}
        for name in ("metric", "loss"):
            values: list[float | None] = [None] * layer.heads
            for head, effect in of_layer.items():
                interval: Any = getattr(effect, name)
                values[head] = None if interval is None else interval.estimate
            if any(value is not None for value in values):
                entry[f"{name}_change"] = values
        entries.append(entry)
    return entries


def counts(effects: Sequence[Effect], level: float, sign: int) -> dict[str, Json]:
    """Return how many attention heads there are, how many have a significant effect, and of these how many harm.

    Args:
        effects: of single attention heads.
        level: family-wise significance level.
        sign: 1 where a higher metric is better, else -1.
    """
    real = list(significant(effects, level))
    helped = 0
    for effect in real:
        helped += sign * effect.metric.estimate > 0 if effect.metric is not None else _falls(effect)
    return {"heads": len(effects), "significant": len(real), "better_without": helped}


def group_lines(effects: Sequence[Effect], level: float, sign: int) -> list[dict[str, Json]]:
    """Return a line for each group of attention (the kinds of an encoder-decoder apart)."""
    groups: dict[str, list[Effect]] = {}
    for effect in effects:
        groups.setdefault(group_of(effect.layer), []).append(effect)
    lines = []
    for group, members in groups.items():
        line = {"group": group, **counts(members, level, sign)}
        for name in ("metric", "loss"):
            values = [interval.estimate for effect in members if (interval := getattr(effect, name)) is not None]
            if values:
                line |= {f"lowest {name} change": min(values), f"highest {name} change": max(values)}
        lines.append(line)
    return lines


def _falls(effect: Effect) -> bool:
    return effect.loss is not None and effect.loss.estimate < 0
