"""Data that the page carries for its script: attention by head, predictions, curves; and the script itself.

Entry point: `PageData`. The data stands on the page once, as JSON in a script element that no browser runs; the
script's own hash stands in the page's content security policy, so that nothing else can run.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from topwork_report.formatting import cut, words
from topwork_report.run_files import StageFiles, count_in, mappings, number
from topwork_report.summary import text_in

MOST_HEAD_BYTES = 3_400_000  # of base64, all attention stages of a page together
MOST_LISTED = 1500  # predictions, all stages of a page together
MOST_RELEVANCE = 24  # rows of a stage
_SCRIPTS = (
    *("dom", "weights", "images", "sound", "attention_views", "relevance", "attention"),
    *("slices", "predictions", "curves", "heads", "main"),
)
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


class PageData:
    """Data for the page's script, collected while the page is made."""

    def __init__(self) -> None:
        self.attention: list[dict[str, Any]] = []
        self.predictions: list[dict[str, Any]] = []
        self.curves: list[dict[str, Any]] = []
        self.relevance: list[dict[str, Any]] = []
        self._head_bytes = 0
        self._listed = 0

    def json(self) -> str:
        """Return the data as JSON that cannot end the script element it stands in."""
        names = ("attention", "relevance", "predictions", "curves")
        return escaped_json({name: getattr(self, name) for name in names})

    def add_charts(self, block: dict[str, Any], anchor: str) -> None:
        """Take over the points of the charts of a block, and give its drawings the addresses to find them by."""
        for chart in block["charts"]:
            chart["id"] = f"curve-{anchor}-{len(self.curves)}"
            self.curves.append({
                "id": chart["id"],
                "x": chart["x_title"],
                "frame": chart["frame"],
                "domain": chart["domain"],
                "title": chart["title"],
                "series": [[name, points] for name, points in chart["series"].items()],
                "styles": [f"l{line['order']}{' dashed' * line['dashed']}" for line in chart["lines"]],
                "bands": chart["bands"],
            })  # fmt: skip

    def add_attention(self, stage: StageFiles, block: dict[str, Any]) -> None:
        """Take over the weights by attention head of a block of rows, and note in the block how many fit."""
        attention = stage.artefacts.get("attention.json")
        rows = mappings(attention.get("rows")) if isinstance(attention, dict) else []
        given = []
        for index, row in enumerate(rows):
            drawn = block["rows"][index] if index < len(block["rows"]) else {}
            image = drawn.get("id") if drawn.get("picture") else None
            audio = drawn.get("audio_id") if drawn.get("audio") else None
            given.append({**row, "image": image, "audio": audio})
        count, role = len(self.attention), stage.options.get("role")
        title = f"stage {stage.number}, {stage.name}"
        block["explorer_left_out"] = self.add_rows(stage.anchor, title, given, role=role)
        block["explorer"] = len(self.attention) > count

    def add_rows(
        self, anchor: str, title: str, rows: list[dict[str, Any]], *, role: Any = None, first: Any = None
    ) -> int:
        """Take over the weights by attention head of rows, as many as fit; returns how many were left out for size.

        Args:
            anchor: of the place on the page.
            title: names the explorer where others lead to it.
            rows: as in `attention.json`; `image` and `audio` are addresses of elements of the page.
            role: whose rows they are.
            first: {"layer": (group, number), "head": index} that are shown first; None for the first layer.
        """
        kept, left_out = [], 0
        for row in rows:
            entries = [entry for entry in mappings(row.get("heads")) if _is_packed(entry, row.get("axes"))]
            size = sum(len(entry["weights"]) + len(entry["scale"]) for entry in entries)
            if not entries or self._head_bytes + size > MOST_HEAD_BYTES:
                left_out += bool(entries)
                continue
            self._head_bytes += size
            kept.append({
                "row": row["row"] if isinstance(row.get("row"), int | str) else None,
                "caption": cut(row["caption"], 300) if isinstance(row.get("caption"), str) else "",
                "image": row.get("image"),
                "audio": row.get("audio"),
                "axes": [_axis(axis) for axis in row["axes"]],
                "heads": [_entry(entry) for entry in entries],
                "decoder": row["decoder"] if isinstance(row.get("decoder"), str) else "",
                "note": left_out_note(row.get("heads_left_out")),
            })  # fmt: skip
        if kept:
            self.attention.append({"anchor": anchor, "role": role, "title": title, "rows": kept, "first": first})
        return left_out

    def add_relevance(self, stage: StageFiles) -> None:
        """Take over the relevance of positions that a stage computed, of the rows whose description fits."""
        rows = []
        for row in mappings(stage.result.get("relevance"))[:MOST_RELEVANCE]:
            axis, methods = row.get("axis"), row.get("methods")
            if not isinstance(axis, dict) or not isinstance(methods, dict) or count_in(axis, "shown") is None:
                continue
            if not _fits(axis, axis["shown"]):
                continue
            known = {str(name): numbers_of(values, axis["shown"]) for name, values in methods.items()}
            if shown := {name: values for name, values in known.items() if values is not None}:
                index = row.get("row")
                rows.append({"row": index if type(index) is int else None, "axis": _axis(axis), "methods": shown})
        title, role = f"stage {stage.number}, {stage.name}", stage.result.get("role")
        if rows:
            self.relevance.append({"anchor": stage.anchor, "role": role, "title": title, "rows": rows})

    def add_predictions(self, stage: StageFiles) -> dict[str, Any] | None:
        """Take over a stage's table of predictions; returns its block, None when there is none."""
        table = stage.artefacts.get("predictions.json")
        lines = mappings(table.get("predictions")) if isinstance(table, dict) else []
        if not lines or not isinstance(table, dict):
            return None
        shown = lines[: max(0, MOST_LISTED - self._listed)]
        self._listed += len(shown)
        if shown:
            count, order = number(table.get("rows")), table.get("order")
            predictions = [_prediction(line) for line in shown]
            names = dict.fromkeys(name for line in predictions for name in line["facts"])
            self.predictions.append({
                "anchor": stage.anchor,
                "role": stage.result.get("role"),
                "order": order if isinstance(order, str) else "",
                "rows": count or len(lines),
                "names": {name: words(name) for name in names},
                "predictions": predictions,
            })  # fmt: skip
        return {"kind": "predictions", "anchor": stage.anchor, "left_out": len(lines) - len(shown)}


