"""Blocks about attention heads: maps of layers x attention heads, and which attention heads were removed.

Entry points: `head_maps` and `removal`. Attention heads go by their original indices throughout, so a column means the
same attention head before and after pruning.
"""

from __future__ import annotations

from typing import Any

from topwork_report.charts import HeatRow, heat_map
from topwork_report.formatting import short, words
from topwork_report.run_files import RunFiles, StageFiles, count_in, mappings, number, numbers
from topwork_report.summary import baseline_of, removal_of, text_in

Block = dict[str, Any]
Layer = dict[str, Any]
_MOST_HEADS = 4096  # of a layer on the page


def head_maps(run: RunFiles, stage: StageFiles) -> tuple[list[Block], set[str]]:
    """Return the maps that `head_maps` of the result describes; each shows one list of the entries of `layers`."""
    layers = mappings(stage.result.get("layers"))
    blocks = []
    for described in mappings(stage.result.get("head_maps")):
        key = text_in(described, "key", "")
        cut = cut_later(run, stage) if described.get("crossed") is True else {}
        title, note = text_in(described, "title", words(key)), text_in(described, "note", "")
        blocks.append(_heat(run, title, layers, key, cut, note=note, fitted=described.get("fitted") is True))
    drawn = [block for block in blocks if block]
    return drawn, {"layers", "head_maps"} if drawn else set()


def removal(run: RunFiles, stage: StageFiles) -> tuple[list[Block], set[str]]:
    """Return counts before and after, the random baseline, the attention heads of each layer, and the check."""
    baseline, shown = _baseline(stage)
    counts = removal_of(stage)
    if counts is None:
        return baseline, shown
    unit = text_in(counts, "unit", "parts")
    tiles = [{"name": unit, "value": counts["after"], "was": counts["before"], "main": True}]
    sizes = count_in(counts, "parameters_before"), count_in(counts, "parameters_after")
    if None not in sizes:
        tiles.append({"name": "parameters", "value": sizes[1], "was": sizes[0], "main": False})
    blocks: list[Block] = [{"kind": "tiles", "tiles": tiles}, *baseline]
    shown |= {"removal", *(key for key in ("parameters_before", "parameters_after") if stage.result.get(key) in sizes)}
    layers = mappings(stage.result.get("layers"))
    if layers and isinstance(counts.get("heads"), dict):
        blocks.append(_head_rows(run, counts, layers))
        shown.add("layers")
    if left := _left_by_layer(counts):
        blocks.append(left)
    check = _check(stage.result.get("check"))
    if check:
        blocks.append(check)
        shown |= set() if check["more"] else {"check"}
    return blocks, shown


def _left_by_layer(counts: dict[str, Any]) -> Block | None:
    """Return bars of what each layer has left, a list for each unit; None where the stage does not say it."""
    units: dict[str, list[dict[str, Any]]] = {}
    for line in mappings(counts.get("by_layer")):
        before, after = count_in(line, "before"), count_in(line, "after")
        if before and after is not None and after <= before:
            entry = {"path": text_in(line, "path", "?"), "before": before, "after": after}
            units.setdefault(text_in(line, "unit", "parts"), []).append(entry)
    for lines in units.values():
        most = max(line["before"] for line in lines)
        for line in lines:
            line |= {"wide": round(180 * line["before"] / most, 1), "kept": round(180 * line["after"] / most, 1)}
    return {"kind": "left", "units": list(units.items())} if units else None


def cut_later(run: RunFiles, stage: StageFiles) -> dict[str, set[int]]:
    """Return the attention heads, by a layer's path, that later stages took away."""
    cut: dict[str, set[int]] = {}
    for later in run.stages:
        counts = removal_of(later) if later.number > stage.number else None
        for path, heads in _removed_heads(counts).items():
            cut.setdefault(path, set()).update(heads)
    return cut


def _removed_heads(counts: dict[str, Any] | None) -> dict[str, set[int]]:
    heads = counts.get("heads") if counts else None
    return {str(path): set(_whole(indices)) for path, indices in heads.items()} if isinstance(heads, dict) else {}


def layer_names(run: RunFiles, layers: list[Layer]) -> list[str]:
    """Return names of layers, in order: `3`, `decoder cross 3` where there are several sides or kinds, or the path.

    A layer without a `number` goes by the one that another stage gave to its path.
    """
    known: dict[Any, Layer] = {}
    for stage in run.stages:
        for layer in mappings(stage.result.get("layers")):
            if number(layer.get("number")) is not None:
                known.setdefault(str(layer.get("path")), layer)
    full = [{**known.get(str(layer.get("path")), {}), **layer} for layer in layers]
    telling = [key for key in ("side", "kind") if len({str(layer.get(key)) for layer in full}) > 1]
    names = []
    for layer in full:
        count = number(layer.get("number"))
        last = str(int(count)) if count is not None else short(layer.get("path", "?"))
        names.append(" ".join([*dict.fromkeys(str(layer[key]) for key in telling if layer.get(key)), last]))
    return names


