"""Attention weights of every attention head of one row, in 8 bits, for a page on which heads are chosen.

Entry point: `pack_row`. Positions that tile an image or time are merged until a row fits its share of the bytes;
sequences are cut. What was merged, cut or left out is said in the JSON.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from topwork import Json, QueryBox, Units

if TYPE_CHECKING:
    import torch

    from topwork import AttentionLayer

MOST_TOKENS = 64
_MOST_UNNAMED = 100  # such as the queries of a detector
_MOST_FRAMES = 96
_FACTORS = (1, 2, 3, 4, 6, 8)


class Capturing(Protocol):
    """Captured attention, as far as it is read here: tensors by name and layer path, and why some are missing."""

    values: Any

    def missing(self, what: str) -> dict[str, str]:
        """Return why layers that ran have no `what`, by path."""
        ...


@dataclass(frozen=True)
class Axis:
    """Positions along one side of a matrix of weights.

    Args:
        name: "input", "target" (of a decoder), or "positions" where nothing is known but their number.
        length: number of positions that the model has.
        groups: positions of the model that are merged into each position that is shown.
        facts: as JSON: {"names", "special", "grid", "seconds", "merged", "length"}, those that apply.
    """

    name: str
    length: int
    groups: list[list[int]]
    facts: dict[str, Json]

    def described(self) -> dict[str, Json]:
        """Return the description as JSON."""
        return {"name": self.name, "shown": len(self.groups), **self.facts}


def pack_row(
    captured: Mapping[str, Capturing],
    layers: Mapping[tuple[str, int], AttentionLayer],
    units: Units,
    most_bytes: int,
    boxes: Sequence[QueryBox] = (),
) -> dict[str, Json]:
    """Return the weights of a row by layer and attention head.

    Args:
        captured: by group of layers, where the weights of its layers were captured.
        layers: the layers, by (group, index).
        units: what the positions of the row are.
        most_bytes: that the weights may take, before base64.
        boxes: that the model's queries gave for the row, where it has such queries.

    Returns:
        {"axes", "heads", "heads_left_out"}. `axes` is a list of descriptions of positions; `heads` is a list of
        {"group", "number", "path", "indices", "shape", "queries", "keys", "weights", "scale"}: `indices` are the
        original ones of the attention heads, `queries` and `keys` indices in `axes`, `weights` base64 of bytes
        [heads, queries, keys], `scale` base64 of little-endian 16-bit integers [heads, queries]; a weight is
        byte / 255 * scale / 65535. A side whose positions are queries has `boxes`, each [position, label, score,
        [left, top, right, bottom]]. `heads_left_out` names layers that are not in the list, with the reason.
    """
    tensors: dict[tuple[str, int], torch.Tensor] = {}
    left_out: dict[str, str] = {}
    for key, layer in layers.items():
        weights, reason = _weights_of(captured[key[0]], layer)
        if weights is None:
            left_out[" ".join(map(str, key))] = reason
        else:
            tensors[key] = weights
    has_cross = any(group == "cross" for group, _ in layers)
    for factor in _FACTORS:
        sides = {key: _sides(key[0], weights, units, has_cross, factor) for key, weights in tensors.items()}
        sizes = [
            tensor.shape[0] * len(sides[key][0].groups) * len(sides[key][1].groups) for key, tensor in tensors.items()
        ]
        if sum(sizes) <= most_bytes:
            packed = _packed(tensors, sides, layers, left_out)
            for axis in packed["axes"]:
                axis |= _with_boxes(axis, boxes)
            return packed
    reason = f"the weights of single attention heads take more than the {most_bytes:,} bytes that a row may take"
    return {"axes": [], "heads": [], "heads_left_out": {"all": reason}}


def _with_boxes(axis: Mapping[str, Json], boxes: Sequence[QueryBox]) -> dict[str, Json]:
    """Return the boxes of the queries among the positions of a side: {"boxes": [[position, label, score, box], ...]}.

    Queries are all positions of a sequence without names, or the last special ones behind the patches of an image.
    """
    special = axis.get("special") or []
    if not boxes or axis.get("names"):
        return {}
    if axis.get("grid") is None:
        first = 0 if axis["length"] == len(boxes) else None
    else:
        first = len(special) - len(boxes) if len(special) >= len(boxes) and not axis.get("inferred") else None
    if first is None:
        return {}
    numbered = list(enumerate(boxes, first))[: axis["shown"]]
    return {
        "boxes": [
            [position, each.label, round(each.score, 4), [round(side, 4) for side in each.box]]
            for position, each in numbered
        ]
    }


def _weights_of(captured: Capturing, layer: AttentionLayer) -> tuple[torch.Tensor | None, str]:
    """Return [heads, queries, keys] of one row; None, and why, where the layer has no such matrix.

    The steps of a generation, each with the query of one new position, are laid below each other.
    """
    import torch

    calls = captured.values.get("weights", {}).get(layer.path)
    reason = captured.missing("weights").get(layer.path)
    if not calls or reason or not layer.kept:
        return None, reason or ("no attention head is left" if not layer.kept else "the layer did not run")
    if any(call.shape[0] != 1 for call in calls):
        return None, f"it ran on {max(call.shape[0] for call in calls)} windows or candidates at once"
    steps = [call[0].float() for call in calls]
    grows = all(later.shape[-1] >= earlier.shape[-1] for earlier, later in itertools.pairwise(steps))
    if not grows or any(step.shape[-2] != 1 for step in steps[1:]):
        steps = steps[:1]
    most = steps[-1].shape[-1]
    weights = torch.cat([torch.nn.functional.pad(step, (0, most - step.shape[-1])) for step in steps], -2)
    if not bool(torch.isfinite(weights).all()) or float(weights.min()) < -1e-3 or float(weights.max()) > 1.001:
        return None, "its weights are no shares from 0 to 1"
    return weights, ""


def _sides(group: str, weights: torch.Tensor, units: Units, has_cross: bool, factor: int) -> tuple[Axis, Axis]:
    """Return what the queries and the keys of a layer are."""
    queries, keys = weights.shape[-2:]
    is_target = has_cross and group in ("cross", "decoder")
    is_target_key = has_cross and group == "decoder"
    return _axis(is_target, queries, units, factor), _axis(is_target_key, keys, units, factor)


def shown_positions(length: int, units: Units) -> tuple[dict[str, Json], list[list[int]]]:
    """Return how the input's positions are shown: their description, and the positions in each that is shown."""
    axis = _axis(False, length, units, 1)
    return axis.described(), axis.groups


