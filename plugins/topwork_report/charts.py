"""Geometry of the page's drawings: heat maps, curves, grids over pictures. Numbers in, coordinates out.

The templates turn coordinates into SVG; so all text goes through the template engine's escaping, and nothing here
writes markup.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from topwork_report.colours import STEPS, level
from topwork_report.formatting import rounded, short, superscript

Spot = TypeVar("Spot")
COLOURS = 8  # of curves and groups of points; later curves are dashed
MOST_POINTS = 400  # per curve: more than the pixels that a slide gives it
_OVERLAY_LEVELS = 16


@dataclass
class HeatRow:
    """A row of a heat map: label, what a pointer shows, and value by column; `cut` and `absent` are column indices.

    A row of a map of attention heads has the `path` of its layer: its cells open their attention head elsewhere.
    """

    label: str
    tip: str
    values: Mapping[int, float | None]
    cut: frozenset[int] = frozenset()
    absent: frozenset[int] = field(default_factory=frozenset)
    path: str = ""


def heat_map(
    title: str,
    rows: Sequence[HeatRow],
    columns: Sequence[str],
    *,
    row_title: str,
    column_title: str,
    low: float | None = None,
    high: float | None = None,
    texts: Mapping[tuple[int, int], str] | None = None,
    note: str = "",
) -> dict[str, Any] | None:
    """Return a heat map's layout; None when there is no value in it.

    Args:
        title: over the map.
        rows: from top to bottom, with values by column.
        columns: names of the columns.
        row_title: what a row stands for.
        column_title: what a column stands for.
        low: lower end of the colour scale; by default 0, or the smallest value when that is negative.
        high: upper end of the colour scale; by default the largest value.
        texts: what stands in the cells, by (row, column), when it is not the value.
        note: a few words beside the title.
    """
    values = [value for row in rows for value in row.values.values() if value is not None]
    if not values:
        return None
    low = min(0.0, *values) if low is None else low
    high = max(values) if high is None else high
    wide, tall, slanted = _cell_size(columns)
    power = 0 if texts is not None or wide < 30 else _power_of_ten(max(abs(low), abs(high)))
    left = 14 + round(6.9 * max(len(row_title) + 2, *(len(row.label) for row in rows)))
    top = 30 + round(5.2 * max(map(len, columns))) if slanted else 42
    layout = {"wide": wide, "tall": tall, "left": left, "top": top}
    words = {"title": title, "note": note, "row_title": row_title, "column_title": column_title}
    ends = {"low": short(low), "high": short(high), "power": superscript(power) if power else ""}
    cells = _cells(rows, columns, (low, high), power, texts, layout)
    return {**words, **ends, **layout, **_frame(rows, columns, layout, slanted), **_marks(rows), "cells": cells}


def _frame(rows: Sequence[HeatRow], columns: Sequence[str], layout: Mapping[str, int], slanted: bool) -> dict[str, Any]:
    """Return the drawing's size, with room for slanted names and the colour scale, and how its columns are named."""
    wide, left = layout["wide"], layout["left"]
    return {
        "columns": list(columns),
        "slanted": slanted,
        "small": wide < 30,
        "every": 1 if slanted or wide >= 24 else math.ceil(24 / wide),
        "width": max(left + wide * len(columns) + 4 + slanted * round(3.7 * len(columns[-1])), left + 190),
        "height": layout["top"] + layout["tall"] * len(rows) + 46,
    }


def _marks(rows: Sequence[HeatRow]) -> dict[str, Any]:
    return {"rows": rows, "any_cut": any(row.cut for row in rows), "any_gone": any(row.absent for row in rows)}


def _cells(
    rows: Sequence[HeatRow],
    columns: Sequence[str],
    ends: tuple[float, float],
    power: int,
    texts: Mapping[tuple[int, int], str] | None,
    layout: Mapping[str, int],
) -> list[dict[str, Any]]:
    cells = []
    for at, row in enumerate(rows):
        for column, name in enumerate(columns):
            cell = _cell(row, column, ends, power, None if texts is None else texts.get((at, column), ""))
            x, y = layout["left"] + column * layout["wide"], layout["top"] + at * layout["tall"]
            cells.append({**cell, "x": x, "y": y, "name": name, "row": row.tip, "path": row.path})
    return cells


