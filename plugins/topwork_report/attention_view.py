"""What the attention stage left: for each row its picture with the attention laid over it, or its tokens shaded."""

from __future__ import annotations

from typing import Any

from topwork_report.charts import HeatRow, heat_map, overlay
from topwork_report.colours import STEPS, level
from topwork_report.images import embed
from topwork_report.run_files import RunFiles, StageFiles, mappings, number
from topwork_report.sections import head_heat

Block = dict[str, Any]
MOST_ROWS = 6
MOST_LAYERS = 12
_MOST_TOKENS = 160
_MOST_IN_MATRIX = 24
_MEASURES = {
    "entropy": "Entropy of the attention (nats: low is sharp, high is spread out)",
    "distance": "Mean attention distance",
    "special": "Attention on special positions (share)",
}


def attention_blocks(run: RunFiles, stage: StageFiles) -> list[Block]:
    """Maps of layers x attention heads of what was measured, then a few rows with their attention."""
    found = stage.artefacts.get("attention.json")
    if not isinstance(found, dict):
        return []
    layers = mappings(found.get("layers"))
    maps = [head_heat(title, layers, key, {}) for key, title in _MEASURES.items()]
    blocks: list[Block] = [block for block in maps if block]
    rows = mappings(found.get("rows"))
    shown = [_row(run, stage, row) for row in rows[:MOST_ROWS]]
    if shown:
        blocks.append({"kind": "attention", "rows": shown, "left_out": len(rows) - len(shown)})
    return blocks


def _row(run: RunFiles, stage: StageFiles, row: dict[str, Any]) -> Block:
    layers = mappings(row.get("layers"))
    chosen = _spread(layers, MOST_LAYERS)
    picture = embed(run, stage.folder, row.get("image"))
    grid = row.get("grid")
    names = [str(name) for name in row["names"]] if isinstance(row.get("names"), list) else []
    on_picture = picture is not None and _is_grid(grid)
    views = []
    for layer in chosen:
        view = _on_grid(layer, grid, row) if on_picture else _on_names(layer, names)
        if view is None:
            shape = f"a grid of {grid}" if on_picture else f"{len(names)} names"
            run.problem(stage.folder / "attention.json", f"the weights of row {row.get('row')} do not fit {shape}")
            continue
        views.append({"number": layer.get("number"), **view})
    return {
        "row": row.get("row"),
        "caption": row.get("caption") if isinstance(row.get("caption"), str) else None,
        "picture": picture,
        "grid": grid if on_picture else None,
        "views": views,
        "left_out": len(layers) - len(chosen),
    }


def _spread(layers: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most `most` layers, evenly from first to last."""
    if len(layers) <= most:
        return layers
    return [layers[round(at * (len(layers) - 1) / (most - 1))] for at in range(most)]


def _is_grid(grid: Any) -> bool:
    return isinstance(grid, list) and len(grid) == 2 and all(type(side) is int and side > 0 for side in grid)


def _weights(layer: dict[str, Any]) -> tuple[list[float] | None, list[list[float]] | None]:
    """A layer's weights as a list, or as a matrix; both None when they are neither."""
    values = layer.get("weights")
    if not isinstance(values, list) or not values:
        return None, None
    if all(isinstance(row, list) and len(row) == len(values[0]) for row in values if isinstance(values[0], list)):
        if isinstance(values[0], list):
            return None, [[number(value) or 0.0 for value in row] for row in values]
        return [number(value) or 0.0 for value in values], None
    return None, None


def _received(matrix: list[list[float]]) -> list[float]:
    """The attention that each position receives: the mean over the positions that look."""
    return [sum(column) / len(matrix) for column in zip(*matrix, strict=True)]


def _on_grid(layer: dict[str, Any], grid: list[int], row: dict[str, Any]) -> Block | None:
    """Weights over a picture: a grid as it is, a list row by row, a square matrix by what each position receives."""
    flat, matrix = _weights(layer)
    high, wide = grid
    if matrix is not None:
        if (len(matrix), len(matrix[0])) == (high, wide):
            return _laid(matrix)
        flat = _received(matrix)
    if flat is None:
        return None
    special = {at for at in row.get("special") or [] if type(at) is int}
    if len(flat) != high * wide:
        flat = [value for at, value in enumerate(flat) if at not in special]
    if len(flat) != high * wide:
        return None
    return _laid([flat[start : start + wide] for start in range(0, high * wide, wide)])


def _laid(grid: list[list[float]]) -> Block:
    return {"kind": "grid", "paths": overlay(grid), "peak": max(value for line in grid for value in line)}


def _on_names(layer: dict[str, Any], names: list[str]) -> Block | None:
    """Weights over tokens: a small matrix whole, anything else as shaded tokens."""
    flat, matrix = _weights(layer)
    if matrix is not None and len(matrix) == len(matrix[0]) <= _MOST_IN_MATRIX:
        labels = names or [str(at) for at in range(len(matrix))]
        if len(labels) != len(matrix):
            return None
        rows = [
            HeatRow(label, f"from {label}", dict(enumerate(line))) for label, line in zip(labels, matrix, strict=True)
        ]
        texts = {(at, column): "" for at in range(len(labels)) for column in range(len(labels))}
        title = f"layer {layer.get('number')}"
        chart = heat_map(title, rows, labels, row_title="from", column_title="to", texts=texts, cell=15)
        return {"kind": "matrix", "chart": chart} if chart else None
    if matrix is not None:
        flat = _received(matrix)
    if flat is None or (names and len(names) != len(flat)):
        return None
    names = names or [str(at) for at in range(len(flat))]
    peak = max(flat)
    tokens = []
    for name, value in list(zip(names, flat, strict=True))[:_MOST_TOKENS]:
        step = level(value, 0.0, peak)
        tokens.append({"name": name, "level": step, "ink": "hi" if step > 0.52 * STEPS else "lo", "value": value})
    return {"kind": "tokens", "tokens": tokens, "left_out": max(0, len(flat) - _MOST_TOKENS), "peak": peak}