def _axis(is_target: bool, length: int, units: Units, factor: int) -> Axis:
    """Return the description of `length` positions of the target or the input."""
    if is_target:
        return _sequence("target", length, units.target_names, ())
    special = sorted(set(units.special))
    if units.grid is not None and length == units.grid[0] * units.grid[1] + len(special):
        return _tiles(length, special, units.grid, factor, units.seconds)
    if units.grid is None and units.kind == "patch" and (grid := _grid_by_number(length, units.image)) is not None:
        tiles = _tiles(length, (), grid, factor, None)
        return Axis("input", length, tiles.groups, tiles.facts | {"inferred": True})
    if units.grid is None and units.kind == "frame" and length > 1:
        return _frames(length, units.seconds, factor)
    return _sequence("input", length, units.names, special)


def _sequence(name: str, length: int, names: Sequence[str], special: Sequence[int]) -> Axis:
    """Return a sequence of tokens, cut at MOST_TOKENS, or positions by number where the names are not theirs."""
    most = MOST_TOKENS if len(names) == length else _MOST_UNNAMED
    groups = [[position] for position in range(min(length, most))]
    facts: dict[str, Json] = {"length": length}
    if len(names) != length:
        return Axis(name if name == "target" else "positions", length, groups, facts)
    facts["names"] = [str(token) for token in names[:MOST_TOKENS]]
    facts["special"] = [position for position in special if position < MOST_TOKENS]
    return Axis(name, length, groups, facts)


