"""The attention-only probe: heads of words by a weighted sum of all attention heads, in both directions.

p(head of i is j) ~ exp(sum over k of w_k a^k_ij + u_k a^k_ji) (Clark et al. 2019, section 5, equation 1); the root is
the first special token. The weights are the minimum of a convex loss, found by L-BFGS where the paper takes one epoch
of Adam. Entry points: `features`, `fit`, `accuracy`, and `randomised`, the control.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy
import torch
from numpy.typing import NDArray
from torch import nn

from topwork import UsageError
from topwork_analyses.word_relations.sentences import Sentence
from topwork_analyses.word_relations.word_attention import Words

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


def fit(tables: Sequence[torch.Tensor], sentences: Sequence[Sentence], steps: int = 60) -> torch.Tensor:
    """Return the weights [2 * heads] that make the true heads most likely.

    Args:
        tables: the features of each sentence.
        sentences: with the true heads.
        steps: of L-BFGS, at most.

    Raises:
        UsageError: there are no sentences.
    """
    if not tables:
        raise UsageError("there are no sentences to fit a probe on", hint="give a few dozen")
    weights = torch.zeros(tables[0].shape[-1], requires_grad=True)
    targets = [torch.tensor(sentence.heads) + 1 for sentence in sentences]
    count = sum(map(len, targets))
    optimizer = torch.optim.LBFGS([weights], max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        pairs = zip(tables, targets, strict=True)
        total = sum(nn.functional.cross_entropy(_scores(weights, x), y, reduction="sum") for x, y in pairs)
        mean = total / count + DECAY * (weights**2).sum()
        mean.backward()
        return mean

    with torch.enable_grad():
        optimizer.step(loss)
    return weights.detach()


def right(weights: torch.Tensor, table: torch.Tensor, sentence: Sentence) -> tuple[float, int]:
    """Return how many words of a sentence get their true head (the root included), of how many."""
    predicted = _scores(weights, table).argmax(-1) - 1
    return float((predicted == torch.tensor(sentence.heads)).sum()), len(sentence.heads)


def accuracies(
    weights: torch.Tensor, tables: Sequence[torch.Tensor], sentences: Sequence[Sentence]
) -> NDArray[numpy.float64]:
    """Return [sentences, 2]: words with their true head, and all words."""
    pairs = [right(weights, table, sentence) for table, sentence in zip(tables, sentences, strict=True)]
    return numpy.array(pairs, dtype=float)


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
