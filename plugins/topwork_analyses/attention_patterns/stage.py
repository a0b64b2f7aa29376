"""The stage `attention_patterns`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from topwork import Json, Stage

if TYPE_CHECKING:
    from topwork import AttentionLayer, Run
    from topwork_analyses.attention_patterns.distances import HeadDistances
    from topwork_analyses.attention_patterns.rows_of_weights import RowWeights


class AttentionPatterns(Stage):
    """Measure where attention heads look: offsets, named tokens, directions, time lags; how broadly, and how alike."""

    name: ClassVar[str] = "attention_patterns"
    columns_shown: ClassVar[tuple[str, ...]] = ("rows", "entropy", "breadth", "broad", "narrow", "clusters")

    role: Literal["evaluate", "calibrate", "train"] = Field("evaluate", description="whose rows")
    rows: PositiveInt = Field(100, description="rows that are looked at")
    tokens: list[str] = Field(
        default_factory=list, description="further tokens whose share of attention is measured, such as `.` and `,`"
    )
    gradients: bool = Field(False, description="also the gradients of the loss for attention on each set of keys")
    compared: NonNegativeInt = Field(
        16, description="rows on which all attention heads are compared with each other; 0 for no map"
    )
    clusters: int = Field(8, ge=2, description="clusters of attention heads at most")

    def reads(self) -> tuple[str, ...]:
        """Return the roles whose rows the stage reads."""
        return (self.role,)

    def __call__(self, run: Run) -> dict[str, Json]:
        """Run the stage."""
        from topwork_analyses.attention_patterns.rows_of_weights import weights_of_rows

        study = PatternStudy(run, self.tokens, self.compared)
        items = weights_of_rows(run, self.role, self.rows, gradients=self.gradients)
        for item in run.progress(items, self.rows, "attention patterns"):
            study.add(item)
        study.gather()
        return study.result(self.clusters)


class PatternStudy:
    """Statistics of attention heads, collected row by row.

    Args:
        run: the run whose model is studied.
        tokens: names of tokens whose share of attention is measured.
        compared: on how many rows, the first ones, attention heads are compared with each other.
    """

    def __init__(self, run: Run, tokens: list[str], compared: int) -> None:
        from topwork_analyses.attention_patterns.statistics_of_heads import Means
        from topwork_lens.look import Look

        self.run, self.tokens, self.compared = run, tokens, compared
        self.layers: list[AttentionLayer] = Look(run.model, run.plugins).layers
        self.means = Means()
        self.distances: dict[tuple[str, ...], HeadDistances] = {}
        self.missing: dict[str, str] = {}
        self.special: set[str] = set()
        self.seen: set[int] = set()

    def add(self, item: RowWeights) -> None:
        """Add the attention weights of one item."""
        self.seen.add(item.row)
        self.missing |= item.captured.missing("weights")
        names = {item.units.names[position].strip() for position in item.units.special if item.units.names}
        self.special |= names | ({"special"} if item.units.special else set())
        for layer in self.layers:
            self._add_layer(item, layer)
        if item.row < self.compared:
            self._compare(item)

    def _add_layer(self, item: RowWeights, layer: AttentionLayer) -> None:
        import torch

        from topwork_analyses.attention_patterns.key_sets import key_sets
        from topwork_analyses.attention_patterns.rows_of_weights import decoder_reads_input
        from topwork_analyses.attention_patterns.statistics_of_heads import gradient_statistics, head_statistics

        numbers: dict[str, list[torch.Tensor]] = {}
        sets = None
        for what, reduce in (("weights", head_statistics), ("weights_gradient", gradient_statistics)):
            for weights, valid in item.of(layer, what):
                if sets is None:
                    reads = decoder_reads_input(self.layers)
                    queries, keys = weights.shape[1:]
                    sets = key_sets(item.units, layer, queries, keys, decoder_names=reads, tokens=self.tokens)
                for name, values in reduce(weights, valid, sets).items():
                    numbers.setdefault(name, []).append(values)
        self.means.add(layer.path, {name: torch.stack(values).mean(0) for name, values in numbers.items()})

    def _compare(self, item: RowWeights) -> None:
        """Compare attention heads of layers whose attention has the same shape, group by group."""
        from topwork_analyses.attention_patterns.distances import HeadDistances
        from topwork_lens.layers.discovery import group_of

        alike: dict[tuple[Any, ...], list[tuple[str, Any, Any]]] = {}
        for layer in self.layers:
            pairs = item.of(layer)
            if len(pairs) == 1 and layer.kept:
                weights, valid = pairs[0]
                alike.setdefault((group_of(layer), *weights.shape[1:]), []).append((layer.path, weights, valid))
        for members in alike.values():
            paths = tuple(path for path, _, _ in members)
            distances = self.distances.setdefault(paths, HeadDistances())
            distances.add([weights for _, weights, _ in members], members[0][2])

    def gather(self) -> None:
        """Take over what the other processes have collected."""
        own_means, own_distances = self.means, self.distances
        gathered = self.run.process.gather((own_means, own_distances, self.missing, self.special, self.seen))
        self.means, self.distances = gathered[0][0], gathered[0][1]
        for means, distances, missing, special, seen in gathered[1:]:
            self.means.merge(means)
            for paths, between in distances.items():
                if paths in self.distances:
                    self.distances[paths].merge(between)
                else:
                    self.distances[paths] = between
            self.missing |= missing
            self.special |= special
            self.seen |= seen

    def result(self, most: int) -> dict[str, Json]:
        """Return the stage's result."""
        from topwork_analyses.attention_patterns.key_sets import require_tokens
        from topwork_analyses.attention_patterns.report import (
            head_lines,
            map_of,
            pattern_entries,
            pattern_summary,
            point_map,
            share_curves,
        )

        require_tokens(self.tokens, self.means.names(), f"stage {AttentionPatterns.name}, tokens")
        lines = head_lines(self.means, self.layers, sorted(self.special))
        drawn = [map_of(paths, between, self.layers, most, self.run.seed) for paths, between in self.distances.items()]
        maps = [points for points in drawn if points is not None]
        result: dict[str, Json] = {"rows": len(self.seen), **pattern_summary(self.means, self.layers, lines)}
        if maps:
            result |= {"clusters": maps[0]["clusters"], "silhouette": maps[0]["silhouette"], "maps": maps}
        result["layers"] = pattern_entries(self.means, self.layers)
        result["point_maps"] = [point_map(entry) for entry in maps]
        result["tables"] = {"Attention heads": lines} | {
            f"Map of {entry['group']} attention heads": [
                {name: value for name, value in point.items() if name != "path"} for point in entry["points"]
            ]
            for entry in maps
        }
        result["curves"] = share_curves(self.means, self.layers)
        result["head_maps"] = [{"key": "entropy", "title": "Entropy of attention", "note": "nats"}]
        return {**result, "missing": self.missing} if self.missing else result
