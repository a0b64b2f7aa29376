"""Importance of attention heads for a loss, by one of six methods.

Entry point: `score`. Scores are means over row losses, each as if the row were alone, so batch size, order and the
number of processes change nothing. The methods lie in `gradients`, `entropy` and `shapley`; `selection` normalises
scores and chooses by them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from topwork import AttentionLayer, Batch, UsageError, accelerated, unknown
from topwork_lens.capture.head_slices import heads_verified
from topwork_lens.capture.undescribed import all_described
from topwork_lens.gates import factors_of, gated
from topwork_lens.model_state import device_of, frozen, remember_batch
from topwork_lens.refusals import refuse
from topwork_lens.scoring.entropy import sharpness
from topwork_lens.scoring.gradients import GradientScorer, Reduction
from topwork_lens.scoring.row_independence import RowLosses, requiring_one_run, seeded_by_row
from topwork_lens.scoring.shapley import Shapley

#: scores by layer path; None for a layer that never ran
Means = dict[str, Sequence[float] | None]
#: batch -> [heads] by layer path, summed over the rows of the batch
Scorer = Callable[[Batch], dict[str, torch.Tensor]]
METHODS = ("michel", "taylor", "leave_one_out", "shapley", "entropy", "random")
REDUCTIONS = ("example", "token", "batch")


class Sums:
    """Sums over rows, by layer; sums of several processes add up."""

    def __init__(self) -> None:
        self.rows = 0
        self.by_layer: dict[str, torch.Tensor] = {}

    def add(self, path: str, values: torch.Tensor) -> None:
        """Add [heads] to a layer's sum (float64, on the CPU)."""
        values = values.detach().double().cpu()
        self.by_layer[path] = self.by_layer[path] + values if path in self.by_layer else values

    def means(self, gather: Callable[[Any], list[Any]]) -> tuple[int, Means]:
        """Return the number of rows, and the means over the rows of all processes.

        Raises:
            UsageError: there were no rows, or a score is not finite.
        """
        total, by_layer = 0, dict[str, torch.Tensor]()
        for rows, sums in gather((self.rows, self.by_layer)):
            total += rows
            for path, values in sums.items():
                by_layer[path] = by_layer[path] + values if path in by_layer else values
        if not total:
            raise UsageError("there are no rows to score attention heads on", hint="give at least one batch of rows")
        for path, values in by_layer.items():
            if not values.isfinite().all():
                raise UsageError("the gradient of some attention head is no finite number", place=path)
        return total, {path: (values / max(total, 1)).tolist() for path, values in by_layer.items()}


def score(
    model: nn.Module,
    layers: Sequence[AttentionLayer],
    batches: Iterable[Batch],
    row_losses: RowLosses,
    method: str = "michel",
    *,
    reduction: Reduction = "example",
    seed: int = 0,
    orders: int = 8,
    known: Sequence[AttentionLayer] | None = None,
    gather: Callable[[Any], list[Any]] = lambda value: [value],
) -> tuple[int, Means]:
    """Score the attention heads of some layers.

    michel: E_x |dL(x)/dgate| (Michel, Levy & Neubig 2019, section 4.1). reduction "example" takes the absolute value
    for each row, as the paper's equation 2, "token" for each position, as its authors' code, "batch" for the mean of
    each batch, as transformers' run_bertology. taylor: E_x (dL(x)/dgate)^2 (Molchanov et al. 2019, equation 8).
    leave_one_out: E_x [L(x) without the attention head - L(x)]. shapley: see `shapley`; over `orders` random orders.
    entropy: ln(keys) - entropy, the mean over queries, in nats. random: uniform numbers.

    The gradient is the one that trains. Where a model stops it (DETR's successors between the layers of their decoder,
    and in the weights of their losses), it is not the slope of the loss; leave_one_out sees what the loss does.
    A batch that would keep too much memory for its backward pass is scored in parts, except with reduction "batch".

    Args:
        model: the model.
        layers: the layers that are scored.
        batches: on the model's device, in mode "loss".
        row_losses: (model, batch) -> [rows].
        method: see above.
        reduction: see above; for the gradient methods.
        seed: of random numbers in losses, of random orders and scores.
        orders: number of random orders of Shapley values.
        known: all layers of the model, where `layers` are fewer.
        gather: a value -> the values of all processes.

    Returns:
        The number of rows, and by path a score for each attention head that a layer has now; layers that never ran are
        left out.

    Raises:
        UsageError: the method or reduction is not known, there are no rows, or a score is not finite.
        Refused: scores would be wrong; the reason says why.
    """
    if method not in METHODS:
        raise unknown("importance method", method, METHODS)
    if reduction not in REDUCTIONS:
        raise unknown("reduction", reduction, REDUCTIONS)
    if method == "random":
        generator = torch.Generator().manual_seed(seed)
        counts = gather(sum(batch.row_count for batch in batches))
        return sum(counts), {layer.path: torch.rand(len(layer.kept), generator=generator).tolist() for layer in layers}
    if not layers:
        raise refuse("unknown_layout", "no attention layer was found in this model")
    if method in ("michel", "taylor"):
        scorer: Scorer = GradientScorer(model, layers, row_losses, reduction, method == "taylor", seed)
    else:
        scorer = _forward_scorer(model, layers, seeded_by_row(row_losses, seed), method, seed, orders)
    sums, device = Sums(), device_of(model)
    precision = "bf16" if torch.is_autocast_enabled(device.type) else "float32"
    with frozen(model), accelerated(device, precision, frozen=True):
        for index, batch in enumerate(batches):
            # Whatever computes attention runs in the first batch as well; watching all of them takes time.
            with nullcontext() if index else _watched(model, layers, known or layers, method):
                values = scorer(batch)
            remember_batch(model, batch.inputs)
            for path, value in values.items():
                sums.add(path, value)
            sums.rows += batch.row_count
    return sums.means(gather)


@contextmanager
def _watched(
    model: nn.Module, layers: Sequence[AttentionLayer], known: Sequence[AttentionLayer], method: str
) -> Iterator[None]:
    """Refuse attention that no layer describes, and layers whose slices are not attention heads."""
    heads = nullcontext() if method == "entropy" else heads_verified(model, layers)
    with heads, all_described(model, known):
        yield


def _forward_scorer(
    model: nn.Module, layers: Sequence[AttentionLayer], row_losses: RowLosses, method: str, seed: int, orders: int
) -> Scorer:
    """Return the scorer of a method that needs forward passes only."""
    if method == "shapley":
        return Shapley(model, layers, row_losses, orders, seed).batch

    def entropy(batch: Batch) -> dict[str, torch.Tensor]:
        with requiring_one_run(model, batch):
            return sharpness(model, layers, batch, row_losses)

    def leave_one_out(batch: Batch) -> dict[str, torch.Tensor]:
        values = {}
        with torch.no_grad():
            baseline = row_losses(model, batch).double()
            for layer in layers:
                changes = []
                for head in layer.kept:
                    with gated(model, {layer.path: (layer, factors_of(layer, [head]))}):
                        changes.append((row_losses(model, batch).double() - baseline).sum())
                if changes:
                    values[layer.path] = torch.stack(changes)
        return values

    return entropy if method == "entropy" else leave_one_out
