"""How the loop over rows runs: batches, precision, bad rows, how far it reads ahead."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from topwork.data.batching import Budget
from topwork.errors import UsageError, unknown
from topwork.items import Json

if TYPE_CHECKING:
    from topwork.task import Task


@dataclass
class Settings:
    """How the loop runs.

    Args:
        items: most items in a batch.
        cost: budget of cost; None takes the task's own for the device; 0 means none.
        on_error: what to do with rows that the task cannot use.
        precision: "float32" leaves the model as it is; "bf16" and "fp16" run it under autocast.
        seed: for tasks that draw at random while predicting.
        ahead: most rows that are read before the first is answered: many make batches with little padding. By default
            2048, and 256 of rows without a length, which may come slowly.
    """

    items: int = 32
    cost: int | None = None
    on_error: Literal["raise", "skip"] = "raise"
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    seed: int = 0
    ahead: int | None = None
    skipped: list[dict[str, Json]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, known in (("on_error", ("raise", "skip")), ("precision", ("float32", "bf16", "fp16"))):
            if getattr(self, name) not in known:
                raise unknown(f"value of `{name}`", str(getattr(self, name)), known)
        for name, least in (("items", 1), ("cost", 0), ("ahead", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"`{name}` is {least} or more, not {value}")

    def budget(self, task: Task, device: Any) -> Budget:
        cost = task.cost_budget(getattr(device, "type", str(device))) if self.cost is None else self.cost
        return Budget(self.items, cost or None)
