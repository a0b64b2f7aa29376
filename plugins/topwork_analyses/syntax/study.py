"""CAT-probing of a model over rows: attention of each layer, merged to the tokens of a tree, scored against it.

Entry points: `aligned_rows` and `score_rows`. Attention is the mean over the attention heads of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topwork import AttentionLayer, DataError, Json, Refused, Row
from topwork_analyses.positions.readers import Reader
from topwork_analyses.positions.spans import Span
from topwork_analyses.positions.weights import whole_weights
from topwork_analyses.statistics.bootstrap import mean_intervals
from topwork_analyses.statistics.corrections import holm
from topwork_analyses.syntax.cat_score import cat_score, merged_attention, permuted_scores, small_distances
from topwork_analyses.syntax.trees import SyntaxTree, token_distances
from topwork_lens.look import Look


@dataclass
class AlignedRow:
    """Attention and distances between the same tokens of one row.

    Args:
        attention: [layers, tokens, tokens].
        distances: [tokens, tokens].
        types: of the tokens.
    """

    attention: NDArray[np.float64]
    distances: NDArray[np.float64]
    types: list[str]

    def of_types(self, types: Collection[str] | None) -> AlignedRow:
        """Return the row with the tokens of some types; None for all."""
        if types is None:
            return self
        kept = [index for index, kind in enumerate(self.types) if kind in types]
        cells = np.ix_(kept, kept)
        names = [self.types[index] for index in kept]
        return AlignedRow(self.attention[:, cells[0], cells[1]], self.distances[cells], names)


def aligned_rows(
    reader: Reader,
    look: Look,
    rows: Iterable[Row],
    tree_of_row: Callable[[Row, int], SyntaxTree],
    *,
    upgraded: bool = True,
    skipped: list[dict[str, Json]] | None = None,
) -> Iterator[AlignedRow]:
    """Yield the rows that have two tokens or more in the model's input.

    Args:
        reader: of texts.
        look: at what the reader runs.
        rows: with a text.
        tree_of_row: (row, index) -> tree.
        upgraded: distances in the U-AST; see `SyntaxTree.edges`.
        skipped: where rows that cannot be used are noted; None refuses them.

    Raises:
        DataError: a row cannot be used.
        Refused: the model has no attention of tokens to each other.
    """
    for index, row in enumerate(rows):
        try:
            tree = tree_of_row(row, index)
            items = reader.encode(row, index)
        except DataError as error:
            error.row = index
            if skipped is None:
                raise
            skipped.append(error.note())
            continue
        for item in items[:1]:
            with look.capture("weights") as seen:
                reader.run([item])
            weights = self_attention(look.layers, seen)
            layout = reader.layout(item, weights.shape[-1])
            groups = [layout.positions(Span("characters", (token.start, token.end))) for token in tree.tokens]
            kept = [position for position, tokens in enumerate(groups) if tokens]
            if len(kept) < 2:
                continue
            distances = token_distances(tree, upgraded, kept)
            attention = merged_attention(weights, [groups[position] for position in kept])
            yield AlignedRow(attention, distances, [tree.tokens[position].type for position in kept])


def attention_layers(layers: Sequence[AttentionLayer]) -> list[AttentionLayer]:
    """Return the layers in which tokens attend to each other with a weight for each two."""
    return [layer for layer in layers if layer.kind == "self" and layer.form == "dense" and layer.kept]


def self_attention(layers: Sequence[AttentionLayer], seen: Any) -> NDArray[np.float64]:
    """Return the attention of the only item [layers, tokens, tokens], the mean over the attention heads of a layer.

    Raises:
        Refused: there is none.
    """
    means = []
    for layer in attention_layers(layers):
        weights = whole_weights(seen, layer.path)[0].double().mean(0)
        means.append(weights.numpy())
    if not means or len({mean.shape for mean in means}) > 1 or means[0].shape[0] != means[0].shape[1]:
        raise Refused("no layer in which each token attends to each other", reason="no_weights")
    return np.stack(means)


@dataclass
class CatScores:
    """Scores of rows.

    Args:
        scores: [rows, layers].
        null_of_draws: [draws, layers], with the tokens of the trees in random orders, the means over rows.
        null_of_rows: [rows, layers], the means over draws.
        left_out: rows without a score: fewer than two tokens of the types, or no attention that differs.
        only_themselves: rows with a score in which no token is near another one: it is that of any order.
    """

    scores: NDArray[np.float64]
    null_of_draws: NDArray[np.float64]
    null_of_rows: NDArray[np.float64]
    left_out: int = 0
    only_themselves: int = 0

    def summary(self, confidence: float, draws: int, seed: int) -> list[dict[str, Json]]:
        """Return for each layer the score, that of chance, their difference with its interval over rows, and p-values.

        p is the share of random orders whose mean over rows is as high, `p_holm` corrects it for the layers.
        """
        means, chance = self.scores.mean(0), self.null_of_draws
        reached = (chance >= means - 1e-12).sum(0)
        p_values = ((reached + 1) / (len(chance) + 1)).tolist()
        above = self.scores - self.null_of_rows
        options: dict[str, Any] = {"confidence": confidence, "draws": draws, "seed": seed}
        intervals = mean_intervals(above, **options) if len(above) > 1 else [None] * above.shape[1]
        lines = []
        for layer, (interval, p, corrected) in enumerate(zip(intervals, p_values, holm(p_values))):
            line: dict[str, Json] = {"layer": layer, "cat": float(means[layer]), "null": float(chance[:, layer].mean())}
            line |= {"above_null": float(above[:, layer].mean())}
            if interval is not None:
                line |= {"above_null_low": interval.low, "above_null_high": interval.high}
            lines.append(line | {"p": p, "p_holm": corrected})
        return lines


def score_rows(
    rows: Iterable[AlignedRow],
    types: Collection[str] | None,
    permutations: int,
    seed: int,
    attention_quantile: float,
    distance_quantile: float,
) -> CatScores:
    """Return the scores of rows; those with fewer than two tokens of the types are left out.

    Args:
        rows: with attention and distances.
        types: of the tokens that count; None for all.
        permutations: random orders of each row's tokens.
        seed: of the orders.
        attention_quantile: above it attention is large.
        distance_quantile: below it a distance is small.
    """
    quantiles = attention_quantile, distance_quantile
    scores, null_of_rows = [], []
    total: NDArray[np.float64] | float = 0.0
    left_out = only_themselves = 0
    for index, row in enumerate(rows):
        chosen = row.of_types(types)
        enough = len(chosen.types) > 1
        row_scores = cat_score(chosen.attention, chosen.distances, *quantiles) if enough else np.array(np.nan)
        if np.isnan(row_scores).any():
            left_out += 1
            continue
        only_themselves += int(small_distances(chosen.distances, distance_quantile).sum() <= len(chosen.types))
        scores.append(row_scores)
        permuted = permuted_scores(chosen.attention, chosen.distances, permutations, seed + index, *quantiles)
        permuted = np.nan_to_num(permuted)
        total = total + permuted
        null_of_rows.append(permuted.mean(0))
    if not scores:
        nothing = np.zeros((0, 0))
        return CatScores(nothing, nothing, nothing, left_out, only_themselves)
    arrays = np.stack(scores), np.asarray(total) / len(scores), np.stack(null_of_rows)
    return CatScores(*arrays, left_out, only_themselves)
