"""Scores of attention heads and neurons.

Entry point: `score`. surgeon: what is lost when the others are fitted to replace it (`surgeon`); where nothing is
fitted, fisher. fisher: E_x (dL(x)/dgate)^2, of each row's loss as if the row were alone, so that batch size
changes nothing. kl: the same with labels drawn from the model's outputs, so that no labels are needed. fluctuation:
variance of what the output projection reads, times the squares of what reads it (An et al. 2024); forward passes only.
magnitude: squares of the parameters. random: uniform numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from topwork import AttentionLayer, Batch, UsageError, unknown
from topwork_compress.surgeon import surgeon_scores
from topwork_compress.tuning import obstacle_of
from topwork_compress.units import Units, columns_of, in_groups, members_of
from topwork_lens.capture.head_slices import heads_verified
from topwork_lens.layers.context import Unit, first_input, output_projection, split_heads
from topwork_lens.layers.description import resolve
from topwork_lens.layers.projections import input_dim
from topwork_lens.layers.torch_mha import unfolded
from topwork_lens.model_state import frozen, quiet
from topwork_lens.scoring.gradients import RowGradients
from topwork_lens.scoring.row_independence import RowLosses

Method = Literal["surgeon", "fisher", "kl", "fluctuation", "magnitude", "random"]
METHODS = ("surgeon", "fisher", "kl", "fluctuation", "magnitude", "random")


@dataclass
class Scores:
    """Scores by path.

    Args:
        values: [units], larger is more important.
        gradients: [rows, units] of gates, where the method has them.
        rows: how many rows they are made of.
    """

    values: dict[str, torch.Tensor]
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)
    rows: int = 0


def score(
    model: nn.Module,
    units: Units,
    batches: Sequence[Batch],
    row_losses: RowLosses,
    method: str = "surgeon",
    seed: int = 0,
) -> Scores:
    """Score all units.

    Args:
        model: the model.
        units: its units.
        batches: calibration rows.
        row_losses: (model, batch) -> [rows].
        method: see above.
        seed: of random numbers.

    Raises:
        UsageError: no such method, there are no rows, or a score is not finite.
    """
    if method not in METHODS:
        raise unknown("score", method, METHODS)
    if method == "random":
        generator = torch.Generator().manual_seed(seed)
        counts = {path: len(members_of(unit)) for path, unit in units.chosen.items()}
        return Scores({path: torch.rand(count, generator=generator).double() for path, count in counts.items()})
    if method == "magnitude":
        return Scores({path: in_groups(unit, _squares(model, unit)) for path, unit in units.chosen.items()})
    if not batches:
        raise UsageError("there are no rows to score on", hint="give at least one batch of rows")
    if method == "fluctuation":
        return _fluctuation(model, units, batches, row_losses)
    by_gates = units.chosen
    values: dict[str, torch.Tensor] = {}
    if method == "surgeon":
        by_gates = {path: unit for path, unit in units.chosen.items() if obstacle_of(model, unit)}
        fitted = {path: unit for path, unit in units.chosen.items() if path not in by_gates}
        values = surgeon_scores(model, fitted, batches, row_losses)
    losses = own_outputs if method == "kl" else row_losses
    gradients = row_gradients(model, by_gates, batches, losses, seed) if by_gates else {}
    values |= {path: gradient.double().square().mean(0) for path, gradient in gradients.items()}
    for path, value in values.items():
        if not bool(value.isfinite().all()):
            raise UsageError("the gradient of some gate is no finite number", place=path)
    return Scores(values, gradients, sum(batch.row_count for batch in batches))


def row_gradients(
    model: nn.Module, units: Mapping[str, Unit], batches: Sequence[Batch], row_losses: RowLosses, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Return gradients of gates, [rows, units] by path; units that never ran have gradients of 0."""
    scorer = RowGradients(model, list(units.values()), row_losses, seed)
    layers = [unit for unit in units.values() if isinstance(unit, AttentionLayer)]
    by_path: dict[str, list[torch.Tensor]] = {path: [] for path in units}
    with frozen(model):
        for index, batch in enumerate(batches):
            with ExitStack() as stack:
                if not index:
                    stack.enter_context(heads_verified(model, layers))
                ran = scorer(batch)
            for path, unit in units.items():
                value = ran.get(path)
                if value is None:
                    value = torch.zeros(batch.row_count, len(unit.kept))
                by_path[path].append(in_groups(unit, value).float().cpu())
    return {path: torch.cat(parts) for path, parts in by_path.items()}


