"""`ScoringAccess`: scores of attention heads that `topwork.look(model)` gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from topwork import AttentionLayer, Batch, UsageError
from topwork_lens.layers.context import is_gateable
from topwork_lens.model_state import plain_inputs
from topwork_lens.scoring.importance import score
from topwork_lens.scoring.plain_models import LossFunction, of_plain_model, own_loss, whole
from topwork_lens.scoring.row_independence import RowLosses
from topwork_lens.scoring.selection import Importance, Normalise, importance_of, in_groups

if TYPE_CHECKING:
    from topwork_lens.scoring.gradients import Reduction


class ScoringAccess:
    """Importance of the attention heads of a model."""

    model: nn.Module

    @property
    def layers(self) -> list[AttentionLayer]:
        """The attention layers as they stand now."""
        raise NotImplementedError

    def importance(
        self,
        batches: Iterable[Mapping[str, Any] | Batch],
        method: str = "michel",
        *,
        loss: LossFunction | None = None,
        row_losses: RowLosses | None = None,
        reduction: Reduction = "example",
        normalise: Normalise = "layer",
        seed: int = 0,
        orders: int = 8,
        groups: Sequence[str] | None = None,
        gather: Callable[[Any], list[Any]] = lambda value: [value],
    ) -> Importance:
        """Score every attention head; see `importance.score` for the methods.

        Rows of a dict are scored together where the model's losses, taken row by row from one run, are those of rows
        that are run alone; else one by one, with the same scores.

        Args:
            batches: dicts of tensors (with labels) for a model that computes its own loss, or one dict; or `Batch`
                objects together with `row_losses`.
            method: "michel", "taylor", "leave_one_out", "shapley", "entropy" or "random".
            loss: (outputs of the model, inputs of the batch) -> [rows], or the loss of a batch of one row; None for
                the model's own.
            row_losses: (model, batch) -> [rows], in place of `loss`.
            reduction: of gradients: "example", "token" or "batch".
            normalise: "layer", "global" or "none".
            seed: of random numbers in losses, orders and scores.
            orders: for "shapley": over how many random orders.
            groups: score only "encoder", "decoder", "cross", "backbone" attention; the others have no scores then.
            gather: a value -> the values of all processes.

        Raises:
            UsageError: both kinds of losses are given, or there are no rows.
            Refused: scores would be wrong; reason "not_a_head" where a layer mixes its attention heads.

        Example:
            >>> look.importance([batch]).layers[0].scores  # doctest: +SKIP
        """
        if loss is not None and row_losses is not None:
            raise UsageError("both `loss` and `row_losses` are given", hint="leave one of them out")
        if loss is not None and not callable(loss):
            raise UsageError(f"`loss` is a {type(loss).__name__}", hint="give a function of outputs and inputs")
        if not isinstance(batches, Iterable):
            raise UsageError(f"`batches` are a {type(batches).__name__}", hint="give a list of dicts of tensors")
        layers = self.layers
        scored = [layer for layer in in_groups(layers, groups) if is_gateable(layer) or method == "entropy"]
        with torch.inference_mode(False):
            if row_losses is None:
                several = [batches] if isinstance(batches, Mapping | Batch) else batches
                if method == "random":  # without any loss
                    batches, row_losses = (whole(plain_inputs(batch)) for batch in several), own_loss
                else:
                    batches, row_losses = of_plain_model(self.model, several, loss)
            rows, raw = score(
                self.model,
                scored,
                cast(Iterable[Batch], batches),
                row_losses,
                method,
                reduction=reduction,
                seed=seed,
                orders=orders,
                known=layers,
                gather=gather,
            )
        return importance_of(layers, raw, method, rows, normalise)
