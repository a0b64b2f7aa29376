"""What each stage's result becomes on the page: blocks, chosen by what a result holds, not by the stage's name.

So a stranger's stage that answers with a `history`, `metrics`, `tables`, or layers with scores is drawn like ours; all
that nobody recognises is shown as plain numbers and tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from topwork_report.charts import HeatRow, curves, heat_map
from topwork_report.format import short, words
from topwork_report.generic import as_table, blocks_of
from topwork_report.run_files import RunFiles, StageFiles, mappings, number, numbers
from topwork_report.story import is_pruning, random_metrics

Block = dict[str, Any]
# A reader answers with blocks and the keys of the result that they have told.
Reader = Callable[[RunFiles, StageFiles], tuple[list[Block], set[str]]]

_UNTOLD = ("runtime", "per_second", "total_flos", "epoch")  # bookkeeping of the trainer: no curve of their own
_PLACE = ("path", "number", "side", "kind")


def section(run: RunFiles, stage: StageFiles) -> dict[str, Any]:
    """One stage's part of the page: its blocks (special ones first, then whatever is left of the result)."""
    blocks: list[Block] = []
    told: set[str] = set()
    for reader in (_metrics, _history, _pruning, _importance, _tables):
        found, keys = reader(run, stage)
        blocks += found
        told |= keys
    rest = {key: value for key, value in stage.result.items() if key not in told}
    return {"stage": stage, "blocks": blocks, "rest": blocks_of(rest), "options": _options(stage)}


def headline(stage: StageFiles) -> dict[str, float]:
    """The numbers of a stage for the table of stages: its metrics, else its first plain numbers."""
    metrics = stage.result.get("metrics")
    found = numbers(metrics) if isinstance(metrics, dict) else {}
    keys = ("heads_before", "heads_after", "parameters_after") if is_pruning(stage) else ()
    plain = numbers({key: value for key, value in stage.result.items() if not keys or key in keys})
    found.update({key: value for key, value in plain.items() if key not in found and not found})
    return dict(list(found.items() or plain.items())[:4]) if found else dict(list(plain.items())[:4])


def layer_name(layer: dict[str, Any], layers: Iterable[dict[str, Any]]) -> str:
    """`3`, or `decoder 3`, `decoder cross 3` where the layers have several sides or kinds."""
    layers = list(layers)
    parts = []
    for key in ("side", "kind"):
        if len({str(other.get(key)) for other in layers}) > 1 and layer.get(key) is not None:
            parts.append(str(layer[key]))
    parts = list(dict.fromkeys(parts))
    count = number(layer.get("number"))
    return " ".join([*parts, str(int(count)) if count is not None else str(layer.get("path", "?"))])


def head_heat(
    title: str, layers: list[dict[str, Any]], key: str, cut: dict[str, set[int]], **options: Any
) -> Block | None:
    """A map of layers x attention heads of the numbers under `key`; columns are the heads' original numbers."""
    rows = []
    for layer in layers:
        values = layer.get(key)
        if not isinstance(values, list):
            continue
        heads = _original_numbers(layer, len(values))
        known = {head: number(value) for head, value in zip(heads, values, strict=True)}
        missing = set(range(max(heads, default=-1) + 1)) - set(heads)
        gone = cut.get(str(layer.get("path")), set())
        name = layer_name(layer, layers)
        rows.append(HeatRow(name, _place(layer, name), known, frozenset(gone), frozenset(missing)))
    count = max((max(row.values, default=-1) for row in rows), default=-1) + 1
    columns = [str(head) for head in range(count)]
    chart = heat_map(title, rows, columns, row_title="layer", column_title="attention head", **options)
    return {"kind": "heat", "chart": chart} if chart else None


def _original_numbers(layer: dict[str, Any], count: int) -> list[int]:
    """Which attention heads a layer's `count` values belong to: `kept` (or a list `heads`) when it has as many."""
    for key in ("kept", "heads"):
        named = layer.get(key)
        if isinstance(named, list) and len(named) == count and all(type(head) is int and head >= 0 for head in named):
            return named
    return list(range(count))


def _place(layer: dict[str, Any], name: str) -> str:
    path = layer.get("path")
    return f"layer {name}, {path}" if isinstance(path, str) else f"layer {name}"


def _metrics(run: RunFiles, stage: StageFiles) -> tuple[list[Block], set[str]]:
    metrics = stage.result.get("metrics")
    if not isinstance(metrics, dict) or not metrics:
        return [], set()
    primary = stage.result.get("primary")
    tiles = [{"name": words(key), "value": value, "main": key == primary} for key, value in metrics.items()]
    return [{"kind": "tiles", "tiles": tiles}], {"metrics", "primary", "higher_is_better"}


def _history(run: RunFiles, stage: StageFiles) -> tuple[list[Block], set[str]]:
    history = mappings(stage.result.get("history"))
    series: dict[str, list[tuple[float, float]]] = {}
    for entry in history:
        step = number(entry.get("step"))
        for key, value in numbers(entry).items():
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
    return [{"kind": "curves", "charts": [chart for chart in drawn if chart]}], {"history"}


def _importance(run: RunFiles, stage: StageFiles) -> tuple[list[Block], set[str]]:
    layers = [layer for layer in mappings(stage.result.get("layers")) if isinstance(layer.get("scores"), list)]
    if not layers:
        return [], set()
    method = stage.result.get("method")
    title = "Importance of the attention heads" + (f" ({method})" if isinstance(method, str) else "")
    block = head_heat(title, layers, "scores", cut_later(run, stage, layers))
    return ([block], {"layers"}) if block else ([], set())


