"""What stages found out about attention heads: maps of layers x heads, and which heads were removed.

Heads go by their original numbers throughout, so a column means the same head before and after pruning.
"""

from __future__ import annotations

from typing import Any

from topwork_report.charts import HeatRow, heat_map
from topwork_report.formatting import short, words
from topwork_report.run_files import RunFiles, StageFiles, mappings, number, numbers
from topwork_report.summary import is_pruning, random_metrics

Block = dict[str, Any]
Layer = dict[str, Any]
_MEASURES = {
    "entropy": ("Entropy", "nats; low: sharp, high: spread out"),
    "distance": ("Attention distance", "in positions or patches"),
    "special": ("On special positions", "share"),
    "one_removed": ("Without the attention head", "change of the metric"),
    "all_but_one": ("With the attention head alone in its layer", "change of the metric"),
}
_FITTED = ("entropy", "distance")


def importance(run: RunFiles, stage: StageFiles) -> tuple[list[Block], set[str]]:
    """The map of the scores, the attention heads crossed that a later stage of the run removed."""
    layers = [layer for layer in mappings(stage.result.get("layers")) if isinstance(layer.get("scores"), list)]
    method = stage.result.get("method")
    title = "Importance of the attention heads" + (f" ({method})" if isinstance(method, str) else "")
    block = _heat(run, title, layers, "scores", cut_later(run, stage)) if layers else None
    return ([block], {"layers"}) if block else ([], set())


def measured(run: RunFiles, stage: StageFiles) -> tuple[list[Block], set[str]]:
    """Maps of what a stage measured of every attention head: from attention.json, else from the result itself."""
    attention = stage.artefacts.get("attention.json")
    inside = mappings(stage.result.get("layers"))
    layers = (mappings(attention.get("layers")) if isinstance(attention, dict) else []) or inside
    maps = [
        _heat(run, title, layers, key, {}, note=note, fitted=key in _FITTED) for key, (title, note) in _MEASURES.items()
    ]
    blocks = [block for block in maps if block]
    return blocks, ({"layers"} if blocks and layers == (inside or layers) else set())


def pruning(run: RunFiles, stage: StageFiles) -> tuple[list[Block], set[str]]:
    """Counts before and after, the random baseline, the heads of each layer as kept or removed, the self-check."""
    if not is_pruning(stage):
        return [], set()
    result = stage.result
    shown = {"heads_before", "heads_after"}
    tiles = [{"name": "attention heads", "value": result["heads_after"], "was": result["heads_before"], "main": True}]
    sizes = number(result.get("parameters_before")), number(result.get("parameters_after"))
    if None not in sizes:
        tiles.append({"name": "parameters", "value": sizes[1], "was": sizes[0], "main": False})
        shown |= {"parameters_before", "parameters_after"}
    blocks: list[Block] = [{"kind": "tiles", "tiles": tiles}]
    blocks += _baseline(result, shown)
    layers = mappings(result.get("layers"))
    if layers:
        blocks.append(_head_rows(run, stage, layers))
        shown |= {"layers", "removed", "masked"}
    check = _check(result.get("check"))
    if check:
        blocks.append(check)
        shown |= set() if check["more"] else {"check"}
    return blocks, shown


def cut_later(run: RunFiles, stage: StageFiles) -> dict[str, set[int]]:
    """The attention heads, by a layer's path, that pruning stages after this one removed."""
    cut: dict[str, set[int]] = {}
    for later in run.stages:
        if later.number > stage.number and is_pruning(later):
            for layer in mappings(later.result.get("layers")):
                cut.setdefault(str(layer.get("path")), set()).update(removed_heads(run, later, layer))
    return cut


def removed_heads(run: RunFiles, stage: StageFiles, layer: Layer) -> set[int]:
    """What a pruning stage removed (or masked) of one layer: as it says, else what was scored and is kept no longer."""
    path = str(layer.get("path"))
    for listed in (stage.result.get("removed"), stage.result.get("masked")):
        if isinstance(listed, dict):
            return set(_whole(listed.get(path)))
    if isinstance(layer.get("removed"), list):
        return set(_whole(layer["removed"]))
    for earlier in reversed([other for other in run.stages if other.number < stage.number]):
        for scored in mappings(earlier.result.get("layers")):
            if scored.get("path") == layer.get("path") and isinstance(scored.get("scores"), list):
                heads = _columns(scored, scored["scores"])
                before = {head for head, value in heads.items() if value is not None}
                return before - set(_whole(layer.get("kept"))) if isinstance(layer.get("kept"), list) else set()
    return set()


