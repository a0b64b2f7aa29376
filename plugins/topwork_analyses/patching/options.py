"""Options of the stages of attribution.

Entry points: `PatchingOptions` and `DirectOptions`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from topwork_analyses.scalars.options import ScalarOptions


class RowOptions(ScalarOptions):
    """Options of stages that explain a scalar on some rows, with intervals over them."""

    role: Literal["evaluate", "calibrate", "train"] = Field("evaluate", description="whose rows; they need targets")
    rows: PositiveInt = Field(32, description="rows that are explained, the first of the role")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="share of intervals that hold the true value")

    def reads(self) -> tuple[str, ...]:
        """Return the roles whose rows the stage reads."""
        return (self.role,)


class PatchingOptions(RowOptions):
    """Options of attribution patching."""

    top: PositiveInt = Field(
        20, description="attention heads with the largest estimates that are patched exactly; as many at random beside"
    )
    steps: PositiveInt = Field(
        1, le=100, description="runs with a gradient for each row; 10 integrates it between noise and the clean input"
    )
    noise: float = Field(
        1.0, gt=0, le=100, description="on the first hidden state of the corrupt run, in its standard deviations"
    )
    draws: PositiveInt | None = Field(
        None,
        ge=100,
        description="resamples of rows for the intervals; by default 2000, or what a correction takes to become"
        " significant",
    )


class DirectOptions(RowOptions):
    """Options of direct attribution."""

    stack: str | None = Field(None, description="path of the stack of layers; needed where several run")
    draws: PositiveInt = Field(2000, ge=100, description="resamples of rows for the intervals")