def cut_later(run: RunFiles, stage: StageFiles, layers: list[dict[str, Any]]) -> dict[str, set[int]]:
    """The attention heads, by a layer's path, that pruning stages after this one removed (original numbers)."""
    cut: dict[str, set[int]] = {}
    for later in run.stages:
        if later.number <= stage.number or not is_pruning(later):
            continue
        for entry in mappings(later.result.get("layers")):
            cut.setdefault(str(entry.get("path")), set()).update(removed_heads(entry, layers))
    return cut


def removed_heads(entry: dict[str, Any], before: list[dict[str, Any]]) -> set[int]:
    """What a pruning stage removed of one layer: its `removed`, else what was kept before and no longer is."""
    if isinstance(entry.get("removed"), list):
        return {head for head in entry["removed"] if type(head) is int}
    kept = entry.get("kept")
    earlier = next((layer for layer in before if layer.get("path") == entry.get("path")), {})
    if isinstance(kept, list) and isinstance(earlier.get("scores"), list):
        return set(_original_numbers(earlier, len(earlier["scores"]))) - {head for head in kept if type(head) is int}
    return set()


def _pruning(run: RunFiles, stage: StageFiles) -> tuple[list[Block], set[str]]:
    if not is_pruning(stage):
        return [], set()
    result = stage.result
    told = {"heads_before", "heads_after"}
    tiles = [
        {"name": "attention heads", "value": result["heads_after"], "was": result["heads_before"], "main": True},
    ]
    sizes = number(result.get("parameters_before")), number(result.get("parameters_after"))
    if None not in sizes:
        tiles.append({"name": "parameters", "value": sizes[1], "was": sizes[0], "main": False})
        told |= {"parameters_before", "parameters_after"}
    blocks: list[Block] = [{"kind": "tiles", "tiles": tiles}]
    chance = random_metrics(result)
    if chance:
        title = "As many attention heads removed at random"
        blocks.append({"kind": "tiles", "title": title, "tiles": [
            {"name": words(key), "value": value, "main": False} for key, value in chance.items()]})  # fmt: skip
    layers = mappings(result.get("layers"))
    if layers:
        blocks.append(_head_rows(layers, _scored_before(run, stage)))
        told |= {"layers"}
        if not isinstance(result.get("removed"), list) or all(isinstance(e.get("removed"), list) for e in layers):
            told |= {"removed"}
    check = _check(result.get("check"))
    if check:
        blocks.append(check)
        told |= {"check"}
    if chance and not isinstance(result.get("random"), list) and numbers(result["random"]) == chance:
        told |= {"random"}
    return blocks, told


def _scored_before(run: RunFiles, stage: StageFiles) -> list[dict[str, Any]]:
    earlier = [mappings(other.result.get("layers")) for other in run.stages if other.number < stage.number]
    scored = [[layer for layer in layers if isinstance(layer.get("scores"), list)] for layers in earlier]
    return next((layers for layers in reversed(scored) if layers), [])


def _head_rows(layers: list[dict[str, Any]], before: list[dict[str, Any]]) -> Block:
    """Layers with their attention heads as kept or removed."""
    lines = []
    for layer in layers:
        cut = removed_heads(layer, before)
        kept = {head for head in layer["kept"] if type(head) is int} if isinstance(layer.get("kept"), list) else set()
        count = max(cut | kept | {int(number(layer.get("heads")) or 0) - 1}, default=-1) + 1
        kept = kept or set(range(count)) - cut
        marks = ["cut" if head in cut else "kept" if head in kept else "gone" for head in range(count)]
        name = layer_name(layer, layers)
        lines.append({"name": name, "tip": _place(layer, name), "marks": marks, "cut": sorted(cut), "kept": len(kept),
                      "form": layer.get("form")})  # fmt: skip
    return {"kind": "heads", "lines": lines, "forms": any(line["form"] is not None for line in lines)}


def _check(check: Any) -> Block | None:
    """The self-check masked = pruned: the difference that was found beside the one that was allowed."""
    if not isinstance(check, dict):
        return None
    found = numbers(check)
    difference = next((value for key, value in found.items() if "diff" in key or "error" in key), None)
    tolerance = next((value for key, value in found.items() if "toler" in key or "allowed" in key), None)
    if difference is None or tolerance is None:
        return None
    rest = {key: value for key, value in check.items() if value not in (difference, tolerance)}
    return {"kind": "check", "difference": difference, "tolerance": tolerance, "good": difference <= tolerance,
            "rest": {words(key): value for key, value in rest.items() if not isinstance(value, dict | list)}}  # fmt: skip


def _tables(run: RunFiles, stage: StageFiles) -> tuple[list[Block], set[str]]:
    tables = stage.result.get("tables")
    if not isinstance(tables, dict):
        return [], set()
    blocks = [as_table(str(name), table) or blocks_of({str(name): table}) for name, table in tables.items()]
    flat = [one for block in blocks for one in (block if isinstance(block, list) else [block])]
    return flat, {"tables"}


def _options(stage: StageFiles) -> list[tuple[str, str]]:
    return [(words(key), short(value)) for key, value in stage.options.items()]