def _cell_size(columns: Sequence[str]) -> tuple[int, int, bool]:
    """Width and height of a cell, and whether the column names must slant.

    Cells are wide enough for three digits while the whole stays on a page; past that, colour alone speaks.
    """
    count, longest = len(columns), max(map(len, columns))
    wide = 40 if count <= 16 else 32 if count <= 26 else max(9, 800 // count)
    return wide, 30 if wide >= 30 else wide, longest > max(4, wide // 8)


def _cell(row: HeatRow, column: int, ends: tuple[float, float], power: int, text: str | None) -> dict[str, Any]:
    value = row.values.get(column)
    if column in row.absent or value is None:
        state = "gone" if column in row.absent else "empty"
        return {"state": state, "level": 0, "ink": "lo", "text": "", "value": None}
    step = level(value, *ends)
    if text is None:
        text = rounded(value / 10**power)
    state = "cut" if column in row.cut else ""
    return {"state": state, "level": step, "ink": "hi" if 2 * step > STEPS else "lo", "text": text, "value": value}


def _power_of_ten(largest: float) -> int:
    """Return the power to take out of the written values, so that three digits suffice: 0 from 0.1 up to 1000."""
    if largest == 0 or 0.095 <= largest < 1000:
        return 0
    return math.floor(math.log10(largest))


def curves(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    x_title: str,
    bands: Mapping[str, Sequence[tuple[float, float, float]]] | None = None,
) -> dict[str, Any] | None:
    """Return a line chart's layout; None when no series has a point.

    Args:
        title: over the chart.
        series: name -> points (x, y).
        x_title: under the axis.
        bands: name of a series -> (x, lowest, highest): an area behind its line.
    """
    series = {name: sorted(points) for name, points in series.items() if points}
    if not series:
        return None
    areas = {name: thinned(sorted(edges)) for name, edges in (bands or {}).items() if name in series and len(edges) > 1}
    width, height, left, right, top, bottom = 420, 230, 54, 14, 14, 40
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    ys += [y for edges in areas.values() for _, *ends in edges for y in ends]
    x_low, x_high = min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1
    y_ticks = ticks(min(ys), max(ys))
    y_low, y_high = min(y_ticks[0], *ys), max(y_ticks[-1], *ys)

    def place(x: float, y: float) -> tuple[float, float]:
        across = left + (width - left - right) * (x - x_low) / (x_high - x_low)
        return round(across, 1), round(height - bottom - (height - top - bottom) * (y - y_low) / (y_high - y_low), 1)

    lines = []
    for order, (name, points) in enumerate(series.items()):
        drawn = thinned(points)
        spots = [place(*point) for point in drawn]
        dots = [(*spot, *point) for spot, point in zip(spots, drawn, strict=True)] if len(drawn) <= 24 else []
        edges = areas.get(name, [])
        outline = [place(x, high) for x, _, high in edges] + [place(x, low) for x, low, _ in reversed(edges)]
        band = f"{_path(outline)}Z" if outline else ""
        style = {"order": order % COLOURS, "dashed": order >= COLOURS}
        lines.append({"name": name, "path": _path(spots), "band": band, "dots": dots, "last": points[-1][1], **style})
    return {
        "title": title,
        "width": width,
        "height": height,
        "x_title": x_title,
        "lines": lines,
        "x_ticks": [(place(x, y_low)[0], short(x)) for x in ticks(x_low, x_high, 5) if x_low <= x <= x_high],
        "y_ticks": [(place(x_low, y)[1], short(y)) for y in y_ticks],
        "domain": (x_low, x_high),
        "series": {name: thinned(points) for name, points in series.items()},
        "bands": areas,
        "frame": {"left": left, "right": width - right, "top": top, "bottom": height - bottom},
    }  # fmt: skip


def _path(spots: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x} {y}" for x, y in spots)


def point_map(title: str, points: Sequence[Mapping[str, Any]], note: str = "") -> dict[str, Any] | None:
    """Return the layout of points in a plane whose axes have one unit; None when there is no point.

    Args:
        title: over the map.
        points: {"x", "y", "name", "group", "path", "head"}: `group` chooses the colour, the last two an attention head.
        note: a few words beside the title.
    """
    if not points:
        return None
    width, height, edge = 520, 360, 26
    middles, reaches = [], []
    for axis in ("x", "y"):
        values = [point[axis] for point in points]
        middles.append((min(values) + max(values)) / 2)
        reaches.append((max(values) - min(values)) / 2)
    scale = (
        min((side / 2 - edge) / reach for side, reach in zip((width, height), reaches) if reach) if any(reaches) else 1
    )
    groups = sorted({point["group"] for point in points}, key=lambda group: (len(group), group))
    spots = [
        {
            **point,
            "order": groups.index(point["group"]) % COLOURS,
            "at": (
                round(width / 2 + scale * (point["x"] - middles[0]), 1),
                round(height / 2 - scale * (point["y"] - middles[1]), 1),
            ),
        }
        for point in points
    ]
    _name_where_there_is_room(spots)
    unit = ticks(0, 2 * max(*reaches, 1e-9), 5)[1]
    bar = {"length": round(unit * scale, 1), "text": short(unit)}
    return {"title": title, "note": note, "width": width, "height": height, "points": spots, "groups": groups,
            "bar": bar}  # fmt: skip


def _name_where_there_is_room(spots: Sequence[dict[str, Any]]) -> None:
    """Decide which points have their name beside them: those whose name lies over no other point and no other name."""
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in (spot["at"] for spot in spots)]
    for index, spot in enumerate(spots):
        x, y = spot["at"]
        box = (x + 6, y - 6, x + 8 + 6 * len(spot["short"]), y + 5)
        others = (other for at, other in enumerate(taken) if at != index)
        spot["named"] = len(spots) <= 400 and not any(
            box[0] < right and left < box[2] and box[1] < bottom and top < box[3] for left, top, right, bottom in others
        )
        taken += [box] if spot["named"] else []


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers that enclose low and high: steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        reach = abs(low) * 0.1 or 1.0
        low, high = low - reach, high + reach
    rough = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{count * step:.12g}") for count in range(first, last + 1)]


def thinned(points: Sequence[Spot]) -> list[Spot]:
    """Return at most MOST_POINTS of the points, evenly; first and last always stay."""
    if len(points) <= MOST_POINTS:
        return list(points)
    share = (len(points) - 1) / (MOST_POINTS - 1)
    return [points[round(at * share)] for at in range(MOST_POINTS)]


def overlay(grid: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """Return a grid of weights as one path per strength, in units of a cell: opacity grows with the weight."""
    peak = max((value for row in grid for value in row), default=0.0)
    paths = squares(grid, lambda value: round(_OVERLAY_LEVELS * value / peak) if peak > 0 else 0)
    return [{"opacity": round(step / _OVERLAY_LEVELS, 3), "path": path} for step, path in paths if step > 0]


def squares(grid: Sequence[Sequence[float]], step: Callable[[float], int]) -> list[tuple[int, str]]:
    """Return the cells of a grid as one path for each step: far smaller than an element for each cell."""
    paths: dict[int, list[str]] = {}
    for y, row in enumerate(grid):
        for x, value in enumerate(row):
            paths.setdefault(step(value), []).append(f"M{x} {y}h1v1h-1z")
    return [(key, "".join(paths[key])) for key in sorted(paths)]


def matrix(
    title: str, grid: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str]
) -> dict[str, Any] | None:
    """Return a small matrix with names on both sides, coloured from 0 to its largest value; None when all is 0."""
    cell, peak = 15, max(value for row in grid for value in row)
    if peak <= 0:
        return None
    left = 10 + round(6.9 * max(map(len, rows), default=0))
    slant = round(5.8 * max(map(len, columns), default=0))
    top = 26 + slant
    return {
        "title": title,
        "left": left,
        "top": top,
        "cell": cell,
        "width": left
        + cell * len(columns)
        + max(12, round(0.7 * slant), round(6.5 * len(title)) - cell * len(columns)),
        "height": top + cell * len(rows) + 8,
        "rows": list(rows),
        "columns": list(columns),
        "peak": peak,
        "paths": squares(grid, lambda value: level(value, 0.0, peak)),
    }
