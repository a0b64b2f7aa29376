"""Training and scoring of cumulative edge probes on states that stand in memory or in a file.

Entry point: `probe_layers`. Each seed has its own initial values and its own order of the rows; the probe of the task
and that of the control task are trained side by side with the same of both. Scores are micro-averaged F1 over labels,
kept as counts for each row, so that intervals over rows cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from topwork_analyses.probing.probe import EdgeProbe
from topwork_analyses.probing.ragged import Ragged

#: largest number of state values that a step holds at a time
_CHUNK = 8_000_000


@dataclass
class SpanRows:
    """Labelled spans over states.

    Args:
        states: [positions, layers, width], an array in memory or in a file: the positions of all rows, one after
            another.
        spans: for each span of a label, [targets, longest] indices of positions, -1 beyond its end.
        labels: [tasks, targets, labels] of 0 and 1: of the task, then of its control where there is one.
        rows: [targets], index of the row of each target.
        row_count: how many rows there are, those without a target among them.
    """

    states: Any
    spans: Sequence[torch.Tensor | Ragged]
    labels: torch.Tensor
    rows: torch.Tensor
    row_count: int

    def __len__(self) -> int:
        return self.labels.shape[1]

    def gathered(self, chosen: torch.Tensor, layers: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the states [1, targets, positions, layers, width] and masks of the spans of some targets."""
        states, masks = [], []
        for span in self.spans:
            indices = span[chosen]
            mask = indices >= 0
            longest = int(mask.sum(-1).max())
            indices, mask = indices[:, :longest], mask[:, :longest]
            flat = indices.clamp(min=0).flatten().numpy()
            values = torch.as_tensor(np.asarray(self.states[flat, :layers]), dtype=torch.float32)
            states.append(values.unflatten(0, indices.shape)[None])
            masks.append(mask[None])
        return states, masks

    def chunks(self, chosen: torch.Tensor, layers: int) -> Iterable[torch.Tensor]:
        """Return the chosen targets in parts whose states fit into memory."""
        longest = sum(span.shape[1] for span in self.spans)
        size = max(1, _CHUNK // (longest * layers * self.states.shape[2]))
        return chosen.split(size)


@dataclass(frozen=True)
class ProbeOptions:
    """Options of the training of probes.

    Args:
        projection: width to which the mixed states are projected.
        epochs: passes over the training rows.
        batch_size: targets in a step.
        learning_rate: of Adam, falling to 0 along a cosine.
        seeds: one for each repetition.
    """

    projection: int = 256
    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 1e-3
    seeds: Sequence[int] = (0, 1, 2, 3, 4)


@dataclass
class ProbeScores:
    """Scores of cumulative probes.

    Args:
        counts: [layers + 1, seeds, tasks, rows, 3], true positives, false positives and false negatives of each
            evaluated row; the first axis is the highest layer that is mixed, 0 for the embeddings alone.
        weights: [seeds, layers + 1], mixing weights of the task's probes on all layers.
    """

    counts: np.ndarray
    weights: np.ndarray

    def f1(self, task: int = 0, rows: np.ndarray | None = None) -> np.ndarray:
        """Return the micro-averaged F1 of a task [layers + 1, seeds].

        Args:
            task: 0, or 1 for its control.
            rows: indices of the rows that count, some of them several times; None for each once.
        """
        counts = self.counts[:, :, task]
        if rows is None:
            return micro_f1(counts.sum(-2))
        repeats = np.bincount(rows, minlength=counts.shape[2]).astype(np.float64)
        return micro_f1(np.einsum("lsrc,r->lsc", counts, repeats))


def micro_f1(counts: np.ndarray) -> np.ndarray:
    """Return the micro-averaged F1 [...] of counts [..., 3]; 0 where nothing is right."""
    positives = 2 * counts[..., 0]
    return positives / np.maximum(positives + counts[..., 1] + counts[..., 2], 1)


def probe_layers(
    train: SpanRows,
    evaluate: SpanRows,
    options: ProbeOptions | None = None,
    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
    share: tuple[int, int] = (0, 1),
) -> ProbeScores:
    """Train probes on the layers 0 to l of frozen states, for each l and seed, and score them on other rows.

    The states are read, never written; nothing of the model that made them is at hand.

    Args:
        train: what the probes are trained on.
        evaluate: what they are scored on.
        options: how they are trained.
        progress: wraps the probes that are trained.
        share: index of this process, and how many there are: each trains its share of the probes, and the sums of the
            counts and weights of all are those of one process.
    """
    options = options or ProbeOptions()
    layers = train.states.shape[1]
    tasks = train.labels.shape[0]
    counts = np.zeros((layers, len(options.seeds), tasks, evaluate.row_count, 3), dtype=np.int32)
    weights = np.zeros((len(options.seeds), layers))
    pairs = [(layer, index) for layer in range(layers) for index in range(len(options.seeds))]
    for layer, index in progress(pairs[share[0] :: share[1]]):
        probe = train_probe(train, layer + 1, options.seeds[index], options)
        counts[layer, index] = count_rows(probe, evaluate, layer + 1)
        if layer == layers - 1:
            weights[index] = probe.weights()[0].double().numpy()
    return ProbeScores(counts, weights)


def train_probe(train: SpanRows, layers: int, seed: int, options: ProbeOptions) -> EdgeProbe:
    """Train the probe of a task, and of its control beside it, on the first layers of the states."""
    tasks, total, labels = train.labels.shape
    prior = train.labels.sum(1, dtype=torch.float64).float() / total
    width = train.states.shape[2]
    probe = EdgeProbe(layers, width, labels, len(train.spans), [seed] * tasks, options.projection, prior)
    optimizer = torch.optim.Adam(probe.parameters(), lr=options.learning_rate)
    steps = options.epochs * -(-total // options.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.Generator().manual_seed(seed)
    for _ in range(options.epochs):
        for chosen in torch.randperm(total, generator=order).split(options.batch_size):
            optimizer.zero_grad()
            for part in train.chunks(chosen, layers):
                logits = probe(*train.gathered(part, layers))
                targets = train.labels[:, part].float()
                loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
                (loss.mean(-1).sum() / len(chosen)).backward()
            optimizer.step()
            schedule.step()
    return probe


@torch.no_grad()
def count_rows(probe: EdgeProbe, rows: SpanRows, layers: int) -> np.ndarray:
    """Return [tasks, rows, 3]: true positives, false positives and false negatives of each row."""
    counts = torch.zeros(rows.labels.shape[0], rows.row_count, 3, dtype=torch.int64)
    for chosen in torch.arange(len(rows)).split(256):
        for part in rows.chunks(chosen, layers):
            predicted = probe(*rows.gathered(part, layers)) > 0
            truth = rows.labels[:, part].bool()
            outcomes = (predicted & truth, predicted & ~truth, ~predicted & truth)
            each = torch.stack([outcome.sum(-1) for outcome in outcomes], -1)
            counts.index_add_(1, rows.rows[part], each)
    return counts.numpy()
