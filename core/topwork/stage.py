"""The contract of a stage: one step of a recipe, such as train, evaluate or prune_heads; and of its result.

What a stage is given is `topwork.Run`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict
from typing_extensions import TypedDict  # which pydantic needs before Python 3.12

from topwork.items import Json

if TYPE_CHECKING:
    from topwork import Run


class RandomBaseline(TypedDict, total=False):
    """Measurements of random choices, beside which the choice of a stage is judged.

    Keys:
        draws: how many random choices were measured.
        role: whose rows they were measured on, such as "evaluate".
        metrics: name -> mean over the draws; None where there is no value.
        each: the metrics of each draw.
        chosen: the metrics of the stage's own choice, measured in the same way.
    """

    draws: int
    role: str
    metrics: dict[str, float | None]
    each: list[dict[str, float | None]]
    chosen: dict[str, float | None]


class Removal(TypedDict, total=False):
    """Parts of the model that a stage took away.

    Keys:
        how: past participle: "pruned", "masked" (they are still there, and do nothing), or another one.
        unit: what is counted, in the plural: "attention heads", "neurons", "layers".
        before, after: how many of them the model had, and how many it has now.
        parameters_before, parameters_after: parameters of the model; left out where their number stays.
        heads: path of an attention layer -> original indices of the attention heads that the stage took away.
        by_layer: [{"path", "unit", "before", "after"}]: how many parts each layer had and has, where they are of
            several units.
    """

    how: str
    unit: str
    before: int
    after: int
    parameters_before: int
    parameters_after: int
    heads: dict[str, list[int]]
    by_layer: list[dict[str, Any]]


class PointMap(TypedDict, total=False):
    """Points in a plane whose axes have one unit, such as a projection of distances.

    Keys:
        title: over the map.
        note: what nearness means, and what the names and groups are.
        points: [{"x", "y", "name", "short", "group", "path", "head"}]: `short` stands beside the point, `group` chooses
            its colour; a point that is an attention head has the `path` of its layer and its original index, `head`.
    """

    title: str
    note: str
    points: list[dict[str, Any]]


class HeadMap(TypedDict, total=False):
    """A map of layers x attention heads, drawn of one list in each entry of `layers`.

    Keys:
        key: of the list; it has a value for each original attention head, or for each of `kept`; None where there is
            no value.
        title: over the map.
        note: the unit, and how to read it.
        fitted: begin the scale of colours at the smallest value instead of 0.
        crossed: cross out the attention heads that later stages of the run took away.
    """

    key: str
    title: str
    note: str
    fitted: bool
    crossed: bool


class EqualityCheck(TypedDict, total=False):
    """Comparison of the outputs of two models that must be equal, such as masked and pruned.

    Keys:
        difference: the largest that was measured.
        tolerance: the largest that is allowed.
    """

    difference: float
    tolerance: float


class StageResult(TypedDict, total=False):
    """Result of a stage: JSON with those of these keys that apply, beside keys of its own.

    The page of a run is made of these keys alone: it never looks at the name of a stage, a metric or an option. All
    other keys are shown as plain numbers and tables. On the page, in this order:

    - `primary` of the first stage with `measures: "model"` is the metric of the headline.
    - A stage with `measures: "model"` and that metric in `metrics` becomes a card with its value. The card is called
      "Evaluation", "Before pruning", "After pruning", "After recovery" ... by the `change` of the stages around it.
    - A stage with `removal` becomes a card that says how many of how many parts were taken away.
    - A stage with `random_baseline` adds the card "As many at random".

    Keys:
        metrics: name -> number: what was measured; None where there is no value.
        primary: the metric to choose by, one of `metrics`.
        higher_is_better: the direction of `primary`.
        measures: "model" when `metrics` are those of the whole model as it is now; anything else, or nothing, for
            those of a probe, of another model, of a part of the model.
        role: whose rows `metrics` were measured on: "evaluate", "calibrate", "train".
        rows: how many rows were used.
        skipped, skipped_rows: rows that were left out, how many and the first of them: {"row", "column", "cause"}.
        change: a noun for what the stage did to the model: "training", "pruning", "masking", "quantisation" ...;
            left out when the model is as before.
        removal: which parts of the model were taken away.
        random_baseline: what random choices of the same size gave.
        check: that the changed model computes what it must.
        layers: an entry for each attention layer: {"path", "number", "side", "kind", "heads", "kept"} and lists with
            a value for each attention head. `heads` is their original number, `kept` the original indices of those
            that are still there.
        head_maps: which lists of `layers` are drawn, and how.
        history: of a training, in the order of the steps: {"step", "loss", "learning_rate", "eval_loss",
            "eval_<metric>", "teacher_loss"}, each where it was measured. `eval_` are measured on the calibrate rows.
        curves: [{"title", "x", "series": {name: [[x, y], ...]}, "bands": {name: [[x, lowest, highest], ...]}}]; a
            band is an area behind the line of that name, such as the range of random choices.
        point_maps: points in a plane.
        relevance: of the positions of some rows, by several methods: [{"row", "axis", "methods": {name: [values]}}].
            `row` is an index in the rows of `role`; `axis` describes positions as `axes` of attention.json does, and a
            method has a value for each of its shown positions.
        tables: title -> list of dicts, or {"columns", "rows"}, or a confusion matrix {"labels", "counts"} with a row
            of counts for each true label.
        model_folder: where a model was saved, relative to the run folder when it lies inside.
        page: file that the stage wrote about the run; a page leaves such stages out.

    Files beside result.json that are drawn as well:

    - `pictures.json`, a list of {"row", "caption", "image", "text", "audio"} (see `topwork.Picture`; `image` and
      `audio` are paths in the stage's folder).
    - `predictions.json`, {"order", "rows", "predictions": [{"row", "index", "caption", "text", "badness", "facts",
      "picture"}]}: `order` says what they are sorted by, `rows` how many there were, `text` is the beginning of the
      row's text, `facts` are those of `topwork.Picture`, `picture` is an index in `pictures.json`.
    - `attention.json`, {"rows": [{"row", "image", "grid", "names", "layers": [{"number", "group", "weights"}]}]}. Its
      rows may have {"caption", "audio", "spectrogram", "axes", "heads", "heads_left_out"} as well, by which single
      attention heads are chosen on the page; see `topwork_lens.head_weights.pack_row`.

    Example:
        def __call__(self, run: Run) -> StageResult:
            accuracy = probe_accuracy(run)
            return {"metrics": {"accuracy": accuracy}, "primary": "accuracy", "measures": "probe", "role": "evaluate"}
    """

    metrics: dict[str, float | None]
    primary: str
    higher_is_better: bool
    measures: str
    role: str
    rows: int
    skipped: int
    skipped_rows: list[dict[str, Any]]
    change: str
    removal: Removal
    random_baseline: RandomBaseline
    check: EqualityCheck | None
    layers: list[dict[str, Any]]
    head_maps: list[HeadMap]
    history: list[dict[str, Any]]
    curves: list[dict[str, Any]]
    point_maps: list[PointMap]
    relevance: list[dict[str, Any]]
    tables: dict[str, Any]
    model_folder: str
    page: str


class Stage(BaseModel):
    """A pydantic model whose fields are the options of a stage in a recipe; unknown keys are errors.

    Class attributes:
        name: as in a recipe.
        changes_model: True when the model is another one afterwards: the run then stores it, and `resume` starts there.
        columns_shown: keys of the result that stand in the summary table, in this order; the result's other plain
            numbers are kept in its JSON only.

    Example:
        class CountRows(Stage):
            name = "count_rows"
            role: str = Field("evaluate", description="whose rows")

            def reads(self):
                return (self.role,)

            def __call__(self, run):
                return {"rows": len(run.rows(self.role))}
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    name: ClassVar[str]
    changes_model: ClassVar[bool] = False
    columns_shown: ClassVar[tuple[str, ...]] = ()

    def reads(self) -> tuple[str, ...]:
        """Return the roles of the rows that the stage needs with these options.

        Roles are "train", "calibrate", "evaluate" and "predict".
        """
        return ()

    def precheck(self, before: Sequence[Stage]) -> str | None:
        """Return what would end the run in this stage and shows already in the recipe; None if nothing does.

        Args:
            before: the stages that come before it in the recipe.
        """
        return None

    def model_before(self, before: Sequence[Stage]) -> int | None:
        """Return the index of an earlier stage if this one needs the model as it was before that stage; else None.

        The run keeps that model; `run.earlier_model` is its folder while this stage runs.

        Args:
            before: the stages that come before it in the recipe.
        """
        return None

    def precheck_model(self, run: Run) -> str | None:
        """Return what of the model, as it is before the first stage, would end the run in this stage; else None.

        Args:
            run: before its first stage, or before the first that is not done yet.
        """
        return None

    @abstractmethod
    def __call__(self, run: Run) -> dict[str, Json]:
        """Run the stage.

        On several processes every process calls it, and only `run.process.main` writes files. A folder `checkpoints`
        inside the stage's own is scratch: it is removed once the result is on disk.

        Args:
            run: has `.task`, `.model`, `.rows(role)`, `.folder` (this stage's own), `.process`, `.seed`,
                `.progress(...)` and `.results` (what the stages before it returned).

        Returns:
            JSON for result.json in the stage's folder, with the keys of `StageResult` that apply, and keys of its own.
            Plain numbers stand in the summary table.
        """
