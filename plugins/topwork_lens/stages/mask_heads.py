"""The stage `mask_heads`: gates that stay on the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from topwork import Json
from topwork_lens.stages.selection import SelectionOptions, baseline_keys, shown

if TYPE_CHECKING:
    from topwork import Run


class MaskHeads(SelectionOptions):
    """Switch attention heads off without removing them: gates of 0 that stay on the model and are saved with it."""

    name: ClassVar[str] = "mask_heads"

    factor: float = Field(0.0, description="what their output is multiplied by; 0 switches them off")

    def __call__(self, run: Run) -> dict[str, Json]:
        """Run the stage."""
        from topwork_lens.look import Look
        from topwork_lens.pruning.prune import count_heads

        look = Look(run.model, run.plugins)
        before = count_heads(look.active_layers())
        chosen = self.choose(run, look)
        comparison = self.compare_with_random(run, look, chosen)
        masked = look.keep_masked(chosen, self.factor)
        after = count_heads(look.active_layers())
        result = {"heads_before": before, "heads_after": after, **shown(comparison), "masked": masked}
        removal = {"how": "masked", "unit": "attention heads", "before": before, "after": after, "heads": masked}
        result |= {"change": "masking", "removal": removal} if self.factor == 0 else {"change": "scaling"}
        return {**result, "layers": look.table(), **baseline_keys(comparison)}
