"""The stages `attribution_patching` and `direct_attribution`."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from topwork import Json
from topwork_analyses.patching.options import DirectOptions, PatchingOptions

if TYPE_CHECKING:
    from topwork import Run


class AttributionPatching(PatchingOptions):
    """Estimate what each attention head restores of a scalar that noise destroyed, beside exact patches of some."""

    name: ClassVar[str] = "attribution_patching"
    columns_shown: ClassVar[tuple[str, ...]] = ("rows", "heads", "patched")

    def __call__(self, run: Run) -> dict[str, Json]:
        """Run the stage."""
        from topwork_analyses.patching.study import AttributionStudy

        study = AttributionStudy(self, run)
        study.estimate()
        result = study.result(study.measure())
        for remark in result["remarks"]:
            run.say(f"attribution patching: {remark}")
        return result


class DirectAttributions(DirectOptions):
    """Say what each attention head and feed-forward network writes towards a scalar, the final norm frozen."""

    name: ClassVar[str] = "direct_attribution"
    columns_shown: ClassVar[tuple[str, ...]] = ("rows", "heads", "explained")

    def __call__(self, run: Run) -> dict[str, Json]:
        """Run the stage."""
        from topwork_analyses.patching.direct_study import DirectStudy

        study = DirectStudy(self, run)
        study.add_rows()
        return study.result()
