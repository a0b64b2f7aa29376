"""The stage `compress`: heads and neurons go until a budget is kept; what reads them is fitted, nothing is trained.

Entry point: `Compress`, its options; `CompressRun` is one run of it.
"""

from __future__ import annotations

import copy
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from topwork import Json, Stage, UsageError

if TYPE_CHECKING:
    from torch import nn

    from topwork import Batch, RandomBaseline, Run
    from topwork_compress.compression import Compression
    from topwork_compress.curve import CurvePoint
    from topwork_compress.measure import RowMetrics
    from topwork_compress.plan import Budget, Compressed, Plan
    from topwork_compress.units import Costs


#: integers stay where they are so many times faster: less is within what times differ by
_WORTH = 1.05
_BUDGETS = ("macs", "parameters", "latency", "keep_metric")


class Compress(Stage):
    """Remove attention heads and neurons below a budget, and fit what reads them; nothing is trained."""

    name: ClassVar[str] = "compress"
    changes_model: ClassVar[bool] = True

    macs: float | None = Field(None, gt=0, lt=1, description="share of the multiply-accumulates that is left")
    parameters: float | None = Field(None, gt=0, lt=1, description="share of the parameters that is left")
    latency: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of the seconds that is left, measured here on the largest calibration batch",
    )
    keep_metric: float | None = Field(
        None,
        gt=0,
        le=1,
        description="the smallest budget of operations with which the fitted model keeps this share of the metric",
    )
    score: Literal["surgeon", "fisher", "kl", "fluctuation", "magnitude", "random"] | None = Field(
        None,
        description="surgeon: what is lost after least squares, the default with it; fisher: squared gradients of "
        "gates, the default without; kl: without labels; fluctuation: without gradients",
    )
    rows: PositiveInt = Field(512, description="take at most this many calibration rows to score and fit")
    batch_size: PositiveInt | None = Field(None, description="rows a batch; by default what the memory budget allows")
    rearrange: bool = Field(True, description="swap by block Fisher within layers, where the score has gradients")
    tune: Literal["lstsq", "bias", "none"] = Field(
        "lstsq", description="fit what reads heads and neurons, each accepted on held-out calibration rows"
    )
    ridge: float = Field(0.01, gt=0, description="least squares: how much the old weights count")
    multiple: PositiveInt | None = Field(
        None, description="widths of blocks are multiples of it; by default 16 for `latency` in wide blocks, else 1"
    )
    at_least: PositiveInt = Field(1, description="heads and neurons that every layer and block keeps")
    layers: int = Field(0, ge=0, description="whole layers that are left out first, chosen by the loss without them")
    uniform: bool = Field(
        False,
        description="all blocks of one width keep as many neurons, attention heads stay: plain transformers loads it",
    )
    compare_random: int = Field(
        6, ge=0, description="random choices of the same size, masked and measured beside the chosen one"
    )
    quantize: Literal["int8"] | None = Field(
        None,
        description="int8: linear layers in 8 bits at the end, weights and inputs, where that is measured faster",
    )
    curve: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        default_factory=list,
        description="shares of the operations that are tried beside, on copies: heads alone, heads and neurons, after "
        "a whole layer, at random; the metric of each and its milliseconds",
    )
    evaluate: bool = Field(True, description="measure evaluate rows before and after; false: calibration rows alone")
    time: bool = Field(True, description="measure wall time before and after on calibration rows")

    @model_validator(mode="after")
    def _check_options(self) -> Compress:
        given = [name for name in _BUDGETS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(_BUDGETS)}")
        return self

    def reads(self) -> tuple[str, ...]:
        """Return the roles whose rows the stage reads."""
        return ("calibrate", "evaluate") if self.evaluate else ("calibrate",)

    def __call__(self, run: Run) -> dict[str, Json]:
        """Run the stage."""
        return CompressRun(self, run)()

    def settings(self, seed: int) -> Any:
        """Return the settings of compression."""
        from topwork_compress.plan import Settings

        names = ("score", "tune", "ridge", "rearrange", "multiple", "at_least", "layers", "uniform")
        return Settings(**{name: getattr(self, name) for name in names}, seed=seed)


