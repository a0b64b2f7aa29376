"""Importance scores as data: normalising them, and choosing attention heads by them.

Entry points: `importance_of` (raw scores -> `Importance`), `choose` and `choose_random` (a `Choice` -> attention heads
by module path). `importance` computes the raw scores, `export` writes the files.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal, cast, get_args

from topwork import AttentionLayer, Json, UsageError, unknown
from topwork_lens.layers.discovery import group_of, layer_at, numbered
from topwork_lens.scoring.export import write_files
from topwork_lens.tables import LayerTable

Normalise = Literal["none", "layer", "global"]
Side = Literal["encoder", "decoder", "backbone"]
Kind = Literal["self", "cross"]
Scores = list[float | None]


@dataclass
class LayerScores:
    """Scores of one layer, one for each original attention head; None for those that are pruned or never ran."""

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


@dataclass(repr=False)
class Importance:
    """Importance of every attention head of a model: the higher, the more it is needed."""

    method: str
    rows: int
    normalise: str
    layers: list[LayerScores]

    def __repr__(self) -> str:
        return f"Importance({self.method}, {self.rows} rows, normalise {self.normalise})\n{self._lines()!r}"

    def _repr_html_(self) -> str:
        return f"<p>Importance: {self.method}, {self.rows} rows</p>{self._lines()._repr_html_()}"

    def _lines(self) -> LayerTable:
        """Return a line for each layer, a column for each attention head."""
        lines = []
        for layer in self.layers:
            scores = {f"head {index}": f"{score:.3g}" for index, score in enumerate(layer.scores) if score is not None}
            lines.append({"group": layer.group, "number": layer.number, "path": layer.path, **scores})
        names = dict.fromkeys(name for line in lines for name in line)
        return LayerTable({name: line.get(name) for name in names} for line in lines)

    def lowest(
        self, *, share: float | None = None, count: int | None = None, threshold: float | None = None, at_least: int = 1
    ) -> dict[str, list[int]]:
        """Return the least important attention heads, by module path: by one of share, count and threshold.

        Args:
            share: of all attention heads that were scored, rounded down.
            count: how many.
            threshold: those whose score is below it.
            at_least: how many attention heads every layer keeps.

        Raises:
            UsageError: none of the three is given, or more than one, or it makes no sense.

        Example:
            >>> look.mask_heads(importance.lowest(share=0.3))  # doctest: +SKIP
        """
        layers = [
            AttentionLayer(
                layer.path,
                "",
                heads=layer.heads,
                width=1,
                kept=tuple(layer.kept),
                side=cast(Side, layer.side),
                kind=cast(Kind, layer.kind),
            )
            for layer in self.layers
        ]
        return by_scores(layers, self, Choice(share, count, threshold, at_least))

    def json(self) -> dict[str, Json]:
        """Return the form that a stage's result and importance.json have."""
        return {
            "method": self.method,
            "rows": self.rows,
            "normalise": self.normalise,
            "layers": [dict(vars(layer)) for layer in self.layers],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Importance:
        """Return the scores that `json` gave this form."""
        layers = [LayerScores(**layer) for layer in value["layers"]]
        return cls(value["method"], value["rows"], value["normalise"], layers)

    def save(self, folder: Path) -> None:
        """Write importance.json, .safetensors, .csv (a table) and .svg (a heat map); see `export`."""
        write_files(self.json(), folder)

    @classmethod
    def load(cls, path: Path) -> Importance:
        """Read what `save` wrote.

        Args:
            path: the folder, or any of the files.

        Raises:
            UsageError: there is no importance.json.
        """
        folder = path if path.is_dir() else path.parent
        file = folder / "importance.json"
        if not file.is_file():
            raise UsageError(
                "there is no importance.json", place=str(folder), hint="run the stage head_importance first"
            )
        return cls.from_json(json.loads(file.read_text(encoding="utf-8")))


def importance_of(
    layers: Sequence[AttentionLayer],
    raw: Mapping[str, Sequence[float] | None],
    method: str,
    rows: int,
    normalise: Normalise,
) -> Importance:
    """Normalise raw scores.

    Args:
        layers: all attention layers, as they stand now.
        raw: scores of the attention heads that a layer has now, by path; absent or None: the layer never ran.
        method: the method that made them.
        rows: number of rows that they were made with.
        normalise: "layer" divides by the layer's l2 norm (Michel et al. 2019; all zero stays zero), "global" maps the
            lowest of all scores to 0 and the highest to 1 (transformers' run_bertology).

    Raises:
        UsageError: the normalisation is not known.
    """
    if normalise not in get_args(Normalise):
        raise unknown("normalisation", normalise, get_args(Normalise))
    result = []
    for (_, number), layer in numbered(layers).items():
        values, kept = raw.get(layer.path), list(layer.kept)
        scores: Scores = [None] * layer.heads
        for index, head in enumerate(kept):
            scores[head] = None if values is None else float(values[index])
        result.append(LayerScores(layer.path, layer.side, layer.kind, number, layer.heads, kept, scores))
    known = [score for layer in result for score in layer.scores if score is not None]
    if normalise == "layer":
        for layer_scores in result:
            norm = sum(score * score for score in layer_scores.scores if score is not None) ** 0.5
            layer_scores.scores = [score if score is None else score / (norm or 1.0) for score in layer_scores.scores]
    if normalise == "global":
        low = min(known, default=0.0)
        spread = (max(known, default=0.0) - low) or 1.0
        for layer_scores in result:
            layer_scores.scores = [None if score is None else (score - low) / spread for score in layer_scores.scores]
    return Importance(method, rows, normalise, result)


@dataclass(frozen=True)
class Choice:
    """Rules by which attention heads are chosen; exactly one of share, count and threshold.

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

    def sized(self, count: int) -> Choice:
        """Return the same rules for `count` attention heads."""
        return replace(self, share=None, threshold=None, count=count)


def in_groups(layers: Sequence[AttentionLayer], groups: Sequence[str] | None) -> list[AttentionLayer]:
    """Return the layers of some groups; all when `groups` is None.

    Raises:
        UsageError: the model has no such group.
    """
    known = {group_of(layer) for layer in layers}
    for group in groups or ():
        if group not in known:
            raise unknown("group of attention layers", group, known)
    return [layer for layer in layers if groups is None or group_of(layer) in groups]


def whole_layers(layers: Sequence[AttentionLayer], keys: Sequence[Any]) -> dict[str, list[int]]:
    """Return every attention head of the named layers, by module path."""
    named = [layer_at(layers, key) for key in keys]
    return {layer.path: list(layer.kept) for layer in named}


def choose(layers: Sequence[AttentionLayer], choice: Choice, importance: Importance) -> dict[str, list[int]]:
    """Choose the least important attention heads, by module path; fewer than requested where `at_least` forbids more.

    Raises:
        UsageError: a layer has no scores.
    """
    scores = {layer.path: layer.scores for layer in importance.layers}
    missing = [layer.path for layer in layers if len(scores.get(layer.path, ())) != layer.heads]
    if missing:
        raise UsageError(
            f"the importance scores have no {missing[0]} of this size",
            hint="score this model: stage head_importance",
        )
    return _choose_lowest(layers, choice, lambda layer, head: scores[layer.path][head])


def by_scores(layers: Sequence[AttentionLayer], heads: Any, choice: Choice) -> Any:
    """Return attention heads as they are given, or those that scores choose.

    Args:
        layers: all attention layers, as they stand now.
        heads: attention heads, or an `Importance`.
        choice: how many of the least important ones.

    Raises:
        UsageError: a choice without scores, scores without a choice, or a choice that makes no sense.
    """
    given = [name for name in ("share", "count", "threshold") if getattr(choice, name) is not None]
    if not isinstance(heads, Importance):
        if given:
            raise UsageError(
                f"`{given[0]}` chooses by scores, and attention heads are named", hint="give an Importance"
            )
        return heads
    if len(given) != 1:
        raise UsageError(f"scores choose by one of share, count and threshold, not {len(given)} of them")
    _require_numbers(choice, sum(len(layer.kept) for layer in layers))
    scored = {layer.path for layer in heads.layers if any(score is not None for score in layer.scores)}
    return choose([layer for layer in layers if layer.path in scored], choice, heads)


def _require_numbers(choice: Choice, heads: int) -> None:
    """Require that what a choice is made of are numbers in their ranges; `heads` is how many there are."""
    if choice.share is not None and (not _is_number(choice.share) or not 0 <= choice.share <= 1):
        raise UsageError(f"`share` must lie between 0 and 1, not {choice.share!r}")
    if choice.count is not None and (type(choice.count) is not int or choice.count < 0):
        raise UsageError(f"`count` must be a number of attention heads, not {choice.count!r}")
    if choice.count is not None and choice.count > heads:
        raise UsageError(f"`count` is {choice.count}, and there are {heads} attention heads")
    if choice.threshold is not None and (not _is_number(choice.threshold) or math.isnan(choice.threshold)):
        raise UsageError(f"`threshold` must be a score, not {choice.threshold!r}")
    if type(choice.at_least) is not int or choice.at_least < 0:
        raise UsageError(f"`at_least` must be a number of attention heads, not {choice.at_least!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def choose_random(layers: Sequence[AttentionLayer], choice: Choice, seed: int) -> dict[str, list[int]]:
    """Choose attention heads at random under the same rules; with one seed, larger choices contain smaller ones."""
    generator = random.Random(seed)
    drawn = {(layer.path, head): generator.random() for layer in layers for head in range(layer.heads)}
    return _choose_lowest(layers, choice, lambda layer, head: drawn[layer.path, head])


def _choose_lowest(
    layers: Sequence[AttentionLayer], choice: Choice, score: Callable[[AttentionLayer, int], float | None]
) -> dict[str, list[int]]:
    eligible = in_groups(layers, choice.groups)
    candidates = []
    for index, layer in enumerate(eligible):
        for members in _units(layer, choice.by):
            values = [value for head in members if (value := score(layer, head)) is not None]
            if len(values) == len(members):
                candidates.append((sum(values) / len(values), index, members, layer))
    if choice.threshold is not None:  # none above it is chosen instead of one that `at_least` keeps
        candidates = [candidate for candidate in candidates if candidate[0] < choice.threshold]
    candidates.sort(key=lambda candidate: candidate[:3])
    wanted = wanted_of(layers, choice, sum(len(members) for _, _, members, _ in candidates))
    left = {layer.path: len(layer.kept) for layer in eligible}
    chosen: dict[str, list[int]] = {}
    for _, _, members, layer in candidates:
        if wanted <= 0:
            break
        if left[layer.path] - len(members) >= choice.at_least and len(members) <= wanted:
            left[layer.path] -= len(members)
            wanted -= len(members)
            chosen.setdefault(layer.path, []).extend(members)
    return {path: sorted(heads) for path, heads in chosen.items()}


def _units(layer: AttentionLayer, by: str) -> list[tuple[int, ...]]:
    """Return the attention heads that are chosen together: each alone, or those of a key/value group."""
    kept = list(layer.kept)
    if by == "head" or not layer.groups or layer.groups == layer.heads:
        return [(head,) for head in kept]
    size = layer.heads // layer.groups
    return [members for group in range(layer.groups) if (members := tuple(n for n in kept if n // size == group))]


def wanted_of(layers: Sequence[AttentionLayer], choice: Choice, below: int = 0) -> int:
    """Return how many attention heads a choice requests; `below` is how many lie below its threshold."""
    if choice.share is not None:
        return int(choice.share * sum(len(layer.kept) for layer in in_groups(layers, choice.groups)) + 1e-9)
    return choice.count if choice.count is not None else below
