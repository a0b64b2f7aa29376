"""Blocks of the page for the result of each stage, chosen by the keys of `topwork.StageResult`.

Entry point: `section`. The name of a stage decides nothing, so the result of a stage of another package is drawn like
those of built-in stages; keys that the contract does not have are shown as plain numbers and tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from topwork_report.charts import curves, point_map
from topwork_report.formatting import heading, short, words
from topwork_report.heads import head_maps, removal
from topwork_report.json_blocks import as_table, blocks_of
from topwork_report.run_files import RunFiles, StageFiles, mappings, number, numbers
from topwork_report.summary import metrics_of, removal_of, text_in

Block = dict[str, Any]
# A reader returns blocks, and the keys of the result that they show.
Reader = Callable[[RunFiles, StageFiles], tuple[list[Block], set[str]]]

# Keys of a history that have no curve of their own.
_WITHOUT_CURVE = ("step", "epoch", "grad_norm")

_MOST_CURVES = 12
_MOST_SPOTS = 2000


def section(run: RunFiles, stage: StageFiles) -> dict[str, Any]:
    """Return a stage's part of the page: its blocks, drawn ones first, then whatever is left of the result."""
    blocks: list[Block] = []
    shown: set[str] = set()
    for reader in (_metrics, _history, removal, _curves, head_maps, _point_maps, _relevance, _tables):
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
            drawn.append(curves(heading(name), {name: points}, "step"))
    return [{"kind": "curves", "charts": [chart for chart in drawn if chart][:_MOST_CURVES]}], {"history"}


def _curves(run: RunFiles, stage: StageFiles) -> tuple[list[Block], set[str]]:
    """Return the charts that a stage describes: `curves` of `topwork.StageResult`."""
    charts = []
    for described in mappings(stage.result.get("curves")):
        points = _named(described.get("series"), 2)
        bands = _named(described.get("bands"), 3)
        charts.append(curves(str(described.get("title", "")), points, str(described.get("x", "")), bands))
    drawn = [chart for chart in charts if chart]
    return ([{"kind": "curves", "charts": drawn[:_MOST_CURVES]}], {"curves"}) if drawn else ([], set())


def _named(lists: Any, count: int) -> dict[str, list[Any]]:
    """Return lists of so many numbers each, by name; what is anything else is left out."""
    named = lists.items() if isinstance(lists, dict) else ()
    return {
        str(name): [finite for entry in entries if (finite := _numbers(entry, count))]
        for name, entries in named
        if isinstance(entries, list)
    }


def _numbers(values: Any, count: int) -> Any:
    """Return a list of so many finite numbers as a tuple; None for anything else."""
    finite = [number(value) for value in values] if isinstance(values, list) else []
    return tuple(finite) if len(finite) == count and None not in finite else None


def _point_maps(run: RunFiles, stage: StageFiles) -> tuple[list[Block], set[str]]:
    """Return the maps of points that a stage describes: `point_maps` of `topwork.StageResult`."""
    blocks: list[Block] = []
    for described in mappings(stage.result.get("point_maps")):
        points = []
        for point in mappings(described.get("points"))[:_MOST_SPOTS]:
            at = _numbers([point.get("x"), point.get("y")], 2)
            head, path, name = point.get("head"), text_in(point, "path", ""), text_in(point, "name", "")
            if at is not None:
                known = {"path": path, "head": head} if path and type(head) is int else {"path": "", "head": ""}
                points.append({"x": at[0], "y": at[1], "name": name, "short": text_in(point, "short", name)[:12],
                               "group": short(point.get("group", "")), **known})  # fmt: skip
        chart = point_map(text_in(described, "title", "Map"), points, text_in(described, "note", ""))
        blocks += [{"kind": "points", "chart": chart}] if chart else []
    return (blocks, {"point_maps"}) if blocks else ([], set())


def _relevance(run: RunFiles, stage: StageFiles) -> tuple[list[Block], set[str]]:
    """Return the place of the relevance of positions, which the page's script draws, where rows have any."""
    rows = mappings(stage.result.get("relevance"))
    described = any(isinstance(row.get("axis"), dict) and isinstance(row.get("methods"), dict) for row in rows)
    return ([{"kind": "relevance", "anchor": stage.anchor}], {"relevance"}) if described else ([], set())


def _tables(run: RunFiles, stage: StageFiles) -> tuple[list[Block], set[str]]:
    tables = stage.result.get("tables")
    if not isinstance(tables, dict):
        return [], set()
    blocks = [as_table(str(name), table) or blocks_of({str(name): table}) for name, table in tables.items()]
    flat = [part for block in blocks for part in (block if isinstance(block, list) else [block])]
    return flat, {"tables"}


def _options(stage: StageFiles) -> list[tuple[str, str]]:
    return [(key, short(value)) for key, value in stage.options.items()]