def _tiles(length: int, special: Sequence[int], grid: tuple[int, int], factor: int, seconds: float | None) -> Axis:
    """Return patches of an image, squares of `factor` x `factor` of them merged, behind the special positions."""
    height, width = grid
    patches = [position for position in range(length) if position not in set(special)]
    groups = [[position] for position in special]
    for top in range(0, height, factor):
        for left in range(0, width, factor):
            rows = range(top, min(height, top + factor))
            groups.append(
                [patches[row * width + column] for row in rows for column in range(left, min(width, left + factor))]
            )
    merged = [-(-height // factor), -(-width // factor)]
    facts = {"length": length, "special": list(range(len(special))), "grid": merged, "merged": factor}
    return Axis("input", length, groups, facts | ({"seconds": seconds * factor} if seconds else {}))


def _grid_by_number(length: int, image: Any) -> tuple[int, int] | None:
    """Return the rows and columns that `length` positions have if they tile the image evenly; None if they cannot.

    A feature map that a network makes smaller from stage to stage has as many positions as some such grid, but so may
    have positions that are none; whoever shows them must say so.
    """
    if image is None or length < 4:
        return None
    width, height = image.size
    columns = round((length * width / height) ** 0.5)
    rows = length // columns if columns else 0
    fits = rows * columns == length and abs(rows * width - columns * height) <= max(width, height) * 0.5
    return (rows, columns) if fits else None


def _frames(length: int, seconds: float | None, factor: int) -> Axis:
    """Return frames of a clip, neighbours merged until there are at most _MOST_FRAMES / `factor`."""
    merged = -(-length // _MOST_FRAMES) * factor
    groups = [list(range(start, min(length, start + merged))) for start in range(0, length, merged)]
    facts: dict[str, Json] = {"length": length, "merged": merged, "frames": True}
    return Axis("input", length, groups, facts | ({"seconds": seconds * merged} if seconds else {}))


def _packed(
    tensors: Mapping[tuple[str, int], torch.Tensor],
    sides: Mapping[tuple[str, int], tuple[Axis, Axis]],
    layers: Mapping[tuple[str, int], AttentionLayer],
    left_out: dict[str, str],
) -> dict[str, Json]:
    axes: list[dict[str, Json]] = []
    heads: list[dict[str, Json]] = []
    for key, weights in tensors.items():
        queries, keys = sides[key]
        entry: dict[str, Json] = {"group": key[0], "number": key[1], "path": layers[key].path}
        entry["indices"] = list(layers[key].kept)
        for name, axis in (("queries", queries), ("keys", keys)):
            if axis.described() not in axes:
                axes.append(axis.described())
            entry[name] = axes.index(axis.described())
        heads.append(entry | quantise(merge(weights, queries.groups, keys.groups)))
    return {"axes": axes, "heads": heads, "heads_left_out": left_out}


def merge(weights: torch.Tensor, queries: Sequence[Sequence[int]], keys: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return weights between groups of positions: the mean over the queries of a group, the sum over its keys.

    Args:
        weights: [heads, queries, keys].
        queries: positions of the queries in each group.
        keys: positions of the keys in each group.

    Returns:
        [heads, groups of queries, groups of keys]; where each key is in a group, the weights of a query still sum to 1.
    """
    import torch

    def membership(groups: Sequence[Sequence[int]], count: int) -> torch.Tensor:
        matrix = torch.zeros(len(groups), count, dtype=torch.float64)
        for index, positions in enumerate(groups):
            matrix[index, list(positions)] = 1.0
        return matrix

    of_queries = membership(queries, weights.shape[-2])
    of_queries = of_queries / of_queries.sum(-1, keepdim=True)
    return of_queries @ weights.double() @ membership(keys, weights.shape[-1]).T


def quantise(weights: torch.Tensor) -> dict[str, Any]:
    """Return weights [heads, queries, keys] in 8 bits, each query on its own scale; see `pack_row`.

    The error of a weight is at most 1 / 510 of the largest weight of its query, and 1 / 131,070.
    """
    largest = weights.amax(-1).clamp(1 / 65535, 1.0)
    scale = (largest * 65535).round()
    bytes_ = (255 * weights.clamp(min=0) / (scale / 65535)[..., None]).round().clamp(0, 255)
    return {
        "shape": list(weights.shape),
        "weights": base64.b64encode(bytes_.numpy().astype("u1").tobytes()).decode("ascii"),
        "scale": base64.b64encode(scale.numpy().astype("<u2").tobytes()).decode("ascii"),
    }