def layer_names(run: RunFiles, layers: list[Layer]) -> list[str]:
    """Names of layers, in order: `3`, or `decoder cross 3` where there are several sides or kinds, else the path.

    A layer that does not say its number goes by the one that another stage gave to its path.
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
        rows.append(HeatRow(name, _place(layer, name), values, frozenset(cut.get(str(layer.get("path")), ())), absent))
    count = max((max(row.values, default=-1) for row in rows), default=-1) + 1
    columns = [str(head) for head in range(count)]
    # Entropies differ little beside their size: their scale begins at the smallest; it is written under the map.
    low = min((value for row in rows for value in row.values.values() if value is not None), default=None)
    low = low if fitted else None
    chart = heat_map(title, rows, columns, row_title="layer", column_title="attention head", note=note, low=low)
    return {"kind": "heat", "chart": chart} if chart else None


def _columns(layer: Layer, values: list[Any]) -> dict[int, float | None]:
    """Values by original head number: one for each original head, or one for each of `kept`."""
    kept = _whole(layer.get("kept"))
    heads = kept if len(kept) == len(values) else range(len(values))
    return {head: number(value) for head, value in zip(heads, values, strict=True)}


def _whole(values: Any) -> list[int]:
    """The head numbers in a list; an empty list for anything else."""
    return [value for value in values if type(value) is int and 0 <= value < 4096] if isinstance(values, list) else []


def _place(layer: Layer, name: str) -> str:
    path = layer.get("path")
    return f"layer {name}, {path}" if isinstance(path, str) and path != name else f"layer {name}"


def _baseline(result: dict[str, Any], shown: set[str]) -> list[Block]:
    """As many attention heads removed at random, beside the chosen ones."""
    chance = random_metrics(result)
    if not chance:
        return []
    drawn = result["random"]
    draws = drawn.get("draws") if isinstance(drawn, dict) else drawn
    count = len(draws) if isinstance(draws, list) else number(draws)
    tiles = [{"name": words(key), "value": value, "main": False} for key, value in chance.items()]
    if isinstance(drawn, dict):
        for key, value in numbers(drawn).items():
            if key.startswith("masked_"):
                name = f"{words(key.removeprefix('masked_'))}, the chosen ones masked"
                tiles.append({"name": name, "value": value, "main": False})
        shown |= {key for key, value in numbers(drawn).items() if result.get(key) == value}
    mean = f" (mean of {count:.0f} draws)" if count and count > 1 else ""
    return [{"kind": "tiles", "title": f"As many attention heads at random{mean}", "tiles": tiles}]


def _head_rows(run: RunFiles, stage: StageFiles, layers: list[Layer]) -> Block:
    """Layers with their attention heads as kept, removed here, or gone before."""
    lines = []
    for layer, name in zip(layers, layer_names(run, layers), strict=True):
        cut = removed_heads(run, stage, layer)
        kept = set(_whole(layer.get("kept"))) - cut
        named = number(layer.get("heads")) or 0
        count = max(cut | kept | {min(4096, int(named)) - 1})
        if not isinstance(layer.get("kept"), list):
            kept = set(range(count + 1)) - cut
        marks = ["cut" if head in cut else "kept" if head in kept else "gone" for head in range(count + 1)]
        line = {"name": name, "tip": _place(layer, name), "marks": marks, "cut": sorted(cut), "kept": len(kept)}
        lines.append({**line, "form": layer.get("form")})
    forms = any(line["form"] is not None for line in lines)
    word = "masked" if "masked" in stage.result else "removed"
    return {"kind": "heads", "lines": lines, "forms": forms, "word": word}


def _check(check: Any) -> Block | None:
    """The self-check masked = pruned: the difference that was found beside the one that was allowed."""
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
