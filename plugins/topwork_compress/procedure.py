"""Compression of one model from calibration rows to the proof: all steps in their order, taken back when one fails.

Entry points: `compress_model`, behind `topwork.compress`, and `run_all`, behind the stage. The steps are those of
`compression`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from topwork import Batch, Refused, UsageError
from topwork_compress.compression import Compression
from topwork_compress.latency import LatencyTable, nanoseconds, run_seconds
from topwork_compress.plan import Budget, Compressed, Plan, Settings
from topwork_compress.tuning import Fitted
from topwork_compress.units import Costs, Units, macs
from topwork_lens.look import Look
from topwork_lens.model_state import quiet
from topwork_lens.pruning.prune import Pruned
from topwork_lens.scoring.plain_models import own_loss, single_items
from topwork_lens.scoring.row_independence import RowLosses


def compress_model(
    model: Any,
    batches: Iterable[Mapping[str, Any] | Batch],
    *,
    macs: float | None = None,
    parameters: float | None = None,
    latency: float | None = None,
    table: LatencyTable | None = None,
    row_losses: RowLosses | None = None,
    plugins: Any = None,
    watch: Callable[[Compression, Plan], None] | None = None,
    **options: Any,
) -> Compressed:
    """Make a model smaller than a budget without training: heads and neurons go, what reads them is fitted.

    Args:
        model: any module; it changes.
        batches: calibration rows: dicts of tensors with labels for a model that computes its own loss, or `Batch`.
        macs: the share of the multiply-accumulates that is left.
        parameters: the share of the parameters that is left.
        latency: the share of the measured seconds that is left.
        table: latencies of layers and blocks by width, for `latency`; None measures them here and now.
        row_losses: (model, batch) -> [rows], with `Batch` objects.
        plugins: plugins that describe attention layers and blocks.
        watch: is given the plan while the model is whole, before it is tuned.
        options: see `Settings`.

    Raises:
        UsageError: the budget cannot be met, or an option is wrong.
        Refused: something would be wrong; the model is then as it was.
    """
    budget = Budget(macs, parameters, latency)
    unknown_options = sorted(set(options) - set(Settings.__dataclass_fields__))
    if unknown_options:
        raise UsageError(f"there is no option `{unknown_options[0]}`", hint=", ".join(Settings.__dataclass_fields__))
    ready: list[Batch] = []
    for batch in batches:
        if isinstance(batch, Batch):
            ready.append(batch)
        elif row_losses is None:
            ready += single_items(batch)
        else:
            raise UsageError("`row_losses` goes with `Batch` objects", hint="give topwork.Batch, or leave it out")
    look = Look(model, plugins)
    with torch.inference_mode(False):
        compression = Compression(look.model, ready, row_losses or own_loss, plugins, Settings(**options), table)
        return run_all(compression, budget, watch)


def run_all(
    compression: Compression,
    budget: Budget,
    watch: Callable[[Compression, Plan], None] | None = None,
    choose: Callable[[Costs, int], Budget] | None = None,
) -> Compressed:
    """Run the steps in their order; put the weights back when one fails.

    Args:
        compression: of the model.
        budget: the share that is left.
        watch: is given the plan while the model is whole, before it is tuned.
        choose: returns the budget of the same kind that takes its place, when whole layers are gone; is given what the
            units cost then, and what the whole model cost.
    """
    before = compression.costs(budget)
    left_out, measured, restore = compression.leave_out()
    try:
        costs = compression.costs(budget) if left_out else before
        if choose is not None:
            budget = choose(costs, before.total)
        plan, tuned, pruned = _cut(compression, budget, costs, before.total, watch)
    except BaseException:
        restore()
        raise
    after = _counted_again(compression, budget, plan)
    result = Compressed(plan, pruned, tuned, before.total, after, seconds=compression.seconds)
    result.left_out, result.measured_layers, result.kept_whole = left_out, measured, compression.kept_whole()
    result.plain, result.why_not_plain = compression.settle()
    return result


def _cut(
    compression: Compression,
    budget: Budget,
    costs: Costs,
    whole: int,
    watch: Callable[[Compression, Plan], None] | None,
) -> tuple[Plan, list[Fitted], Pruned]:
    """Plan, tune and cut; where a layer or block proves to be none that can be cut, it stays, and another plan is made.

    The weights are put back when something fails.
    """
    state = {name: value.clone() for name, value in compression.model.state_dict().items()}
    while True:
        try:
            plan = compression.plan(budget, costs, whole)
            if watch is not None:
                with quiet(compression.model):
                    watch(compression, plan)
            return plan, compression.tune(plan.removed), compression.cut(plan)
        except BaseException as error:
            compression.model.load_state_dict(state)
            if not isinstance(error, Refused) or not compression.keep_whole(error):
                raise


def _counted_again(compression: Compression, budget: Budget, plan: Plan) -> int:
    """Return the cost of the model as it is now; what a given table says of it, where there is one."""
    if budget.latency is not None:
        if compression.given_table is not None:
            return plan.cost
        seconds = run_seconds(compression.model, compression.run_timed)
        return nanoseconds(seconds if compression.share is None else compression.share(seconds))
    if budget.parameters is not None:
        return sum(parameter.numel() for parameter in compression.model.parameters())
    empty = Units(compression.look.layers, [], {})
    return macs(compression.model, empty, compression.run_counted)[0].total
