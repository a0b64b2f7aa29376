"""Importance scores for people: a table (CSV), and a picture (SVG) of layers x attention heads."""

from __future__ import annotations

import csv
import io
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from topwork import write_text

if TYPE_CHECKING:
    from topwork_lens.scoring.selection import Importance, LayerScores

_CELL, _TOP = 34, 46
_LIGHT, _DARK = (239, 243, 248), (8, 48, 107)


def write_table(importance: Importance, file: Path) -> None:
    """One line an attention head: module path, group, number of the layer, original number, score, and rank (0 for the
    most important). What is gone or never ran has neither score nor rank."""
    places = [(entry, head) for entry in importance.layers for head in range(entry.heads)]
    known = [(score, place) for place, (entry, head) in enumerate(places) if (score := entry.scores[head]) is not None]
    ranks = {place: rank for rank, (_, place) in enumerate(sorted(known, key=lambda one: (-one[0], one[1])))}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["path", "group", "layer", "head", "score", "rank"])
    for place, (entry, head) in enumerate(places):
        said = "" if entry.scores[head] is None else repr(entry.scores[head])
        table.writerow([entry.path, entry.group, entry.number, head, said, ranks.get(place, "")])
    write_text(file, text.getvalue())


def write_picture(importance: Importance, file: Path) -> None:
    """A cell for each attention head: the darker, the more it is needed; crossed where there is no score."""
    layers = importance.layers
    names = [f"{entry.group} {entry.number}" for entry in layers]
    left = 16 + 7 * max(map(len, names), default=0)
    width = max(left + _CELL * max((entry.heads for entry in layers), default=0) + 12, 360)
    height = _TOP + _CELL * len(layers) + 12
    known = [score for entry in layers for score in entry.scores if score is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    title = f"importance of attention heads: {importance.method}, {importance.rows} rows"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="8" y="16" font-size="13">{escape(title)}</text>',
    ]
    most = max((entry.heads for entry in layers), default=0)
    parts += [
        f'<text x="{left + _CELL * head + _CELL / 2}" y="{_TOP - 6}" text-anchor="middle">{head}</text>'
        for head in range(most)
    ]
    for row, (entry, name) in enumerate(zip(layers, names, strict=True)):
        top = _TOP + _CELL * row
        parts.append(f'<text x="8" y="{top + _CELL / 2 + 4}">{escape(name)}</text>')
        parts += [_cell(entry, head, left + _CELL * head, top, low, high) for head in range(entry.heads)]
    write_text(file, "\n".join([*parts, "</svg>\n"]))


def _cell(entry: LayerScores, head: int, x: int, y: int, low: float, high: float) -> str:
    score = entry.scores[head]
    size = _CELL - 2
    if score is None:
        tip = f"{entry.path}, attention head {head}: no score"
        cross = f'<path d="M{x + 10} {y + 10}l12 12m0 -12l-12 12" stroke="#999"/>'
        box = f'<rect x="{x}" y="{y}" width="{size}" height="{size}" fill="#eee"/>'
        return f"<g><title>{escape(tip)}</title>{box}{cross}</g>"
    part = (score - low) / (high - low) if high > low else 1.0
    colour = ",".join(str(round(light + part * (dark - light))) for light, dark in zip(_LIGHT, _DARK, strict=True))
    ink = "white" if part > 0.5 else "black"
    tip = f"{entry.path}, attention head {head}: {score:.4g}"
    return (
        f'<g><title>{escape(tip)}</title><rect x="{x}" y="{y}" width="{size}" height="{size}" fill="rgb({colour})"/>'
        f'<text x="{x + size / 2}" y="{y + size / 2 + 3}" font-size="9" text-anchor="middle" fill="{ink}">'
        f"{score:.2g}</text></g>"
    )
