"""Options by which a stage names the scalar that it explains.

Entry point: `ScalarOptions`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, model_validator

from topwork import Stage

ScalarName = Literal["loss", "logit", "box", "depth"]
Coordinate = Literal["x", "y", "width", "height"]


class ScalarOptions(Stage):
    """Options of stages that explain one number of each row."""

    scalar: ScalarName = Field(
        "loss",
        description="what is explained: the negative loss of the row; the logit of a class (of a text, an image, a "
        "query, a position; the mean over its pixels for maps); a coordinate of a query's box; the mean depth",
    )
    label: str | NonNegativeInt | None = Field(
        None, description="for `logit`: the class, by name or index; by default the one with the highest logit"
    )
    query: NonNegativeInt | None = Field(
        None, description="index of the query or position; by default the one with the highest logit of the class"
    )
    coordinate: Coordinate | None = Field(None, description="for `box`: of its centre, or its width or height")

    @model_validator(mode="after")
    def _check_scalar(self) -> ScalarOptions:
        if (self.coordinate is not None) != (self.scalar == "box"):
            raise ValueError("`coordinate` goes with `scalar: box`, which needs it: x, y, width or height")
        if self.label is not None and self.scalar not in ("logit", "box"):
            raise ValueError(f"`label` has no meaning for `scalar: {self.scalar}`")
        if self.query is not None and self.scalar not in ("logit", "box"):
            raise ValueError(f"`query` has no meaning for `scalar: {self.scalar}`")
        return self