class CompressRun:
    """One run of the stage `compress`."""

    def __init__(self, stage: Compress, run: Run) -> None:
        self.stage, self.run = stage, run
        self.metric = run.task.metric()
        self.roles = stage.reads()
        self.random: list[dict[str, float]] = []
        self.masked: dict[str, float] = {}

    def __call__(self) -> dict[str, Json]:
        """Measure, compress, measure again, and return the stage's result."""
        from topwork_compress.compression import Compression
        from topwork_compress.curve import drawn
        from topwork_compress.eight_bits import obstacle
        from topwork_compress.plan import Budget
        from topwork_compress.procedure import run_all

        stage, run = self.stage, self.run
        if stage.quantize and (reason := obstacle(run.model)):
            raise UsageError(reason, place="stage compress: quantize", hint="leave `quantize` out")
        batches = self.batches()
        compression = Compression(
            run.model, batches, run.task.row_losses, run.plugins, stage.settings(run.seed), share=self.of_the_first
        )
        before = self.measure()
        if stage.keep_metric is None:
            budget, choose = Budget(stage.macs, stage.parameters, stage.latency), None
        else:
            budget, choose = Budget(macs=0.5), partial(self.smallest, compression, before["calibrate"].value)
        self.say_shares(compression, budget)
        points = self.curve(batches, before)
        whole = copy.deepcopy(run.model) if stage.time else None
        compressed = run_all(compression, budget, self.watch, choose)
        after = self.measure()
        eight_bits: dict[str, Json] = {}
        if stage.quantize:
            eight_bits, after = self.quantised(batches, before, after)
        result: dict[str, Json] = {**self.compared(before, after), **eight_bits}
        if whole is not None:
            result |= self.timed(whole, batches, compressed)
        removal = {**compressed.pruned.removal(), "by_layer": compressed.by_layer()}
        result |= {**compressed.json(), "change": "compression", "removal": removal}
        if self.random:
            result["random_baseline"] = self.baseline()
        if points:
            result |= drawn(points, self.metric.primary, self.roles[-1])
        return result

    def curve(self, batches: list[Batch], before: dict[str, RowMetrics]) -> list[CurvePoint]:
        """Return other budgets as the option `curve` wants them; the model stays as it is."""
        if not self.stage.curve:
            return []
        from topwork_compress.curve import measured_curve

        role = self.roles[-1]
        settings = self.stage.settings(self.run.seed)
        return measured_curve(self.run, batches, settings, self.stage.curve, role, before[role].value)

    def batches(self) -> list[Batch]:
        """Return the calibration batches of all processes."""
        run, stage = self.run, self.stage
        share = -(-stage.rows // run.process.count)
        loaded = list(run.loss_batches("calibrate", limit=share * run.process.count, batch_size=stage.batch_size))
        if run.process.count == 1:
            return loaded
        gathered = run.process.gather([batch.to("cpu") for batch in loaded])
        return [batch.to(run.device) for batches in gathered for batch in batches]

    def of_the_first(self, measured: Any) -> Any:
        """Return what the first process has measured: all of them must choose the same."""
        return self.run.process.gather(measured)[0]

    def measure(self) -> dict[str, RowMetrics]:
        """Return the metrics of rows by role, of the model as it is."""
        from topwork_compress.measure import measure_rows

        return {role: measure_rows(self.run, role) for role in self.roles}

    # ------------------------------------------------------------------ the budget

    def smallest(self, compression: Compression, whole_metric: float, costs: Costs, whole: int) -> Budget:
        """Return the smallest budget of operations that keeps the metric of calibration rows, by bisection.

        Each budget is measured with the model that it would give: fitted, and masked.

        Args:
            compression: of the model, without the whole layers that go.
            whole_metric: of the whole model.
            costs: of the units.
            whole: operations of the whole model.

        Raises:
            UsageError: none of those that were tried keeps it.
        """
        from topwork_compress.plan import Budget

        wanted, primary = self.stage.keep_metric or 1.0, self.metric.primary
        least = (costs.total - sum(costs.removable(compression.units).values())) / whole
        low, high = least, costs.total / whole
        best: float | None = None
        for _ in range(6):
            middle = (low + high) / 2
            try:
                plan = compression.plan(Budget(macs=middle), costs, whole)
            except UsageError:  # what has to stay is more than that
                low = middle
                continue
            with compression.finished(plan):
                value = float(self.run.evaluate("calibrate")[primary])
            self.run.say(f"  {middle:.3f} of the operations: {primary} {value:.4g} on calibration rows")
            if self._share_kept(whole_metric, value) >= wanted:
                high = best = middle
            else:
                low = middle
        if best is None:
            cause = f"no budget keeps {wanted} of {primary}"
            raise UsageError(cause, place="stage compress", hint="give a lower `keep_metric`, or `macs`")
        return Budget(macs=best)

    def _share_kept(self, before: float, after: float) -> float:
        """Return which share of a metric is left; 1 where there was nothing to lose."""
        kept, whole = (after, before) if self.metric.higher_is_better else (before, after)
        return kept / whole if whole else 1.0

    # ------------------------------------------------------------------ 8 bits

    def quantised(
        self, batches: list[Batch], before: dict[str, RowMetrics], cut: dict[str, RowMetrics]
    ) -> tuple[dict[str, Json], dict[str, RowMetrics]]:
        """Take weights of 8 bits where that is faster, and where the metric that is to be kept is kept.

        Args:
            batches: calibration rows; the largest batch is timed.
            before: metrics of the whole model.
            cut: metrics of the model as it is now.

        Returns:
            What the stage's result says of it, and the metrics of the model then.
        """
        from topwork_compress.eight_bits import quantise
        from topwork_lens.model_state import quiet

        run, now, small = self.run, self.run.model, copy.deepcopy(self.run.model)
        batch = max(batches, key=lambda batch: batch.row_count)
        with quiet(small):
            paths = quantise(small, lambda: run.task.row_losses(small, batch))
        times = self.of_the_first(self.turns([now, small], batch)) if paths else [1.0, 1.0]
        faster, primary, last = times[0] / times[1], self.metric.primary, self.roles[-1]
        entry: dict[str, Json] = {"layers": len(paths), "faster": faster, f"before_{primary}": cut[last].value}
        why = "" if faster >= _WORTH else "it is not faster"
        if not why:
            run.model = small
            after = self.measure()
            entry[f"after_{primary}"] = after[last].value
            kept = self._share_kept(before["calibrate"].value, after["calibrate"].value)
            if self.stage.keep_metric is not None and kept < self.stage.keep_metric:
                why = f"it keeps {kept:.4f} of {primary} on calibration rows"
        if why:
            run.model = now
        run.say(f"  8 bits: {faster:.2f} times faster; " + (f"not taken: {why}" if why else "taken"))
        return {"int8": {**entry, "taken": not why, "why": why}}, cut if why else after

    def turns(self, models: list[nn.Module], batch: Batch) -> list[float]:
        """Return the seconds of each model on a batch, in turn."""
        from topwork_compress.measure import wall_times
        from topwork_lens.model_state import quiet

        with ExitStack() as stack:
            for model in models:
                stack.enter_context(quiet(model))
            return wall_times([partial(self.run.task.row_losses, model, batch) for model in models])

    def say_shares(self, compression: Compression, budget: Budget) -> None:
        """Say before anything is cut which share of the model can become smaller."""
        costs = compression.costs(budget)
        shares = {kind: cost / costs.total for kind, cost in costs.removable(compression.units).items()}
        rest = 1 - sum(shares.values())
        words = ", ".join(f"{share:.1%} in {kind}" for kind, share in shares.items())
        self.run.say(f"  of {costs.total:,} {costs.unit}: {words}; {rest:.1%} cannot become smaller")

    # ------------------------------------------------------------------ comparisons

    def watch(self, compression: Compression, plan: Plan) -> None:
        """Measure the masked model, and random choices of the same size, before anything is fitted or cut."""
        if not self.stage.compare_random:
            return
        role = self.roles[-1]
        with compression.masked(plan.removed):
            self.masked = {self.metric.primary: float(self.run.evaluate(role)[self.metric.primary])}
        for draw in range(self.stage.compare_random):
            with compression.masked(compression.random(plan, self.run.seed + draw)):
                self.random.append({self.metric.primary: float(self.run.evaluate(role)[self.metric.primary])})

    def baseline(self) -> RandomBaseline:
        """Return what random choices of the same size gave, in the form that the page of a run draws."""
        primary = self.metric.primary
        values = [entry[primary] for entry in self.random]
        return {
            "draws": len(values),
            "role": self.roles[-1],
            "metrics": {primary: sum(values) / len(values)},
            "each": [{primary: value} for value in values],
            "chosen": {primary: self.masked[primary]},
        }

    def compared(self, before: dict[str, RowMetrics], after: dict[str, RowMetrics]) -> dict[str, Json]:
        """Return the metric before and after for each role, with intervals of the difference."""
        from topwork_compress.measure import paired_interval

        primary, last = self.metric.primary, self.roles[-1]
        result: dict[str, Json] = {
            "primary": primary,
            "higher_is_better": self.metric.higher_is_better,
            f"before_{primary}": before[last].value,
            f"after_{primary}": after[last].value,
        }
        if self.masked:
            values = [entry[primary] for entry in self.random]
            result |= {f"masked_{primary}": self.masked[primary], f"random_{primary}": sum(values) / len(values)}
            result["better_than_random"] = sum(self._better(self.masked[primary], value) for value in values)
        result["roles"] = {
            role: {
                "before": before[role].value,
                "after": after[role].value,
                "paired": paired_interval(before[role], after[role], self.run.seed),
            }
            for role in self.roles
        }
        return result

    def _better(self, value: float, other: float) -> bool:
        return value > other if self.metric.higher_is_better else value < other

    def timed(self, whole: nn.Module, batches: list[Batch], compressed: Compressed) -> dict[str, Json]:
        """Measure both models in turn on the largest calibration batch; several processes measure each for itself."""
        from topwork_compress.measure import reason_of_gap

        batch = max(batches, key=lambda batch: batch.row_count)
        before, after = self.turns([whole, self.run.model], batch)
        limit = compressed.limit
        positions = max(sum(item.cost for item in batch.items), len(batch.items))
        reason = reason_of_gap(before / after, limit, positions, compressed.plan.costs.unit)
        if reason:
            self.run.say(f"  {before / after:.2f} times faster, where {limit:.2f} is the limit: {reason}")
        times = {"seconds_before": before, "seconds_after": after, "speedup": before / after}
        return {**times, "of_limit": before / after / limit, "reason_of_gap": reason, "positions": positions}