def _heat(
    run: RunFiles,
    title: str,
    layers: list[Layer],
    key: str,
    cut: dict[str, set[int]],
    note: str = "",
    fitted: bool = False,
) -> Block | None:
    having = [layer for layer in layers if isinstance(layer.get(key), list)]
    rows = []
    for layer, name in zip(having, layer_names(run, having), strict=True):
        values = _columns(layer, layer[key])
        kept = set(_whole(layer["kept"])) if isinstance(layer.get("kept"), list) else set(values)
        absent = frozenset(set(range(max(values, default=-1) + 1)) - kept)
        rows.append(
            HeatRow(
                name,
                _layer_tip(layer, name),
                values,
                frozenset(cut.get(str(layer.get("path")), ())),
                absent,
                path=text_in(layer, "path", ""),
            )
        )
    count = max((max(row.values, default=-1) for row in rows), default=-1) + 1
    columns = [str(head) for head in range(count)]
    # Entropies differ little beside their size: their scale begins at the smallest; it is written under the map.
    low = min((value for row in rows for value in row.values.values() if value is not None), default=None)
    low = low if fitted else None
    chart = heat_map(title, rows, columns, row_title="layer", column_title="attention head", note=note, low=low)
    return {"kind": "heat", "chart": chart} if chart else None


def _columns(layer: Layer, values: list[Any]) -> dict[int, float | None]:
    """Return values by original index of the head: one for each original head, or one for each of `kept`."""
    kept = _whole(layer.get("kept"))
    heads = kept if len(kept) == len(values) else range(len(values))
    return {head: number(value) for head, value in zip(heads, values, strict=True)}


def _whole(values: Any) -> list[int]:
    """Return the head indices in a list; an empty list for anything else."""
    return (
        [value for value in values if type(value) is int and 0 <= value < _MOST_HEADS]
        if isinstance(values, list)
        else []
    )


def _layer_tip(layer: Layer, name: str) -> str:
    path = layer.get("path")
    return f"layer {name}, {path}" if isinstance(path, str) and path != name else f"layer {name}"


def _baseline(stage: StageFiles) -> tuple[list[Block], set[str]]:
    """Return what as many random choices gave, beside the stage's own choice measured in the same way."""
    chance = baseline_of(stage)
    if not chance:
        return [], set()
    baseline = stage.result["random_baseline"]
    tiles = [{"name": words(key), "value": value, "main": False} for key, value in chance.items()]
    chosen = baseline.get("chosen")
    for key, value in numbers(chosen).items() if isinstance(chosen, dict) else ():
        tiles.append({"name": f"{words(key)}, the chosen ones", "value": value, "main": False})
    draws, role = count_in(baseline, "draws"), text_in(baseline, "role", "")
    notes = [*([f"mean of {draws} draws"] if draws and draws > 1 else []), *([f"{role} rows"] if role else [])]
    title = "As many at random" + (f" ({', '.join(notes)})" if notes else "")
    return [{"kind": "tiles", "title": title, "tiles": tiles}], {"random_baseline"}


def _head_rows(run: RunFiles, counts: dict[str, Any], layers: list[Layer]) -> Block:
    """Return the layers with their attention heads as kept, removed here, or removed before."""
    lines = []
    removed = _removed_heads(counts)
    for layer, name in zip(layers, layer_names(run, layers), strict=True):
        cut = removed.get(str(layer.get("path")), set())
        kept = set(_whole(layer.get("kept"))) - cut
        last = max(cut | kept | {min(_MOST_HEADS, count_in(layer, "heads") or 0) - 1})
        if not isinstance(layer.get("kept"), list):
            kept = set(range(last + 1)) - cut
        marks = ["cut" if head in cut else "kept" if head in kept else "gone" for head in range(last + 1)]
        line = {"name": name, "tip": _layer_tip(layer, name), "marks": marks, "cut": sorted(cut), "kept": len(kept)}
        lines.append({**line, "form": layer.get("form")})
    forms = any(line["form"] is not None for line in lines)
    return {"kind": "heads", "lines": lines, "forms": forms, "word": text_in(counts, "how", "removed")}


def _check(check: Any) -> Block | None:
    """Return the block of a comparison of two models: the difference beside the one that is allowed."""
    if not isinstance(check, dict):
        return None
    difference, tolerance = number(check.get("difference")), number(check.get("tolerance"))
    if difference is None or tolerance is None:
        return None
    rest = {key: value for key, value in check.items() if key not in ("difference", "tolerance")}
    names = {"effect": "effect of masking"}
    plain = {
        names.get(key, words(key)): value
        for key, value in rest.items()
        if not isinstance(value, dict | list) and (key, value) != ("proves", True)
    }
    return {
        "kind": "check",
        "difference": difference,
        "tolerance": tolerance,
        "good": difference <= tolerance,
        "rest": plain,
        "more": any(isinstance(value, dict | list) for value in rest.values()),
    }
