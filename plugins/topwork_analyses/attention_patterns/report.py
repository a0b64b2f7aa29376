"""Results of `attention_patterns` as JSON: lists by layer, a line for each attention head, curves by layer, maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from topwork import AttentionLayer, Json
from topwork_analyses.attention_patterns.distances import HeadDistances, clusters, head_map
from topwork_analyses.attention_patterns.statistics_of_heads import Means, json_of, pattern
from topwork_lens.layers.discovery import numbered


def pattern_entries(means: Means, layers: Sequence[AttentionLayer]) -> list[dict[str, Json]]:
    """Return an entry for each layer with a list for each statistic."""
    entries = []
    for (group, number), layer in numbered(layers).items():
        entry: dict[str, Json] = {"group": group, "number": number, "path": layer.path, "kind": layer.kind}
        entry |= {"side": layer.side, "heads": layer.heads, "kept": list(layer.kept)}
        entries.append(entry | json_of(means, layer.path, layer.kept, layer.heads))
    return entries


def head_lines(means: Means, layers: Sequence[AttentionLayer], special: Sequence[str]) -> list[dict[str, Json]]:
    """Return a line for each attention head: its pattern, entropy with interval, and its shares of attention."""
    names = [name for name in means.names() if not name.startswith(("uniform ", "gradient "))]
    lines: list[dict[str, Json]] = []
    for (group, number), layer in numbered(layers).items():
        values = {name: means.mean(layer.path, name) for name in means.names(layer.path)}
        widths = means.half_width(layer.path, "entropy")
        for index, head in enumerate(layer.kept):
            known = {name: numbers[index] for name, numbers in values.items() if numbers is not None}
            if not known:
                continue
            line: dict[str, Json] = {"group": group, "layer": number, "head": head}
            line["pattern"] = pattern(known, special)
            line |= {name: known.get(name) for name in names}
            line["entropy +-"] = widths[index] if widths is not None else None
            lines.append(line)
    return lines


def pattern_summary(
    means: Means, layers: Sequence[AttentionLayer], lines: Sequence[Mapping[str, Any]]
) -> dict[str, Json]:
    """Return means over all attention heads, and how many have each pattern."""
    numbers: dict[str, Json] = {}
    for name in ("entropy", "breadth"):
        known = [value for layer in layers for value in means.mean(layer.path, name) or ()]
        numbers[name] = sum(known) / len(known) if known else None
    patterns: dict[str, int] = {}
    for line in lines:
        patterns[line["pattern"]] = patterns.get(line["pattern"], 0) + 1
    numbers |= {name: patterns.get(name, 0) for name in ("broad", "narrow")}
    return numbers | {"patterns": {name or "none": count for name, count in sorted(patterns.items())}}


def share_curves(means: Means, layers: Sequence[AttentionLayer]) -> list[dict[str, Json]]:
    """Return mean shares of attention by layer, beside what uniform attention gives (Clark et al., figure 2)."""
    groups: dict[str, list[tuple[int, AttentionLayer]]] = {}
    for (group, number), layer in numbered(layers).items():
        groups.setdefault(group, []).append((number, layer))
    drawn = []
    for group, members in groups.items():
        for title, starts in (("Share of attention", ("share ", "uniform ")), ("Gradients", ("gradient ",))):
            series: dict[str, list[list[float]]] = {}
            for number, layer in members:
                for name in means.names(layer.path):
                    values = means.mean(layer.path, name)
                    if name.startswith(starts) and " from " not in name and values:
                        shown = name.removeprefix("share ").removeprefix("gradient ")
                        series.setdefault(shown, []).append([number, sum(values) / len(values)])
            if series:
                drawn.append({"title": f"{title} by layer, {group}", "x": "layer", "series": series})
    return drawn


def map_of(
    paths: Sequence[str], between: HeadDistances, layers: Sequence[AttentionLayer], most: int, seed: int
) -> dict[str, Json] | None:
    """Return the map of attention heads of some layers with their clusters; None for fewer than three heads."""
    distances = between.mean()
    if distances is None or len(distances) < 3:
        return None
    names = {layer.path: key for key, layer in numbered(layers).items()}
    heads = [(path, head) for path in paths for layer in layers if layer.path == path for head in layer.kept]
    labels, silhouette = clusters(distances, most)
    points = [
        {"layer": names[path][1], "head": head, "cluster": label, "x": float(x), "y": float(y), "path": path}
        for (path, head), label, (x, y) in zip(heads, labels, head_map(distances, seed), strict=True)
    ]
    within = _within_layers([path for path, _ in heads], distances)
    return {
        "group": names[paths[0]][0],
        "rows": between.rows,
        "clusters": max(labels) + 1,
        "silhouette": silhouette,
        **within,
        "points": points,
    }


def point_map(entry: Mapping[str, Any]) -> dict[str, Json]:
    """Return a map of `map_of` as `point_maps` of `topwork.StageResult`."""
    points = [
        {
            "x": point["x"],
            "y": point["y"],
            "group": point["cluster"],
            "name": f"layer {point['layer']}, attention head {point['head']}",
            "short": f"{point['layer']}.{point['head']}",
            "path": point["path"],
            "head": point["head"],
        }
        for point in entry["points"]
    ]
    note = (
        f"{entry['group']}, by Jensen-Shannon distance on {entry['rows']} rows; what is near looks alike. "
        "Names: layer.head; colours: clusters"
    )
    return {"title": "Map of attention heads", "note": note, "points": points}


def _within_layers(paths: Sequence[str], distances: Any) -> dict[str, float]:
    """Mean divergence of attention heads of the same layer, and of different layers."""
    means: dict[str, list[float]] = {"within_layers": [], "between_layers": []}
    for first in range(len(paths)):
        for second in range(first + 1, len(paths)):
            name = "within_layers" if paths[first] == paths[second] else "between_layers"
            means[name].append(float(distances[first, second]))
    return {name: sum(values) / len(values) for name, values in means.items() if values}
