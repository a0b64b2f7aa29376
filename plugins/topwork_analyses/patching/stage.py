"""The stages `attribution_patching` and `direct_attribution`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PositiveInt

from topwork import Json
from topwork_analyses.scalars.options import ScalarOptions

if TYPE_CHECKING:
    from topwork import Run


class RowOptions(ScalarOptions):
    """Options of stages that explain a scalar on some rows, with intervals over them."""

    role: Literal["evaluate", "calibrate", "train"] = Field("evaluate", description="whose rows; they need targets")
    rows: PositiveInt = Field(32, description="rows that are explained, the first of the role")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="share of intervals that hold the true value")
    draws: PositiveInt = Field(2000, ge=100, description="resamples of rows for the intervals")

    def reads(self) -> tuple[str, ...]:
        """Return the roles whose rows the stage reads."""
        return (self.role,)


class AttributionPatching(RowOptions):
    """Estimate what each attention head restores of a scalar that noise destroyed, beside exact patches of some."""

    name: ClassVar[str] = "attribution_patching"
    columns_shown: ClassVar[tuple[str, ...]] = ("rows", "heads", "patched")

    top: PositiveInt = Field(
        20, description="attention heads with the largest estimates that are patched exactly; as many at random beside"
    )
    steps: PositiveInt = Field(
        1, le=100, description="runs with a gradient for each row; 10 integrates it between noise and the clean input"
    )
    noise: float = Field(
        1.0, gt=0, le=100, description="on the first hidden state of the corrupt run, in its standard deviations"
    )

    def __call__(self, run: Run) -> dict[str, Json]:
        """Run the stage."""
        from topwork_analyses.patching.study import AttributionStudy

        study = AttributionStudy(self, run)
        study.estimate()
        return study.result(study.measure())


class DirectAttribution(RowOptions):
    """Say what each attention head and feed-forward network writes towards a scalar, the final norm frozen."""

    name: ClassVar[str] = "direct_attribution"
    columns_shown: ClassVar[tuple[str, ...]] = ("rows", "heads", "explained")

    stack: str | None = Field(None, description="path of the stack of layers; needed where several run")

    def __call__(self, run: Run) -> dict[str, Json]:
        """Run the stage."""
        from topwork_analyses.patching.direct_study import DirectStudy

        study = DirectStudy(self, run)
        study.add_rows()
        return study.result()
