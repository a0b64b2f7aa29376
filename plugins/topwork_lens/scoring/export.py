"""Files of an `Importance`: JSON, safetensors, a table (CSV) and a heat map (SVG).

Entry point: `write_files`. Everything is written from the JSON form of the scores (`Importance.json`).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from topwork import write_json, write_text, write_whole

_CELL, _TOP = 34, 46
_LIGHT, _DARK = (239, 243, 248), (8, 48, 107)

#: what `Importance.json` returns
Scores = Mapping[str, Any]


def write_files(importance: Scores, folder: Path) -> None:
    """Write importance.json, .safetensors (a float64 vector a module path, NaN for None), .csv and .svg."""
    import torch
    from safetensors.torch import save_file

    vectors = {
        layer["path"] or "model": torch.tensor(
            [float("nan") if score is None else score for score in layer["scores"]], dtype=torch.float64
        )
        for layer in importance["layers"]
    }
    metadata = {name: str(importance[name]) for name in ("method", "rows", "normalise")}
    with write_whole(folder / "importance.safetensors") as temporary:
        save_file(vectors, temporary, metadata=metadata)
    write_json(folder / "importance.json", importance)
    write_table(importance, folder / "importance.csv")
    write_heat_map(importance, folder / "importance.svg")


def write_table(importance: Scores, file: Path) -> None:
    """Write a line an attention head: module path, group, layer number, original number, score, and rank.

    Rank 0 is the most important. Attention heads that are pruned or never ran have neither score nor rank.
    """
    cells = [(layer, head) for layer in importance["layers"] for head in range(layer["heads"])]
    scored = [
        (score, index) for index, (layer, head) in enumerate(cells) if (score := layer["scores"][head]) is not None
    ]
    order = sorted(scored, key=lambda pair: (-pair[0], pair[1]))
    ranks = {index: rank for rank, (_, index) in enumerate(order)}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["path", "group", "layer", "head", "score", "rank"])
    for index, (layer, head) in enumerate(cells):
        score = "" if layer["scores"][head] is None else repr(layer["scores"][head])
        table.writerow([layer["path"], _group(layer), layer["number"], head, score, ranks.get(index, "")])
    write_text(file, text.getvalue())


def write_heat_map(importance: Scores, file: Path) -> None:
    """Draw a cell for each attention head: darker for higher scores, crossed where there is no score."""
    layers = importance["layers"]
    names = [f"{_group(layer)} {layer['number']}" for layer in layers]
    columns = max((layer["heads"] for layer in layers), default=0)
    left = 16 + 7 * max(map(len, names), default=0)
    width = max(left + _CELL * columns + 12, 360)
    height = _TOP + _CELL * len(layers) + 12
    known = [score for layer in layers for score in layer["scores"] if score is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    title = escape(f"importance of attention heads: {importance['method']}, {importance['rows']} rows")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        f"<title>{title}</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="8" y="16" font-size="13">{title}</text>',
    ]
    parts += [
        f'<text x="{left + _CELL * head + _CELL / 2}" y="{_TOP - 6}" text-anchor="middle">{head}</text>'
        for head in range(columns)
    ]
    for index, (layer, name) in enumerate(zip(layers, names, strict=True)):
        top = _TOP + _CELL * index
        parts.append(f'<text x="8" y="{top + _CELL / 2 + 4}">{escape(name)}</text>')
        parts += [_cell(layer, head, left + _CELL * head, top, low, high) for head in range(layer["heads"])]
    write_text(file, "\n".join([*parts, "</svg>\n"]))


def _group(layer: Mapping[str, Any]) -> str:
    return "cross" if layer["kind"] == "cross" else layer["side"]


def _cell(layer: Mapping[str, Any], head: int, x: int, y: int, low: float, high: float) -> str:
    score, size = layer["scores"][head], _CELL - 2
    name = f"{layer['path']}, attention head {head}"
    if score is None:
        cross = f'<path d="M{x + 10} {y + 10}l12 12m0 -12l-12 12" stroke="#999"/>'
        box = f'<rect x="{x}" y="{y}" width="{size}" height="{size}" fill="#eee"/>'
        return f"<g><title>{escape(name)}: no score</title>{box}{cross}</g>"
    part = (score - low) / (high - low) if high > low else 1.0
    colour = ",".join(str(round(light + part * (dark - light))) for light, dark in zip(_LIGHT, _DARK, strict=True))
    ink = "white" if part > 0.5 else "black"
    return (
        f"<g><title>{escape(f'{name}: {score:.4g}')}</title>"
        f'<rect x="{x}" y="{y}" width="{size}" height="{size}" fill="rgb({colour})"/>'
        f'<text x="{x + size / 2}" y="{y + size / 2 + 3}" font-size="9" text-anchor="middle" fill="{ink}">'
        f"{score:.2g}</text></g>"
    )
