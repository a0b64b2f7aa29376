"""Options of a recipe's data: the source of the rows of each role, and the treatment of bad rows."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


class RowsOptions(BaseModel):
    """Source of the rows of one role."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(description="a Hub data set, a file, a folder, a glob, or `sample:<name>`")
    name: str | None = Field(None, description="configuration of a Hub data set")
    split: str | None = Field(None, description="split, slices allowed: train, test[:20%]")
    format: str | None = Field(
        None,
        description="csv, json, parquet, text, imagefolder, audiofolder, or a layout of `topwork list formats` (coco, "
        "voc, yolo, boxes, conll ...); by default from the files' names and contents",
    )
    revision: str | None = Field(None, description="branch, tag or commit on the Hub")
    limit: PositiveInt | None = Field(None, description="take this many rows (after shuffling)")
    shuffle: bool = Field(False, description="shuffle with the recipe's seed before `limit`")
    streaming: bool = Field(False, description="read the rows as they come, without storing them")
    options: dict[str, Any] = Field(default_factory=dict, description="further options of the format's loader")
    trust_remote_code: bool = Field(False, description="run Python code that comes with the data set")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class GroupedCut(BaseModel):
    """A share of the training rows, whole groups together: `cut: {share: 0.2, by: speaker}`.

    Or one of several folds of like size, which together are all training rows: `cut: {folds: 5, fold: 1}`.
    """

    model_config = ConfigDict(extra="forbid")

    share: float | PositiveInt | None = Field(
        None, description="a share (0 < share < 1) or a number of the training rows"
    )
    by: str | None = Field(None, description="a column of the rows: those with the same value stay together")
    folds: int | None = Field(None, ge=2, le=1000, description="divide the training rows into this many folds")
    fold: PositiveInt | None = Field(None, description="which of the folds it is, from 1")

    @model_validator(mode="after")
    def _is_share(self) -> GroupedCut:
        if (self.share is None) == (self.folds is None) or (self.folds is None) != (self.fold is None):
            raise ValueError("a cut has a `share`, or both `folds` and `fold`")
        if self.folds is not None and self.fold is not None and self.fold > self.folds:
            raise ValueError(f"fold {self.fold} of {self.folds}: folds count from 1")
        if self.share is not None:
            _check_share(self.share)
        return self

    @property
    def size(self) -> float | int:
        """The share or the number of rows."""
        return self.share if self.share is not None else 1 / (self.folds or 1)


class CutOptions(BaseModel):
    """Rows cut from another role: `evaluate: {cut: 0.1}` takes a tenth of the training rows away from them.

    Where rows have labels, each label gives its share.
    """

    model_config = ConfigDict(extra="forbid")

    cut: float | PositiveInt | GroupedCut = Field(
        description="a share (0 < share < 1) or a number of the training rows; or {share, by: column}"
    )

    @model_validator(mode="after")
    def _is_share(self) -> CutOptions:
        _check_share(self.size)
        return self

    @property
    def size(self) -> float | int:
        """The share or the number of rows."""
        return self.cut.size if isinstance(self.cut, GroupedCut) else self.cut

    @property
    def by(self) -> str | None:
        """The column whose groups stay together."""
        return self.cut.by if isinstance(self.cut, GroupedCut) else None

    @property
    def fold(self) -> tuple[int, int] | None:
        """The position of the fold, from 0, and the number of folds; None for a share."""
        if isinstance(self.cut, GroupedCut) and self.cut.fold is not None and self.cut.folds is not None:
            return self.cut.fold - 1, self.cut.folds
        return None


def _check_share(size: float | int) -> None:
    if isinstance(size, float) and not 0 < size < 1:
        raise ValueError("`cut` is a share between 0 and 1, or a whole number of rows")


class DataOptions(BaseModel):
    """The rows of a recipe, by role.

    *train* is learned from; *calibrate* scores attention heads and chooses masks, by default cut from the training
    rows; *evaluate* is never used to choose anything.
    """

    model_config = ConfigDict(extra="forbid")

    train: RowsOptions | None = None
    calibrate: RowsOptions | CutOptions | None = None
    evaluate: RowsOptions | CutOptions | None = None
    predict: RowsOptions | None = None
    columns: dict[str, str | list[str]] = Field(
        default_factory=dict,
        description="the task's column -> the data set's column; for labels also a list of columns of zeros and ones",
    )
    on_error: Literal["raise", "skip"] = Field(
        "raise", description="skip: leave out rows that cannot be used, and count"
    )
    check: Literal["quick", "full", "none"] = Field(
        "quick", description="look at all rows before the first stage; quick: headers of files; full: read them whole"
    )
