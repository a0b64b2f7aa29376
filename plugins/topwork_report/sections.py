"""Blocks of the page for the result of each stage, chosen by the keys of `topwork.StageResult`.

Entry point: `section`. The name of a stage decides nothing, so the result of a stage of another package is drawn like
those of built-in stages; keys that the contract does not have are shown as plain numbers and tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from topwork_report.charts import curves
from topwork_report.formatting import short, words
from topwork_report.heads import head_maps, removal
from topwork_report.json_blocks import as_table, blocks_of
from topwork_report.run_files import RunFiles, StageFiles, mappings, number, numbers
from topwork_report.summary import metrics_of, removal_of

Block = dict[str, Any]
# A reader returns blocks, and the keys of the result that they show.
Reader = Callable[[RunFiles, StageFiles], tuple[list[Block], set[str]]]

# Keys of a history that have no curve of their own.
_WITHOUT_CURVE = ("step", "epoch", "grad_norm")

_MOST_CURVES = 12


def section(run: RunFiles, stage: StageFiles) -> dict[str, Any]:
    """Return a stage's part of the page: its blocks, drawn ones first, then whatever is left of the result."""
    blocks: list[Block] = []
    shown: set[str] = set()
    for reader in (_metrics, _history, removal, _curves, head_maps, _tables):
        drawn, keys = reader(run, stage)
        blocks += drawn
        shown |= keys
    rest = {key: value for key, value in stage.result.items() if key not in shown}
    return {"stage": stage, "blocks": blocks, "rest": blocks_of(rest), "options": _options(stage)}


def stage_numbers(stage: StageFiles) -> dict[str, float]:
    """Return at most four numbers for the table of stages: metrics, what was removed, or the first plain numbers."""
    figures = metrics_of(stage)
    if not figures and (removal := removal_of(stage)):
        figures = numbers({key: removal.get(key) for key in ("before", "after", "parameters_after")})
    return dict(list((figures or numbers(stage.result)).items())[:4])


def _metrics(run: RunFiles, stage: StageFiles) -> tuple[list[Block], set[str]]:
    metrics = stage.result.get("metrics")
    if not isinstance(metrics, dict) or not metrics:
        return [], set()
    primary = stage.result.get("primary")
    tiles = [{"name": words(key), "value": value, "main": key == primary} for key, value in metrics.items()]
    return [{"kind": "tiles", "tiles": tiles}], {"metrics", "primary", "higher_is_better", "measures", "role", "change"}


def _history(run: RunFiles, stage: StageFiles) -> tuple[list[Block], set[str]]:
    history = mappings(stage.result.get("history"))
    series: dict[str, list[tuple[float, float]]] = {}
    for point in history:
        step = number(point.get("step"))
        for key, value in numbers(point).items():
            if step is not None and key not in _WITHOUT_CURVE:
                series.setdefault(key, []).append((step, value))
    if not series:
        return [], set()
    losses = {words(key): points for key, points in series.items() if key in ("loss", "eval_loss")}
    shares = {
        words(key.removeprefix("eval_")): points
        for key, points in series.items()
        if key.startswith("eval_") and key != "eval_loss" and all(0 <= value <= 1 for _, value in points)
    }
    drawn = [curves("Loss", losses, "step"), curves("Metrics on the calibrate rows", shares, "step")]
    for key, points in series.items():
        if words(key) not in losses and words(key.removeprefix("eval_")) not in shares:
            name = words(key)
            drawn.append(curves(name[:1].upper() + name[1:], {name: points}, "step"))
    return [{"kind": "curves", "charts": [chart for chart in drawn if chart][:_MOST_CURVES]}], {"history"}


def _curves(run: RunFiles, stage: StageFiles) -> tuple[list[Block], set[str]]:
    """Return the charts that a stage describes: `curves`: [{"title", "x", "series": {name: [[x, y], ...]}}]."""
    charts = []
    for described in mappings(stage.result.get("curves")):
        series = described.get("series")
        named = series.items() if isinstance(series, dict) else ()
        points = {str(name): [point for pair in pairs if (point := _point(pair))] for name, pairs in named
                  if isinstance(pairs, list)}  # fmt: skip
        charts.append(curves(str(described.get("title", "")), points, str(described.get("x", ""))))
    drawn = [chart for chart in charts if chart]
    return ([{"kind": "curves", "charts": drawn[:_MOST_CURVES]}], {"curves"}) if drawn else ([], set())


def _point(pair: Any) -> tuple[float, float] | None:
    if not isinstance(pair, list) or len(pair) != 2:
        return None
    x, y = number(pair[0]), number(pair[1])
    return None if x is None or y is None else (x, y)


def _tables(run: RunFiles, stage: StageFiles) -> tuple[list[Block], set[str]]:
    tables = stage.result.get("tables")
    if not isinstance(tables, dict):
        return [], set()
    blocks = [as_table(str(name), table) or blocks_of({str(name): table}) for name, table in tables.items()]
    flat = [part for block in blocks for part in (block if isinstance(block, list) else [block])]
    return flat, {"tables"}


def _options(stage: StageFiles) -> list[tuple[str, str]]:
    return [(words(key), short(value)) for key, value in stage.options.items()]
