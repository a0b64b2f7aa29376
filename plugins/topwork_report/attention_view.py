"""Attention of a few rows (`attention.json`), drawn over their images or on their tokens."""

from __future__ import annotations

from typing import Any

from topwork_report.charts import matrix, overlay
from topwork_report.colours import level
from topwork_report.formatting import cut
from topwork_report.images import embed, embed_clip
from topwork_report.run_files import RunFiles, StageFiles, mappings, number

Block = dict[str, Any]
MOST_ROWS = 6
MOST_LAYERS = 12
_MOST_TOKENS = 160
_MOST_CELLS = 100_000  # of all grids and matrices: some 1.5 MB of the page
_MOST_IN_MATRIX = 32


def attention_blocks(run: RunFiles, stage: StageFiles) -> list[Block]:
    """Return a few rows with their attention, layer by layer."""
    attention = stage.artefacts.get("attention.json")
    rows = mappings(attention.get("rows")) if isinstance(attention, dict) else []
    shown = [_row(run, stage, row, index) for index, row in enumerate(rows[: _affordable(rows)], 1)]
    if not shown:
        return []
    return [{"kind": "attention", "anchor": stage.anchor, "rows": shown, "left_out": len(rows) - len(shown)}]


def _affordable(rows: list[dict[str, Any]]) -> int:
    """Return how many of the rows to show: MOST_ROWS, fewer when their grids are fine, and at least 1."""
    cells = 0
    for at, row in enumerate(rows[:MOST_ROWS]):
        high, wide = row["grid"] if _is_grid(row.get("grid")) else (_MOST_IN_MATRIX, _MOST_IN_MATRIX)
        cells += high * wide * min(MOST_LAYERS, len(mappings(row.get("layers"))))
        if at and cells > _MOST_CELLS:
            return at
    return MOST_ROWS


def _row(run: RunFiles, stage: StageFiles, row: dict[str, Any], position: int) -> Block:
    layers = mappings(row.get("layers"))
    chosen = _spread(layers, MOST_LAYERS)
    picture = embed(run, stage.folder, row.get("image"))
    spectrogram = embed(run, stage.folder, row.get("spectrogram")) if picture is None else None
    audio = embed_clip(run, stage.folder, row.get("audio"))
    names = [str(name) for name in row["names"]] if isinstance(row.get("names"), list) else []
    grid = row["grid"] if picture is not None and _is_grid(row.get("grid")) else None
    several = len({str(layer.get("group")) for layer in layers}) > 1
    views = []
    for layer in chosen:
        title = " ".join(["layer", *([str(layer.get("group"))] if several else []), str(layer.get("number"))])
        view = _on_grid(layer, grid, row) if grid else _on_names(layer, names, title)
        if view is None:
            fault = f"do not fit a grid of {grid}" if grid else "are no list or matrix of positive numbers"
            run.problem(stage.folder / "attention.json", f"the weights of row {row.get('row')}, {title}, {fault}")
            continue
        views.append({"name": title, **view})
    return {
        "row": row.get("row"),
        "caption": row.get("caption") if isinstance(row.get("caption"), str) else None,
        "id": f"look-{stage.anchor}-{position}",
        "picture": picture or spectrogram,
        "spectrogram": spectrogram is not None,
        "audio": audio,
        "audio_id": f"clip-{stage.anchor}-{position}",
        "grid": grid,
        "views": views,
        "left_out": len(layers) - len(chosen),
    }


def _spread(layers: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Return at most `most` layers, evenly from first to last."""
    if len(layers) <= most:
        return layers
    return [layers[round(at * (len(layers) - 1) / (most - 1))] for at in range(most)]


def _is_grid(grid: Any) -> bool:
    return isinstance(grid, list) and len(grid) == 2 and all(type(side) is int and side > 0 for side in grid)


def _weights(layer: dict[str, Any]) -> tuple[list[float] | None, list[list[float]] | None]:
    """Return a layer's weights as a list, or as a matrix; both None when they are neither."""
    values = layer.get("weights")
    if not isinstance(values, list) or not values:
        return None, None
    if all(isinstance(row, list) and len(row) == len(values[0]) for row in values if isinstance(values[0], list)):
        if isinstance(values[0], list):
            return None, [[number(value) or 0.0 for value in row] for row in values]
        return [number(value) or 0.0 for value in values], None
    return None, None


def _received(matrix: list[list[float]]) -> list[float]:
    """Return the attention that each key receives: the mean over the queries."""
    return [sum(column) / len(matrix) for column in zip(*matrix, strict=True)]


def _on_grid(layer: dict[str, Any], grid: list[int], row: dict[str, Any]) -> Block | None:
    """Return weights over an image: a grid as it is, a list row by row, a square matrix by what each key receives."""
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


def _on_names(layer: dict[str, Any], names: list[str], title: str) -> Block | None:
    """Return weights over tokens: a small matrix whole, anything else as tokens shaded by what they receive.

    Positions go by their names when there are as many, else by their indices (keys of another sequence, audio).
    """
    flat, matrix_ = _weights(layer)
    if matrix_ is not None and max(len(matrix_), len(matrix_[0])) <= _MOST_IN_MATRIX:
        sides = [names if len(names) == count else list(map(str, range(count))) for count in _shape(matrix_)]
        drawn = matrix(title, matrix_, [cut(name, 14) for name in sides[0]], [cut(name, 14) for name in sides[1]])
        return {"kind": "matrix", **drawn} if drawn else None
    received = matrix_ is not None
    flat = _received(matrix_) if matrix_ is not None else flat
    if flat is None:
        return None
    names = names if len(names) == len(flat) else list(map(str, range(len(flat))))
    peak = max(flat)
    pairs = list(zip(names, flat, strict=True))[:_MOST_TOKENS]
    tokens = [{"name": name, "level": level(value, 0.0, peak), "value": value} for name, value in pairs]
    left_out = max(0, len(flat) - _MOST_TOKENS)
    return {"kind": "tokens", "tokens": tokens, "left_out": left_out, "peak": peak, "received": received}


def _shape(grid: list[list[float]]) -> tuple[int, int]:
    return len(grid), len(grid[0])
