"""Dependencies by single attention heads: the best head of each relation against the best fixed offset.

The head of a word is predicted as the word that it attends to most, or as the word that attends most to it; the word
itself and special tokens are left out (Clark et al. 2019, section 4.2). Attention heads, directions and offsets are
chosen on one half of the sentences and measured on the other: the best of hundreds is else too good. Entry points:
`predicted_heads`, `Counts`, `chosen`, `confirmed`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy
import torch
from numpy.typing import ArrayLike, NDArray

from topwork import Json
from topwork_analyses.statistics.bootstrap import ratio_intervals
from topwork_analyses.statistics.corrections import holm
from topwork_analyses.word_relations.sentences import Sentence

#: how a head is read off: the word attended to most, the word that attends most
DIRECTIONS = ("attends to", "is attended by")
#: offsets of the baseline, as Clark et al. tried and a few more
OFFSETS = tuple(offset for offset in range(-5, 6) if offset)
#: name of the line over all relations
ALL = "all"


def predicted_heads(between: torch.Tensor) -> torch.Tensor:
    """Return the predicted head of each word, by both directions.

    Args:
        between: [heads, words, words], attention from the words of the rows.

    Returns:
        [2 * heads, words]: first those that words attend to most, then those that attend most to them.
    """
    words = between.shape[-1]
    both = torch.cat([between, between.transpose(-1, -2)])
    return both.masked_fill(torch.eye(words, dtype=torch.bool, device=both.device), -1).argmax(-1)


def offset_heads(words: int) -> torch.Tensor:
    """Return [offsets, words]: the words at fixed offsets, -1 outside of the sentence."""
    positions = torch.arange(words)[None] + torch.tensor(OFFSETS)[:, None]
    return positions.masked_fill((positions < 0) | (positions >= words), -1)


class Counts:
    """Right and all words of each relation: sums over sentences.

    Args:
        predictors: how many predictors are counted.
    """

    def __init__(self, predictors: int) -> None:
        self.predictors = predictors
        self.right: dict[str, NDArray[numpy.float64]] = {}
        self.all: dict[str, float] = {}

    def add(self, predictions: torch.Tensor, sentence: Sentence) -> None:
        """Count the words of a sentence that have a head in it.

        Args:
            predictions: [predictors, words].
            sentence: with the true heads.
        """
        for relation, (right, count) in right_words(predictions, sentence).items():
            self.right[relation] = self.right.get(relation, numpy.zeros(self.predictors)) + right
            self.all[relation] = self.all.get(relation, 0.0) + count

    def merge(self, other: Counts) -> None:
        """Take over the counts of another process."""
        for relation, right in other.right.items():
            self.right[relation] = self.right.get(relation, numpy.zeros(self.predictors)) + right
            self.all[relation] = self.all.get(relation, 0.0) + other.all[relation]


def right_words(predictions: torch.Tensor, sentence: Sentence) -> dict[str, tuple[NDArray[numpy.float64], int]]:
    """Return for each relation of a sentence, and for all, how many words each predictor has right, of how many."""
    heads = torch.tensor(sentence.heads)
    hits = (predictions.cpu() == heads[None]).numpy()
    counted = {}
    names = [relation if head >= 0 else "" for relation, head in zip(sentence.relations, sentence.heads)]
    for relation in {*names, ALL} - {""}:
        columns = [index for index, name in enumerate(names) if name and relation in (ALL, name)]
        if columns:
            counted[relation] = (hits[:, columns].sum(-1).astype(float), len(columns))
    return counted


@dataclass(frozen=True)
class Choice:
    """Attention head that was chosen for a relation.

    Args:
        predictor: index of the attention head and direction, as in `predicted_heads`.
        accuracy: its accuracy on the sentences on which it was chosen.
        offset: index of the fixed offset.
        words: of the relation, in the sentences on which it was chosen.
    """

    predictor: int
    accuracy: float
    offset: int
    words: int


def chosen(by_heads: Counts, by_offsets: Counts, least: int = 10) -> dict[str, Choice]:
    """Return the best attention head and the best offset of each relation with enough words, the commonest first."""
    choices = {}
    for relation in sorted(by_heads.all, key=lambda name: (-by_heads.all[name], name)):
        if by_heads.all[relation] >= least:
            right = by_heads.right[relation]
            best = int(right.argmax())
            accuracy = float(right[best] / by_heads.all[relation])
            offset = int(by_offsets.right[relation].argmax())
            choices[relation] = Choice(best, accuracy, offset, int(by_heads.all[relation]))
    return choices


def confirmed(
    choices: Mapping[str, Choice],
    heads: Sequence[tuple[str, int, int]],
    counts: Mapping[str, ArrayLike],
    *,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> list[dict[str, Json]]:
    """Return a line for each relation, measured on the sentences on which nothing was chosen.

    A head has the role of a relation where it beats the best offset by a tenth of its accuracy (Voita et al. 2019,
    section 5.2), and by more than chance after correction for all relations (Holm).

    Args:
        choices: of each relation.
        heads: (group, layer, index) of each attention head.
        counts: of each relation [sentences, 4]: words right by the attention head, by the offset, all, and the sum of
            the chances of a random word.
        confidence: of the intervals over sentences.
        draws: resamples of sentences.
        seed: of the resamples.
    """
    lines: list[dict[str, Json]] = []
    for relation, choice in choices.items():
        table = numpy.asarray(counts.get(relation, ()), dtype=float)
        if len(table) < 2:
            continue
        by_head, by_offset, words, chance = table.T
        tried = numpy.stack([by_head, by_offset, by_head - by_offset], axis=1)
        accuracy, offset, gain = ratio_intervals(tried, words, confidence=confidence, draws=draws, seed=seed)
        group, layer, index = heads[choice.predictor % len(heads)]
        line: dict[str, Json] = {"relation": relation, "words": int(words.sum()), "group": group, "layer": layer}
        line |= {"head": index, "direction": DIRECTIONS[choice.predictor // len(heads)]}
        line |= {"accuracy": accuracy.estimate, "low": accuracy.low, "high": accuracy.high}
        line |= {"when chosen": choice.accuracy, "offset": OFFSETS[choice.offset], "by offset": offset.estimate}
        line |= {"gain": gain.estimate, "gain low": gain.low, "gain high": gain.high, "p": gain.p}
        lines.append(line | {"chance": float(chance.sum() / words.sum())})
    for line, p in zip(lines, holm([line["p"] for line in lines]), strict=True):
        line["p"] = p
        enough = line["accuracy"] >= 1.1 * line["by offset"]
        line["role"] = bool(enough and line["gain"] > 0 and p <= 1 - confidence)
    return lines