def own_outputs(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the negative log-likelihood of outputs that are drawn from the model's own, row by row: [rows].

    Logits are drawn as classes, other outputs with normal noise: the mean square of its gradient is the true Fisher
    information, the curvature of KL(model || smaller model).
    """
    inputs = {name: value for name, value in batch.inputs.items() if name != "labels"}
    output = model(**inputs)
    logits = getattr(output, "logits", None)
    values = [logits] if isinstance(logits, torch.Tensor) else _floating(output)[:1]
    if not values:
        raise UsageError("the model gives no floating-point outputs to score by")
    value = values[0].float()
    if isinstance(logits, torch.Tensor) and value.shape[-1] > 1:
        flat = torch.log_softmax(value, -1)
        # The largest of logits with Gumbel noise is a draw from their distribution.
        gumbel = -(-_noise(value, batch).clamp(1e-12, 1 - 1e-7).log()).log()
        drawn = (flat.detach() + gumbel).argmax(-1, keepdim=True)
        losses = -flat.gather(-1, drawn).squeeze(-1)
    else:
        losses = value * torch.special.ndtri(_noise(value, batch).clamp(1e-7, 1 - 1e-7))
    mask = batch.inputs.get("attention_mask")
    if isinstance(mask, torch.Tensor) and mask.shape == losses.shape[:2] and losses.dim() > 1:
        losses = losses.masked_fill((mask == 0).reshape(*mask.shape, *[1] * (losses.dim() - 2)), 0)
    by_item = losses.flatten(1).sum(1) if losses.dim() > 1 else losses
    index = torch.tensor(batch.rows, device=by_item.device)
    return by_item.new_zeros(batch.row_count).index_add(0, index, by_item)


def _noise(value: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return uniform numbers that depend on the row and the position alone, in the shape of an output."""
    parts = []
    for item in batch.items:
        generator = torch.Generator().manual_seed(item.row)
        parts.append(torch.rand(value.shape[1:], generator=generator))
    return torch.stack(parts).to(value)


def _floating(output: Any) -> list[torch.Tensor]:
    values = output.values() if hasattr(output, "values") else output if isinstance(output, tuple) else [output]
    return [value for value in values if isinstance(value, torch.Tensor) and value.is_floating_point()]


# ---------------------------------------------------------------- without gradients


def _squares(model: nn.Module, unit: Unit) -> torch.Tensor:
    """Return [heads or neurons]: the sum of squares of all parameters of each."""
    around = model.get_submodule(unit.inside)
    totals = torch.zeros(len(unit.kept), dtype=torch.float64)
    for piece in unit.slices:
        owner_path, _, name = piece.parameter.rpartition(".")
        value = getattr(resolve(around, owner_path), name)
        if not isinstance(value, nn.Parameter):
            continue
        squares = value.detach().double().square().movedim(piece.dim, 0)
        along = squares.reshape(len(squares), -1).sum(1).cpu()
        ratio = len(unit.kept) // max(1, len(piece.indices))
        for index, positions in enumerate(piece.indices):
            totals[index * ratio : (index + 1) * ratio] += along[list(positions)].sum() / ratio
    return totals


@dataclass
class _Moments:
    """Sums over positions of what a projection reads."""

    count: int = 0
    total: torch.Tensor | float = 0.0
    squares: torch.Tensor | float = 0.0

    def add(self, flat: torch.Tensor) -> None:
        self.count += len(flat)
        self.total = self.total + flat.sum(0)
        self.squares = self.squares + flat.square().sum(0)

    def variance(self) -> torch.Tensor:
        mean = torch.as_tensor(self.total) / self.count
        return (torch.as_tensor(self.squares) / self.count - mean.square()).clamp(min=0)


def _fluctuation(model: nn.Module, units: Units, batches: Sequence[Batch], row_losses: RowLosses) -> Scores:
    """Return Var(x_j) * ||W_:j||^2, summed over the columns of a head."""
    moments = {path: _Moments() for path in units.chosen}

    def watch(path: str, unit: Unit) -> Any:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            value = split_heads(unit, first_input(args, kwargs)).detach()
            moments[path].add(value.double().flatten(0, -3))

        return hook

    with ExitStack() as stack:
        stack.enter_context(unfolded([model.get_submodule(path) for path in units.chosen]))
        stack.enter_context(quiet(model))
        for path, unit in units.chosen.items():
            projection = output_projection(model, unit)
            stack.callback(projection.register_forward_pre_hook(watch(path, unit), with_kwargs=True).remove)
        for batch in batches:
            row_losses(model, batch)
    values = {}
    for path, unit in units.chosen.items():
        if not moments[path].count:
            values[path] = torch.zeros(len(members_of(unit)), dtype=torch.float64)
            continue
        weights = _columns(output_projection(model, unit))[columns_of(model, unit)]
        values[path] = in_groups(unit, (moments[path].variance() * weights).sum(-1).cpu())
    return Scores(values, rows=sum(batch.row_count for batch in batches))


def _columns(projection: Any) -> torch.Tensor:
    """Return ||W_:j||^2 of every input feature."""
    weight = projection.weight.detach().double()
    return weight.square().movedim(input_dim(projection), 0).flatten(1).sum(1)
