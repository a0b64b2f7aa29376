"""Choice of whole layers by measurement: block influence ranks them, the loss on calibration rows decides.

Entry point: `least_needed`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from topwork import Batch, UsageError
from topwork_lens.blocks.whole.bypass import block_influence, bypassed
from topwork_lens.blocks.whole.whole_layer import WholeLayer
from topwork_lens.model_state import quiet
from topwork_lens.scoring.row_independence import RowLosses

#: layers that are measured at every step, those of the least influence; and rows that they are measured on
_TRIED, _ROWS = 3, 256


def least_needed(
    model: nn.Module, layers: Sequence[WholeLayer], batches: Sequence[Batch], row_losses: RowLosses, count: int
) -> tuple[list[WholeLayer], list[dict[str, float | str]]]:
    """Choose whole layers, one by one: the one without which the mean loss is lowest.

    Args:
        model: the model, which stays whole.
        layers: its whole layers.
        batches: calibration rows.
        row_losses: (model, batch) -> [rows].
        count: how many are chosen.

    Returns:
        The layers, and an entry for each measurement: path, block influence, mean loss without it.

    Raises:
        UsageError: there are not so many that can be left out.
    """
    waiting = [layer for layer in layers if layer.prunable]
    if len(waiting) < count:
        reasons = sorted({layer.why for layer in layers if layer.why})
        cause = f"{len(waiting)} whole layers can be left out, not {count}"
        raise UsageError(cause, place="layers", hint="; ".join(reasons) or None)
    chosen_rows = _first(batches)
    runs: list[Callable[[], torch.Tensor]] = [partial(row_losses, model, batch) for batch in chosen_rows]
    influence = dict(zip(waiting, block_influence(model, waiting, runs), strict=True))
    chosen: list[WholeLayer] = []
    measured: list[dict[str, float | str]] = []
    for _ in range(count):
        losses = {}
        for layer in sorted(waiting, key=lambda layer: influence[layer])[:_TRIED]:
            with quiet(model), bypassed(model, [*chosen, layer]):
                values = torch.cat([run().double().cpu() for run in runs])
            losses[layer] = float(values.mean())
            measured.append({"path": layer.path, "influence": influence[layer], "loss": losses[layer]})
        best = min(losses, key=lambda layer: losses[layer])
        chosen.append(best)
        waiting.remove(best)
    return chosen, measured


def _first(batches: Sequence[Batch]) -> list[Batch]:
    rows, result = 0, []
    for batch in batches:
        if rows >= _ROWS:
            break
        result.append(batch)
        rows += batch.row_count
    return result
