"""The attention-only probe: heads of words by a weighted sum of all attention heads, in both directions.

p(head of i is j) ~ exp(sum over k of w_k a^k_ij + u_k a^k_ji) (Clark et al. 2019, section 5, equation 1); the root is
the first special token. The weights are the minimum of a convex loss, found by L-BFGS where the paper takes one epoch
of Adam. Entry points: `features`, `fit`, `accuracy`, and `randomised`, the control.
"""

from __future__ import annotations

import copy
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy
import torch
from numpy.typing import NDArray
from torch import nn

from topwork import UsageError
from topwork_analyses.statistics.row_table import RowTable
from topwork_analyses.word_relations.word_attention import Words

#: features of a sentence (see `features`), and the head of each word, -1 for the root
Example = tuple[torch.Tensor, Sequence[int]]
#: weight of the squared weights in the loss: keeps attention heads that never matter at 0
DECAY = 1e-4


def features(words: Words) -> torch.Tensor:
    """Return [words, 1 + words, 2 * heads]: for each word and candidate, the root first, attention to and from it.

    Without a special token the root has no attention. A word is no candidate for itself: its features are 0, and
    `fit` and `accuracy` leave it out.
    """
    to = words.between.permute(1, 2, 0)
    both = torch.cat([to, words.between.permute(2, 1, 0)], dim=-1)
    if words.to_root is None or words.from_root is None:
        root = torch.zeros(both.shape[0], 1, both.shape[2])
    else:
        root = torch.cat([words.to_root.T, words.from_root.T], dim=-1)[:, None]
    return torch.cat([root.to(both), both], dim=1)


def _scores(weights: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """[words, 1 + words] of one sentence, with the word itself left out."""
    scores = tables.float() @ weights
    count = len(scores)
    itself = torch.zeros(count, count + 1, dtype=torch.bool)
    itself[torch.arange(count), torch.arange(count) + 1] = True
    return scores.masked_fill(itself, -torch.inf)


class FeatureFile:
    """Features and true heads of sentences in a file, in half precision: memory does not grow with sentences.

    Args:
        file: where they stand; what was there is replaced.
        examples: features of sentences, and the heads of their words, the root -1.
    """

    def __init__(self, file: Path, examples: Iterable[Example]) -> None:
        self.file = file
        #: words and features of each sentence
        self.shapes = array("q")
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as output:
            for table, heads in examples:
                self.shapes.extend((len(table), table.shape[-1]))
                output.write(numpy.array(heads, dtype=numpy.int32).tobytes())
                output.write(table.half().numpy().tobytes())

    def __iter__(self) -> Iterator[Example]:
        with self.file.open("rb") as opened:
            for words, width in zip(self.shapes[::2], self.shapes[1::2]):
                heads = numpy.fromfile(opened, numpy.int32, words)
                values = numpy.fromfile(opened, numpy.float16, words * (1 + words) * width)
                yield torch.from_numpy(values.reshape(words, 1 + words, width)), heads.tolist()


def fit(examples: Iterable[Example], steps: int = 60) -> torch.Tensor:
    """Return the weights [2 * heads] that make the true heads most likely.

    Args:
        examples: features of sentences with the heads of their words, that can be gone through several times.
        steps: of L-BFGS, at most.

    Raises:
        UsageError: there are no sentences.
    """
    first = next(iter(examples), None)
    if first is None:
        raise UsageError("there are no sentences to fit a probe on", hint="give a few dozen")
    weights = torch.zeros(first[0].shape[-1], requires_grad=True)
    count = sum(len(heads) for _, heads in examples)
    optimizer = torch.optim.LBFGS([weights], max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimizer.zero_grad()
        decay = DECAY * (weights**2).sum()
        decay.backward()
        total = float(decay.detach())
        for table, heads in examples:  # sentence by sentence: a graph over all of them would hold all features
            scores = _scores(weights, table)
            part = nn.functional.cross_entropy(scores, torch.tensor(heads) + 1, reduction="sum") / count
            part.backward()
            total += float(part.detach())
        return total

    with torch.enable_grad():
        optimizer.step(loss)
    return weights.detach()


def accuracies(weights: torch.Tensor, examples: Iterable[Example]) -> NDArray[numpy.float64]:
    """Return [sentences, 2]: words with their true head (the root included), and all words."""
    counts = RowTable(2)
    for index, (table, heads) in enumerate(examples):
        predicted = _scores(weights, table).argmax(-1) - 1
        counts.add(index, (float((predicted == torch.tensor(heads)).sum()), len(heads)))
    return counts.table()


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Return a copy of a model with random weights: what its architecture and its embeddings' shapes alone give.

    Matrices are drawn with the standard deviation of the config (0.02 without one), norms are 1, biases 0.
    """
    copied = copy.deepcopy(model)
    config = getattr(model, "config", None)
    deviation = float(getattr(config, "initializer_range", None) or 0.02)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in copied.named_parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)
            else:  # one-dimensional weights are those of norms
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    return copied
