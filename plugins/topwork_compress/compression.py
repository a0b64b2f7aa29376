"""Steps of compressing one model below a budget: score, search, rearrange, tune, cut with proof.

Entry point: `Compression`; `procedure` runs its steps in their order.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from topwork import AttentionLayer, Batch, Block, Refused, UsageError
from topwork_compress.dynamic import search_table
from topwork_compress.latency import LatencyTable, measure_table, nanoseconds
from topwork_compress.plan import Budget, Plan, Settings
from topwork_compress.rearrange import objective, rearranged
from topwork_compress.scores import METHODS, Scores, score
from topwork_compress.search import in_multiples, normalised, search
from topwork_compress.tuning import Fitted, tune
from topwork_compress.uniform import expanded, joined, joined_table
from topwork_compress.units import (
    Choice,
    Costs,
    Masks,
    Units,
    macs,
    members_of,
    parameters,
    timed_multiple,
    width_step,
)
from topwork_compress.whole_layers import least_needed
from topwork_lens.blocks.discovery import adapted
from topwork_lens.blocks.plain_widths import PlainWidth, plain_widths, settle_widths
from topwork_lens.blocks.whole.discovery import find_whole_layers
from topwork_lens.blocks.whole.leaving_out import leave_out
from topwork_lens.gates import factors_of, gated
from topwork_lens.look import Look
from topwork_lens.pruning.prune import Pruned
from topwork_lens.scoring.row_independence import RowLosses

#: positions that least squares reads, and batches that costs are counted on
_POSITIONS, _COUNTED = 16384, 8


class Compression:
    """Steps of compressing one model; `procedure` runs them all.

    Args:
        model: the model.
        batches: calibration rows.
        row_losses: (model, batch) -> [rows].
        plugins: plugins that describe attention layers and blocks.
        settings: how.
        table: of latencies; None measures one when the budget is one of latency.
        share: is given what one process has measured and returns it for all of them.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        row_losses: RowLosses,
        plugins: Any,
        settings: Settings,
        table: LatencyTable | None = None,
        share: Callable[[Any], Any] | None = None,
    ) -> None:
        if not batches:
            raise UsageError("there are no calibration rows", hint="give at least one batch")
        if settings.method() not in METHODS:
            raise UsageError(f"there is no score {settings.score!r}", hint=f"one of {', '.join(METHODS)}")
        if wrapped := adapted(model):
            cause = f"adapters lie beside the weights of {len(wrapped)} modules"
            raise UsageError(cause, place=wrapped[0], hint="merge them first: model = model.merge_and_unload()")
        if table is not None and settings.layers:
            raise UsageError("a given table does not know the model without layers", hint="leave out `layers`")
        self.model, self.batches, self.row_losses, self.settings = model, batches, row_losses, settings
        self.plugins, self.given_table, self.share = plugins, table, share
        self.look = Look(model, plugins)
        self.seconds: dict[str, float] = {}
        #: why layers and blocks stay whole that were found and cannot be cut, by path
        self.stays: dict[str, str] = {}
        self._scores: Scores | None = None
        self._table: LatencyTable | None = None
        self._find_units()
        if not self.units.chosen:
            error = UsageError("nothing of this model can be made smaller", hint="topwork.look(model).table() says why")
            raise self._with_reasons(error)

    def run_first(self) -> Any:
        """Run the model on the first calibration batch."""
        return self.row_losses(self.model, self.batches[0])

    def run_counted(self) -> None:
        """Run the model on the batches that costs are counted on."""
        for batch in self.batches[:_COUNTED]:
            self.row_losses(self.model, batch)

    def costs(self, budget: Budget) -> Costs:
        """Return what the units cost now."""
        if budget.latency is not None:
            return self.table.costs(self.units)
        if budget.parameters is not None:
            return parameters(self.model, self.units)
        return macs(self.model, self.units, self.run_counted)[0]

    @property
    def table(self) -> LatencyTable:
        """Latencies of layers and blocks by width: the given ones, or those measured on this machine."""
        if self.given_table is not None:
            return self.given_table
        if self._table is None:
            with self._timed("latencies"):
                arguments = (self.model, self.units, self.run_timed, self.run_check)
                table = measure_table(*arguments, self.plugins, self.multiple(Budget(latency=0.5)))
            self._table = table if self.share is None else self.share(table)
        return self._table

    def multiple(self, budget: Budget) -> int:
        """Return what widths of blocks are multiples of."""
        if self.settings.multiple is not None:
            return self.settings.multiple
        return 1 if budget.latency is None else timed_multiple(self.units.chosen.values())

    @property
    def scores(self) -> Scores:
        """Scores of the units."""
        if self._scores is None:
            with self._timed("score"):
                arguments = (self.model, self.units, self.batches, self.row_losses)
                self._scores = score(*arguments, self.settings.method(), self.settings.seed)
        return self._scores

    def share_scores(self, scores: Scores | None) -> Scores | None:
        """Take over the scores of the same whole model, or score it when there are none; return them.

        A model that loses whole layers first is scored when they are gone: its scores are no other's.
        """
        if self.settings.layers:
            return None
        self._scores = scores
        return self.scores

    def only(self, kind: type[AttentionLayer] | type[Block]) -> None:
        """Keep all units whole but those of attention layers, or of blocks."""
        self.units.chosen = {path: unit for path, unit in self.units.chosen.items() if isinstance(unit, kind)}

    def leave_out(self) -> tuple[list[str], list[dict[str, Any]], Callable[[], None]]:
        """Leave out whole layers; return their paths, what was measured, and what puts them back."""
        if not self.settings.layers:
            return [], [], _nothing
        with self._timed("layers"):
            present = find_whole_layers(self.model, self.run_first)
            arguments = (self.model, present, self.batches, self.row_losses, self.settings.layers)
            chosen, measured = least_needed(*arguments)
            _, restore = leave_out(self.model, chosen, self.run_check)
        self._find_units()
        return [layer.path for layer in chosen], measured, restore

    def _find_units(self) -> None:
        self.units = Units.of(self.model, self.look.layers, self.look.find_blocks(self.run_first))
        for path in self.stays:
            self.units.chosen.pop(path, None)
        self.widths: list[PlainWidth] = []
        if self.settings.uniform:
            self.widths = plain_widths(self.model, self.units.blocks)
            paths = {path for width in self.widths for path in width.paths}
            self.units.chosen = {path: unit for path, unit in self.units.chosen.items() if path in paths}
            if not paths:
                cause = "no width of this model is a number of its config"
                raise UsageError(cause, place="uniform", hint="leave `uniform` out: topwork.load loads any widths")
        self._scores = None
        self._table = None

    def keep_whole(self, error: Refused) -> bool:
        """Leave the layer or block that a refusal is about as it is; return whether it is about one of those chosen."""
        path = error.place or ""
        if path not in self.units.chosen or len(self.units.chosen) == 1:
            return False
        self.stays[path] = str(error.cause)
        self.units.chosen.pop(path)
        self.widths = [width for width in self.widths if path not in width.paths]
        self._scores = None
        return True

    def plan(self, budget: Budget, costs: Costs | None = None, whole: int | None = None) -> Plan:
        """Search for what is removed below a budget.

        Args:
            budget: the share that is left.
            costs: of the units; None counts them.
            whole: what the share is of; None: of the model as it is.
        """
        costs = costs or self.costs(budget)
        choices = self.units.choices(costs.by_path, self.scores.values)
        fixed = costs.total - sum(choice.cost for choice in choices)
        wanted = int(budget.share * (whole or costs.total))
        with self._timed("search"):
            try:
                removed, spent = self._search(normalised(choices, self.settings.how()), budget, costs, wanted, fixed)
            except UsageError as error:
                raise self._with_reasons(error) from error
            plan = Plan(self.units, costs, self.units.original(removed), spent, wanted)
            if self.settings.rearrange and self.scores.gradients:
                self._rearrange(plan, removed)
        return plan

    def kept_whole(self) -> dict[str, str]:
        """Return why layers and blocks that were found are not made smaller, by path."""
        reasons = {layer.path: layer.why or layer.mixed for layer in self.units.layers}
        reasons |= {block.path: block.why for block in self.units.blocks}
        return {path: why for path, why in (reasons | self.stays).items() if path not in self.units.chosen and why}

    def _with_reasons(self, error: UsageError) -> UsageError:
        """Return an error about a budget that says what cannot be made smaller."""
        reasons = self.kept_whole()
        if not reasons:
            return error
        path, why = next(iter(reasons.items()))
        return UsageError(
            error.cause, place=error.place, hint=f"{error.hint}; {len(reasons)} stay whole, such as {path}: {why}"
        )

    def _search(
        self, choices: Sequence[Choice], budget: Budget, costs: Costs, wanted: int, fixed: int
    ) -> tuple[Sequence[Choice], int]:
        """Return what is removed, and the cost of the whole then."""
        alike = joined(choices, self.widths) if self.widths else choices
        steps = {path: width_step(unit, self.multiple(budget)) for path, unit in self.units.chosen.items()}
        steps |= {width.attribute: max(steps[path] for path in width.paths) for width in self.widths}
        ready = in_multiples(alike, 1, steps)
        if budget.latency is not None:
            table = joined_table(self.table, self.widths) if self.widths else self.table
            removed, seconds = search_table(ready, table, wanted / 1e9, self.settings.at_least)
            spent = nanoseconds(seconds)
            return self._single(removed, choices), spent
        inner = wanted
        while True:
            removed, spent = search(ready, inner, fixed, self.settings.at_least)
            single = self._single(removed, choices)
            counts = Counter[str]()
            for choice in single:
                counts[choice.path] += len(choice.members)
            spent += costs.counted_twice(self.units, counts)
            if spent <= wanted:
                return single, spent
            # projections between two blocks lose less than both count: search again below a smaller budget
            inner -= spent - wanted

    def _single(self, removed: Sequence[Choice], choices: Sequence[Choice]) -> Sequence[Choice]:
        """Return choices of single layers and blocks."""
        return expanded(removed, choices, self.widths) if self.widths else removed

    def settle(self) -> tuple[dict[str, int], str]:
        """Write the widths of a uniform cut into the model's config, proved by a model that is built of it.

        Returns:
            The numbers of the config; or none, and why plain transformers would not load the model.
        """
        if not self.widths:
            return {}, ""
        blocks = self.look.find_blocks(self.run_check)
        try:
            settle_widths(self.model, self.widths, blocks, self.run_check)
        except Refused as error:  # the cut itself is proved: topwork loads it
            return {}, str(error)
        kept = {block.path: len(block.kept) for block in blocks}
        return {width.attribute: kept[width.paths[0]] for width in self.widths}, ""

    def _rearrange(self, plan: Plan, removed: Sequence[Choice]) -> None:
        by_path: dict[str, set[int]] = {}
        for choice in removed:
            by_path.setdefault(choice.path, set()).update(choice.members)
        before = after = 0.0
        for path, positions in by_path.items():
            unit, gradients = self.units.chosen[path], self.scores.gradients.get(path)
            if gradients is None:
                continue
            groups = members_of(unit)
            chosen = [index for index, members in enumerate(groups) if members[0] in positions]
            swapped = rearranged(gradients, chosen)
            before += objective(gradients, chosen)
            after += objective(gradients, swapped)
            plan.removed[path] = sorted(unit.kept[position] for index in swapped for position in groups[index])
        plan.rearranged = (before, after)

    def masked(self, removed: Masks) -> Any:
        """Mask what is removed for a block."""
        chosen = {path: (self.units.chosen[path], indices) for path, indices in removed.items() if indices}
        return gated(self.model, {path: (unit, factors_of(unit, indices)) for path, (unit, indices) in chosen.items()})

    @contextmanager
    def finished(self, plan: Plan) -> Iterator[None]:
        """Make the model compute for a block what it will when a plan is carried out: fitted, and masked."""
        weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        try:
            self.tune(plan.removed)
            with self.masked(plan.removed):
                yield
        finally:
            self.model.load_state_dict(weights)

    def random(self, plan: Plan, seed: int) -> Masks:
        """Return a random choice of as many heads and neurons in each layer and block."""
        generator = torch.Generator().manual_seed(seed)
        masks = {}
        for path, indices in plan.removed.items():
            unit = self.units.chosen[path]
            groups = members_of(unit)
            count = len(indices) // len(groups[0])
            order = torch.randperm(len(groups), generator=generator).tolist()[:count]
            masks[path] = sorted(unit.kept[position] for index in order for position in groups[index])
        return masks

    def tune(self, removed: Masks) -> list[Fitted]:
        """Fit the projections behind what is removed."""
        with self._timed("tune"):
            batches, positions = [], 0
            for batch in self.batches:
                mask = batch.inputs.get("attention_mask")
                positions += int(mask.sum()) if isinstance(mask, torch.Tensor) else 0
                batches.append(batch)
                if positions > _POSITIONS:
                    break
            arguments = (self.model, self.units, removed, batches, self.row_losses)
            return tune(*arguments, self.settings.tune, self.settings.ridge)

    def cut(self, plan: Plan) -> Pruned:
        """Prune, with the proof that masked and pruned model agree."""
        heads = {
            path: plan.removed[path] for path in plan.removed if isinstance(self.units.chosen[path], AttentionLayer)
        }
        neurons = {path: indices for path, indices in plan.removed.items() if path not in heads}
        with self._timed("cut"):
            return self.look.prune(heads, neurons, check=self.run_check)

    def run_check(self, model: nn.Module | None = None) -> Any:
        """Run the model, or another one, on the first rows of the first batch."""
        return self.row_losses(self.model if model is None else model, _first_rows(self.batches[0], 4))

    def run_timed(self, model: nn.Module) -> Any:
        """Run a model on the largest batch."""
        return self.row_losses(model, max(self.batches, key=lambda batch: batch.row_count))

    def _timed(self, name: str) -> Any:
        return _Timer(self.seconds, name)


def _nothing() -> None:
    """Put nothing back: no layer was left out."""


class _Timer:
    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self.seconds, self.name = seconds, name

    def __enter__(self) -> None:
        self.start = time.process_time()

    def __exit__(self, *_: Any) -> None:
        spent = time.process_time() - self.start
        self.seconds[self.name] = round(self.seconds.get(self.name, 0.0) + spent, 3)


def _first_rows(batch: Batch, count: int) -> Batch:
    """Return the first rows of a batch, where its inputs are row by row; else the batch."""
    items = [item for item, row in zip(batch.items, batch.rows, strict=True) if row < count]
    tensors = [value for value in batch.inputs.values() if isinstance(value, torch.Tensor)]
    by_item = tensors and all(value.dim() and len(value) == len(batch.items) for value in tensors)
    if len(items) == len(batch.items) or not by_item or len(tensors) < len(batch.inputs):
        return batch
    if batch.rows != sorted(batch.rows):
        return batch
    inputs = {name: value[: len(items)] for name, value in batch.inputs.items()}
    return Batch(inputs, items, batch.device, batch.mode)
