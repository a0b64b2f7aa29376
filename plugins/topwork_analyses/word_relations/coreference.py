"""Coreference by single attention heads: the earlier mention that the word of a mention attends to most.

Clark et al. (2019, section 4.3): the share of mentions whose head word attends most, of the head words of all earlier
mentions, to one of its antecedents. Without a parse the last word of a mention counts as its head word. Entry points:
`antecedents` and `links`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy
import torch
from numpy.typing import NDArray

from topwork_analyses.word_relations.sentences import Document

#: English words that stand for something else; other languages have them among the rest
PRONOUNS = frozenset(
    (
        *("i", "me", "my", "mine", "we", "us", "our", "ours", "you", "your", "yours", "he", "him", "his", "she"),
        *("her", "hers", "it", "its", "they", "them", "their", "theirs", "this", "that", "these", "those"),
        *("himself", "herself", "itself", "themselves", "who", "whom", "whose", "which"),
    )
)


@dataclass(frozen=True)
class Link:
    """A mention with an antecedent.

    Args:
        word: head word of the mention.
        candidates: head words of all earlier mentions, in their order.
        antecedents: those of them that mean the same.
        is_pronoun: whether the mention is a single pronoun.
    """

    word: int
    candidates: tuple[int, ...]
    antecedents: frozenset[int]
    is_pronoun: bool


def links(document: Document) -> Iterator[Link]:
    """Yield the mentions that have an antecedent, and another candidate beside it or not."""
    mentions = sorted((start, end, cluster) for cluster, spans in enumerate(document.clusters) for start, end in spans)
    for start, end, cluster in mentions:
        earlier = [(other_end - 1, known) for _, other_end, known in mentions if other_end <= start]
        antecedents = frozenset(word for word, known in earlier if known == cluster)
        if antecedents:
            candidates = tuple(dict.fromkeys(word for word, _ in sorted(earlier)))
            is_pronoun = end - start == 1 and document.words[start].lower() in PRONOUNS
            yield Link(end - 1, candidates, antecedents, is_pronoun)


def antecedents(between: torch.Tensor, link: Link) -> NDArray[numpy.float64]:
    """Return [2 * heads]: 1 where the predicted candidate is an antecedent, by attention to and from the mention."""
    columns = torch.tensor(link.candidates)
    both = torch.cat([between[:, link.word, columns], between[:, columns, link.word]])
    predicted = columns[both.argmax(-1).cpu()]
    return numpy.array([float(int(word) in link.antecedents) for word in predicted])


def baselines(document: Document, link: Link) -> tuple[float, float]:
    """Return whether the nearest earlier mention is right, and the nearest with the same head word if any."""
    nearest = link.candidates[-1]
    word = document.words[link.word].lower()
    same = [candidate for candidate in link.candidates if document.words[candidate].lower() == word]
    return float(nearest in link.antecedents), float((same[-1] if same else nearest) in link.antecedents)