def escaped_json(data: Any) -> str:
    """Return data as JSON for a script element: characters that HTML or JavaScript could read otherwise are escaped."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text


@cache
def script() -> tuple[str, str]:
    """Return the page's script, and its hash as a content security policy names it."""
    folder = Path(__file__).resolve().parent / "script"
    parts = [(folder / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS]
    text = '\n(() => {\n"use strict";\n' + "\n".join(parts) + "})();\n"
    digest = base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
    return text, f"sha256-{digest}"


def _is_packed(entry: dict[str, Any], axes: Any) -> bool:
    """Return whether an entry of `heads` has the shape that it says, so that the script can read it."""
    shape, count = entry.get("shape"), len(mappings(axes))
    if not isinstance(shape, list) or len(shape) != 3 or not all(type(side) is int and side > 0 for side in shape):
        return False
    indices, sides = entry.get("indices"), [entry.get("queries"), entry.get("keys")]
    if not isinstance(indices, list) or len(indices) != shape[0] or count != len(axes):
        return False
    for side, size in zip(sides, shape[1:]):
        if type(side) is not int or not 0 <= side < count or not _fits(axes[side], size):
            return False
    lengths = [_decoded_length(entry.get(key)) for key in ("weights", "scale")]
    return lengths == [shape[0] * shape[1] * shape[2], 2 * shape[0] * shape[1]]


def _fits(axis: dict[str, Any], size: int) -> bool:
    """Return whether a description of positions is one of `size` positions."""
    names, grid, special = axis.get("names"), axis.get("grid"), axis.get("special")
    if names is not None and not (isinstance(names, list) and len(names) == size and all(map(_is_text, names))):
        return False
    if grid is None:
        return True
    if not isinstance(special, list) or not isinstance(grid, list) or len(grid) != 2:
        return False
    return all(type(side) is int and side > 0 for side in grid) and grid[0] * grid[1] + len(special) == size


def _axis(axis: dict[str, Any]) -> dict[str, Any]:
    """Return what the script reads of a description of positions."""
    known: dict[str, Any] = {
        "name": str(axis.get("name", "")),
        "names": axis.get("names"),
        "grid": axis.get("grid"),
        "frames": axis.get("frames") is True,
        "inferred": axis.get("inferred") is True,
    }
    special = axis.get("special")
    known["special"] = [at for at in special if type(at) is int] if isinstance(special, list) else []
    known |= {key: number(axis.get(key)) for key in ("seconds", "length", "shown")}
    if boxes := [_query_box(entry) for entry in axis["boxes"]] if isinstance(axis.get("boxes"), list) else []:
        known["boxes"] = [box for box in boxes if box is not None]
    return known | {"merged": number(axis.get("merged")) or 1}


def _query_box(entry: Any) -> list[Any] | None:
    """Return [position, label, score, [left, top, right, bottom]], or None for anything else."""
    if not isinstance(entry, list) or len(entry) != 4 or type(entry[0]) is not int or not isinstance(entry[1], str):
        return None
    sides = [number(side) for side in entry[3]] if isinstance(entry[3], list) else []
    if len(sides) != 4 or None in sides or number(entry[2]) is None:
        return None
    return [entry[0], cut(entry[1], 60), entry[2], sides]


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    """Return what the script reads of a layer's weights."""
    plain = {key: entry[key] for key in ("shape", "weights", "scale", "queries", "keys")}
    indices = [index if type(index) is int else None for index in entry["indices"]]
    path = text_in(entry, "path", "")
    known = {"group": str(entry.get("group")), "number": number(entry.get("number")), "path": path}
    return {**known, "indices": indices, **plain}


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _decoded_length(text: Any) -> int:
    """Return the number of bytes of a base64 text; -1 when it is none."""
    try:
        return len(base64.b64decode(text, validate=True))
    except (ValueError, TypeError):
        return -1


def numbers_of(values: Any, count: int) -> list[float] | None:
    """Return a list of so many finite numbers; None for anything else."""
    if not isinstance(values, list) or len(values) != count:
        return None
    finite = [number(value) for value in values]
    return None if None in finite else [float(value) for value in finite if value is not None]


def left_out_note(left_out: Any) -> str:
    """Return a sentence about the layers that a row has no weights of."""
    if not isinstance(left_out, dict) or not left_out:
        return ""
    return " Left out: " + "; ".join(f"layer {name}: {reason}" for name, reason in list(left_out.items())[:6]) + "."


def _prediction(line: dict[str, Any]) -> dict[str, Any]:
    facts = line.get("facts")
    plain = {
        str(name): cut(value, 200) if isinstance(value, str) else value
        for name, value in (facts.items() if isinstance(facts, dict) else ())
        if isinstance(value, str | int | bool) or value is None or number(value) is not None
    }
    picture, index = line.get("picture"), line.get("index")
    return {
        "row": line.get("row") if isinstance(line.get("row"), int | str) else None,
        "index": index if type(index) is int else None,
        "caption": cut(str(line.get("caption", "")), 200),
        "text": cut(str(line.get("text") or ""), 200),
        "badness": number(line.get("badness")),
        "facts": plain,
        "picture": picture if type(picture) is int else None,
    }
