"""Importance scores as numbers: normalising them, choosing attention heads by them, and keeping them in files."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from topwork import AttentionLayer, Json, UsageError, unknown, write_json, write_whole
from topwork_lens.layers.discovery import group_of, layer_at, numbered

Normalise = Literal["none", "layer", "global"]
Scores = list[float | None]


@dataclass
class LayerScores:
    """Scores of one layer, one for each original attention head; None for those that are gone or never ran."""

    path: str
    side: str
    kind: str
    number: int
    heads: int
    kept: list[int]
    scores: Scores

    @property
    def group(self) -> str:
        """The group in which the layer is numbered."""
        return "cross" if self.kind == "cross" else self.side


@dataclass
class Importance:
    """Importance of every attention head of a model: the larger, the more it is needed."""

    method: str
    rows: int
    normalise: str
    layers: list[LayerScores]

    def json(self) -> dict[str, Json]:
        """For a stage's result and for importance.json."""
        return {
            "method": self.method,
            "rows": self.rows,
            "normalise": self.normalise,
            "layers": [dict(vars(layer)) for layer in self.layers],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Importance:
        """The inverse of `json`."""
        layers = [LayerScores(**entry) for entry in value["layers"]]
        return cls(value["method"], value["rows"], value["normalise"], layers)

    def save(self, folder: Path) -> None:
        """Write importance.json, importance.safetensors (one float64 vector a module path, NaN for None),
        importance.csv (a table) and importance.svg (a picture)."""
        import torch
        from safetensors.torch import save_file

        from topwork_lens.scoring.export import write_picture, write_table

        vectors = {
            layer.path or "model": torch.tensor(_numbers(layer.scores), dtype=torch.float64) for layer in self.layers
        }
        about = {"method": self.method, "rows": str(self.rows), "normalise": self.normalise}
        with write_whole(folder / "importance.safetensors") as temporary:
            save_file(vectors, temporary, metadata=about)
        write_json(folder / "importance.json", self.json())
        write_table(self, folder / "importance.csv")
        write_picture(self, folder / "importance.svg")

    @classmethod
    def load(cls, path: Path) -> Importance:
        """Read what `save` wrote; `path` is the folder or either file."""
        folder = path if path.is_dir() else path.parent
        file = folder / "importance.json"
        if not file.is_file():
            raise UsageError(
                "there is no importance.json", place=str(folder), hint="run the stage head_importance first"
            )
        return cls.from_json(json.loads(file.read_text(encoding="utf-8")))


def _numbers(scores: Scores) -> list[float]:
    return [float("nan") if score is None else score for score in scores]


def importance_of(
    layers: Sequence[AttentionLayer],
    raw: dict[str, Sequence[float] | None],
    method: str,
    rows: int,
    normalise: Normalise,
) -> Importance:
    """Scores of the attention heads that the layers have now, by path (None: the layer never ran), normalised.

    "layer" divides by the layer's l2 norm (Michel et al. 2019; all zero stays zero), "global" maps the smallest of
    all scores to 0 and the largest to 1 (transformers' run_bertology).
    """
    if normalise not in get_args(Normalise):
        raise unknown("normalisation", normalise, get_args(Normalise))
    found = []
    for (_, number), layer in numbered(layers).items():
        values = raw.get(layer.path)
        scores: Scores = [None] * layer.heads
        for position, original in enumerate(layer.kept or ()):
            scores[original] = None if values is None else float(values[position])
        found.append(
            LayerScores(layer.path, layer.side, layer.kind, number, layer.heads, list(layer.kept or ()), scores)
        )
    if normalise == "layer":
        for entry in found:
            norm = sum(score * score for score in entry.scores if score is not None) ** 0.5
            entry.scores = [score if score is None or norm == 0 else score / norm for score in entry.scores]
    if normalise == "global":
        known = [score for entry in found for score in entry.scores if score is not None]
        low, spread = min(known, default=0.0), max(known, default=0.0) - min(known, default=0.0)
        for entry in found:
            entry.scores = [None if score is None else (score - low) / (spread or 1.0) for score in entry.scores]
    return Importance(method, rows, normalise, found)


@dataclass(frozen=True)
class Choice:
    """How attention heads are chosen; exactly one of share, count and threshold.

    Args:
        share: of the attention heads that there are now (in the chosen groups), rounded down.
        count: how many.
        threshold: those whose score is below it.
        at_least: how many attention heads every layer keeps.
        groups: "encoder", "decoder", "cross", "backbone"; None for all.
        by: "head", or "group": attention heads that share keys and values are chosen together, by their mean score.
    """

    share: float | None = None
    count: int | None = None
    threshold: float | None = None
    at_least: int = 1
    groups: tuple[str, ...] | None = None
    by: Literal["head", "group"] = "head"


def in_groups(layers: Sequence[AttentionLayer], groups: Sequence[str] | None) -> list[AttentionLayer]:
    """The layers of some groups; of all when `groups` is None.

    Raises:
        UsageError: the model has no such group.
    """
    known = {group_of(layer) for layer in layers}
    for group in groups or ():
        if group not in known:
            raise unknown("group of attention layers", group, known)
    return [layer for layer in layers if groups is None or group_of(layer) in groups]


def whole_layers(layers: Sequence[AttentionLayer], keys: Sequence[Any]) -> dict[str, list[int]]:
    """Every attention head of the layers that are named."""
    found = [layer_at(layers, key) for key in keys]
    return {layer.path: list(layer.kept or ()) for layer in found}


def choose(layers: Sequence[AttentionLayer], choice: Choice, importance: Importance) -> dict[str, list[int]]:
    """The least important attention heads, by module path. Fewer than asked for when `at_least` forbids more."""
    scores = {entry.path: entry.scores for entry in importance.layers}
    missing = [layer.path for layer in layers if len(scores.get(layer.path, ())) != layer.heads]
    if missing:
        raise UsageError(
            f"the importance scores have no {missing[0]} of this size",
            hint="score this model: stage head_importance",
        )
    return _take(layers, choice, lambda layer, number: scores[layer.path][number])


def choose_random(layers: Sequence[AttentionLayer], choice: Choice, seed: int) -> dict[str, list[int]]:
    """As many attention heads at random, under the same rules."""
    generator = random.Random(seed)
    drawn = {(layer.path, number): generator.random() for layer in layers for number in range(layer.heads)}
    return _take(layers, choice, lambda layer, number: drawn[layer.path, number])


def _take(
    layers: Sequence[AttentionLayer], choice: Choice, score: Callable[[AttentionLayer, int], float | None]
) -> dict[str, list[int]]:
    taking = in_groups(layers, choice.groups)
    candidates = [
        (sum(values) / len(values), place, members, layer)
        for place, layer in enumerate(taking)
        for members in _together(layer, choice.by)
        if len(values := [value for number in members if (value := score(layer, number)) is not None]) == len(members)
    ]
    if choice.threshold is not None:  # none above it goes in place of one that `at_least` keeps
        candidates = [entry for entry in candidates if entry[0] < choice.threshold]
    candidates.sort(key=lambda entry: entry[:3])
    wanted = wanted_of(layers, choice, sum(len(entry[2]) for entry in candidates))
    left = {layer.path: len(layer.kept or ()) for layer in taking}
    found: dict[str, list[int]] = {}
    for _, _, members, layer in candidates:
        if wanted <= 0:
            break
        if left[layer.path] - len(members) >= choice.at_least and len(members) <= wanted:
            left[layer.path] -= len(members)
            wanted -= len(members)
            found.setdefault(layer.path, []).extend(members)
    return {path: sorted(numbers) for path, numbers in found.items()}


def _together(layer: AttentionLayer, by: str) -> list[tuple[int, ...]]:
    """Attention heads that are chosen together: each alone, or those of a key/value group."""
    kept = list(layer.kept or ())
    if by == "head" or not layer.groups or layer.groups == layer.heads:
        return [(number,) for number in kept]
    size = layer.heads // layer.groups
    return [members for group in range(layer.groups) if (members := tuple(n for n in kept if n // size == group))]


def wanted_of(layers: Sequence[AttentionLayer], choice: Choice, below: int = 0) -> int:
    """How many attention heads a choice asks for; `below` is how many lie below its threshold."""
    if choice.share is not None:
        return int(choice.share * sum(len(layer.kept or ()) for layer in in_groups(layers, choice.groups)) + 1e-9)
    return choice.count if choice.count is not None else below
