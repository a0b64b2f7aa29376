"""What each stage's result becomes on the page: blocks, chosen by what a result holds, not by the stage's name.

So a stranger's stage that answers with a `history`, `metrics`, `tables`, or layers with scores is drawn like ours; all
that nobody recognises is shown as plain numbers and tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from topwork_report.charts import curves
from topwork_report.formatting import short, words
from topwork_report.heads import importance, measured, pruning
from topwork_report.json_blocks import as_table, blocks_of
from topwork_report.run_files import RunFiles, StageFiles, mappings, number, numbers
from topwork_report.summary import is_pruning

Block = dict[str, Any]
# A reader answers with blocks and the keys of the result that they have told.
Reader = Callable[[RunFiles, StageFiles], tuple[list[Block], set[str]]]

_UNTOLD = (
    "runtime",
    "per_second",
    "total_flos",
    "epoch",
    "grad_norm",
)  # bookkeeping of the trainer: no curve of their own

_MOST_CURVES = 12


def section(run: RunFiles, stage: StageFiles) -> dict[str, Any]:
    """One stage's part of the page: its blocks (special ones first, then whatever is left of the result)."""
    blocks: list[Block] = []
    shown: set[str] = set()
    for reader in (_metrics, _history, pruning, _curves, importance, measured, _tables):
        drawn, keys = reader(run, stage)
        blocks += drawn
        shown |= keys
    rest = {key: value for key, value in stage.result.items() if key not in shown}
    return {"stage": stage, "blocks": blocks, "rest": blocks_of(rest), "options": _options(stage)}


def headline(stage: StageFiles) -> dict[str, float]:
    """The numbers of a stage for the table of stages: its metrics, else its first plain numbers."""
    metrics = stage.result.get("metrics")
    figures = numbers(metrics) if isinstance(metrics, dict) else {}
    keys = ("heads_before", "heads_after", "parameters_after") if is_pruning(stage) else ()
    plain = numbers({key: value for key, value in stage.result.items() if not keys or key in keys})
    figures.update({key: value for key, value in plain.items() if key not in figures and not figures})
    return dict(list(figures.items() or plain.items())[:4]) if figures else dict(list(plain.items())[:4])


def _metrics(run: RunFiles, stage: StageFiles) -> tuple[list[Block], set[str]]:
    metrics = stage.result.get("metrics")
    if not isinstance(metrics, dict) or not metrics:
        return [], set()
    primary = stage.result.get("primary")
    tiles = [{"name": words(key), "value": value, "main": key == primary} for key, value in metrics.items()]
    return [{"kind": "tiles", "tiles": tiles}], {"metrics", "primary", "higher_is_better", "measures"}


def _history(run: RunFiles, stage: StageFiles) -> tuple[list[Block], set[str]]:
    history = mappings(stage.result.get("history"))
    series: dict[str, list[tuple[float, float]]] = {}
    for point in history:
        step = number(point.get("step"))
        for key, value in numbers(point).items():
            if step is not None and key != "step" and not any(word in key for word in _UNTOLD):
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
    """Charts that a stage describes itself: `curves`: [{"title", "x", "series": {name: [[x, y], ...]}}]."""
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
