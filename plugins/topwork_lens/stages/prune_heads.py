"""The stage `prune_heads`, and the calibration batch that pruning is checked with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from topwork import Json
from topwork_lens.stages.selection import SelectionOptions, baseline_keys, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from topwork import Run


class PruneHeads(SelectionOptions):
    """Remove attention heads: the weights become smaller, and the pruned model is proved equal to the masked one."""

    name: ClassVar[str] = "prune_heads"

    check: bool = Field(True, description="compare masked and pruned on calibration rows; false: on random inputs")

    def reads(self) -> tuple[str, ...]:
        """Return the roles whose rows the stage reads."""
        roles = super().reads()
        return ("calibrate", *roles) if self.check and "calibrate" not in roles else roles

    def precheck_model(self, run: Run) -> str | None:
        """Return a problem when named attention heads are not there, or other layers have the same weights."""
        return super().precheck_model(run) or self.shared_problem(run)

    def __call__(self, run: Run) -> dict[str, Json]:
        """Run the stage."""
        from topwork_lens.look import Look

        look = Look(run.model, run.plugins)
        chosen = self.choose(run, look)
        comparison = self.compare_with_random(run, look, chosen)
        pruned = look.prune_heads(chosen, check=check_call(run) if self.check else None)
        result = pruned.json()
        check = result["check"] or {"proves": True, "layers": {}}
        if not check["proves"] and not all(layer["proves"] for layer in check["layers"].values()):
            run.say("the check of pruning proves nothing: masking these attention heads hardly changes the output")
        if result["removed"] and result["parameters_after"] >= result["parameters_before"]:
            run.say(
                "the model has not become smaller: attention heads that shared keys and values have copies of them; "
                "`by: group` takes those that share together"
            )
        # The summary table shows the first plain numbers.
        first = {key: result[key] for key in ("heads_before", "heads_after", "parameters_after")}
        return {
            **first,
            **shown(comparison),
            "speed_limit": result["speed_limit"],
            **result,
            "change": "pruning",
            "removal": pruned.removal(),
            **baseline_keys(comparison),
        }


def check_call(run: Run) -> Callable[[], Any] | None:
    """Return a function that runs the model on a few calibration rows; None when there are none.

    Every process gets the same rows: what they count and compare decides how each of them goes on.
    """
    batches = run.loss_batches("calibrate", limit=4 * run.process.count, batch_size=4)
    batch = next(iter(batches), None)
    if run.process.count > 1:
        gathered = run.process.gather(None if batch is None else batch.to("cpu"))
        first = next((shared for shared in gathered if shared is not None), None)
        batch = None if first is None else first.to(run.device)
    return None if batch is None else lambda: run.task.row_losses(run.model, batch)
