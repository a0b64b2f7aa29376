"""A task with its model: what `topwork.build` and `topwork.load` give, for notebooks and scripts.

Training, evaluation and prediction go through the same stages and the same loop as a recipe's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from topwork.errors import TopworkError
from topwork.items import Batch, Json, Prediction, Row
from topwork.saving.parts import TaskParts


class Predictions(list):
    """Predictions of rows in their order, None for rows that were skipped.

    Attributes:
        skipped: [{"row", "column", "cause"}] of every row that was.
    """

    def __init__(self, predictions: Iterable[Prediction | None] = (), skipped: Sequence[dict[str, Json]] = ()) -> None:
        super().__init__(predictions)
        self.skipped = list(skipped)


class TaskModel(TaskParts):
    """A task and its model.

    Attributes:
        task: the Task, with its options and what it learned.
        model: the torch module.
        form: "native", "generic" or "plugin": who made the task head.
        origins: of a loaded model, where its bases came from at first; None for a model that was just built.

    Example:
        >>> work = topwork.load("runs/reviews-1/stages/04-save/model")  # doctest: +SKIP
        >>> work.predict("a generous film")  # doctest: +SKIP
    """

    @classmethod
    def of(cls, parts: TaskParts) -> Self:
        """Return the task model of these parts, such as those of a saved folder."""
        return cls(parts.task, parts.model, parts.plugins, parts.form, parts.origins)

    def train(
        self,
        rows: Any,
        *,
        calibrate: Any = None,
        columns: Mapping[str, str] | None = None,
        seed: int = 0,
        **options: Any,
    ) -> dict[str, Json]:
        """Train on rows.

        Args:
            rows: as of `predict`, with the task's targets.
            calibrate: other rows, for evaluations during the training; by default they are set apart from `rows` where
                an option asks for evaluations.
            columns: the task's column -> the rows' column.
            seed: of the order of rows and everything else that is random.
            options: those of the stage `train` (`topwork list stages train`), and those of `apply`.

        Returns:
            the stage's result: losses, steps, rows that were skipped; see `topwork.StageResult`.

        Example:
            >>> work.train([{"text": "good", "label": "yes"}] * 8, epochs=1)["steps"]  # doctest: +SKIP
        """
        return self.apply("train", {"train": rows, "calibrate": calibrate}, columns=columns, seed=seed, **options)

    def evaluate(self, rows: Any, *, columns: Mapping[str, str] | None = None, **options: Any) -> dict[str, Json]:
        """Return the task's metrics over rows; the result of `apply("evaluate", ...)` has tables and counts too.

        Args:
            rows: as of `predict`, with the task's targets.
            columns: the task's column -> the rows' column.
            options: those of the stage `evaluate`, and those of `apply`. With `on_error="skip"` the metrics have
                `skipped`, the number of rows that were left out, and `skipped_rows`, the causes of the first of them.

        Example:
            >>> work.evaluate(rows)["accuracy"]  # doctest: +SKIP
        """
        result = self.apply("evaluate", {"evaluate": rows}, columns=columns, **options)
        counted = ("skipped", "skipped_rows") if options.get("on_error") == "skip" else ()
        return {**result["metrics"], **{key: result[key] for key in counted}}

    def apply(
        self,
        stage: str,
        rows: Mapping[str, Any],
        /,
        *,
        columns: Mapping[str, str] | None = None,
        seed: int = 0,
        on_error: Literal["raise", "skip"] = "raise",
        run_folder: str | Path | None = None,
        quiet: bool | None = None,
        **options: Any,
    ) -> dict[str, Json]:
        """Run any installed stage on this model, with rows by role.

        Args:
            stage: its name.
            rows: role ("train", "calibrate", "evaluate", "predict") -> rows.
            columns: the task's column -> the rows' column.
            seed: of everything that is random.
            on_error: "skip" leaves out rows that the task cannot use; the result counts them.
            run_folder: where the stage's files go; by default they are dropped.
            quiet: print nothing; by default nothing but progress bars in a notebook.
            options: those of the stage.

        Returns:
            the stage's result; see `topwork.StageResult`.

        Raises:
            UsageError: unknown stage or option.

        Example:
            >>> work.apply("prune_heads", {"calibrate": rows}, share=0.2, random=True)["heads_after"]  # doctest: +SKIP
        """
        from topwork.console import Console
        from topwork.data.checks import check_run
        from topwork.data.options import DataOptions
        from topwork.data.roles import Roles
        from topwork.data.values import rows_from
        from topwork.notebook.bar import in_notebook
        from topwork.process import Process
        from topwork.recipe.recipe import make_stage
        from topwork.runs.run import Run

        made = make_stage(stage, options, self.plugins)
        data = DataOptions(columns=dict(columns or {}), on_error=on_error)
        given = {role: rows_from(value, type(self.task), self.plugins) for role, value in rows.items()}
        roles = Roles(type(self.task), self.plugins, data, given, seed, wanted=made.reads())
        with tempfile.TemporaryDirectory() as temporary:
            root = Path(run_folder) if run_folder is not None else Path(temporary)
            bars = in_notebook() if quiet is None else not quiet
            console, kept = Console(quiet=quiet is not False, bars=bars), run_folder is not None
            run = Run(
                self, roles, root, Process(), console, seed=seed, on_error=on_error, keep_models=kept, save_outside=True
            )
            if made.changes_model:
                check_run(run, made.reads(), data.check)
            with self.plugins.blaming(stage=made.name, task=self.task.name):
                return dict(run.run_stage(made, 0))

    def predict(
        self, rows: Iterable[Row] | Any, *, columns: Mapping[str, str] | None = None, **settings: Any
    ) -> Predictions:
        """Return predictions of rows, in their order, each in the shape in which the Hub's pipeline answers one input.

        The list is one of rows, always: a single row gives a list with one prediction, and a classification of texts a
        list of labels for each row, where the pipeline gives the best label alone for a list of texts. Numbers are
        plain floats, depths arrays of numpy, and `word` of an entity is the text as it is written. Rows with `words`
        have one entry a word. Tasks whose pipeline transformers 5 has dropped answer in the shape that it had.

        Args:
            rows: a data set of `datasets`, or dicts with the task's input columns; a single dict is one row. Also a
                DataFrame, or the path of a table (csv, tsv, json, jsonl, parquet). Where the task has one input: a
                text, a path, an image of PIL, an array or {"array", "sampling_rate"}, which is one row, or a list.
            columns: the task's column -> the rows' column.
            settings: `items` (most items in a batch), `cost`, `on_error`, `precision`, `seed`, `ahead`.

        Returns:
            a list with an entry for every row. With `on_error="skip"` it is None for a row that was left out, and
            `skipped` says why: [{"row", "column", "cause"}].

        Example:
            >>> work.predict("a generous film")  # doctest: +SKIP
        """
        notes = settings.setdefault("skipped", [])
        with self.plugins.blaming(task=self.task.name):
            predicted = self.predictions(rows, columns=columns, **settings)
            by_index = {index: prediction for index, _, prediction in predicted}
        skipped = [note.get("index", note["row"]) for note in notes]
        count = max([*by_index, *skipped], default=-1) + 1
        return Predictions([by_index.get(index) for index in range(count)], notes)

    def predictions(self, rows: Any, *, columns: Mapping[str, str] | None = None, **settings: Any) -> Iterable[tuple]:
        """Yield predictions one by one as (index, row, prediction): nothing is kept, and `rows` may have no end.

        Of rows without a length (a generator, a streaming data set) as many as `ahead` are read before the first is
        predicted, to put texts of similar length together.

        Args:
            rows: as of `predict`.
            columns: the task's column -> the rows' column.
            settings: as of `predict`.
        """
        from topwork.data.columns import RowStream, canonical, is_endless
        from topwork.data.loop import Settings, predict_rows
        from topwork.data.values import rows_from
        from topwork.process import Process

        rows = rows_from(rows, type(self.task), self.plugins)
        if is_endless(rows):
            named: Any = RowStream(rows, type(self.task), columns or {})
        else:
            named = canonical(rows, type(self.task), columns or {}, targets=False, location="rows")
        try:
            chosen = Settings(**settings)
        except TypeError as error:
            raise TopworkError(str(error), place="predict") from error
        return predict_rows(self.task, self.model, named, chosen, Process())

    def loss_batches(
        self, rows: Any, *, columns: Mapping[str, str] | None = None, batch_size: int | None = None, seed: int = 0
    ) -> Iterator[Batch]:
        """Yield batches of whole rows in mode "loss", on the model's device, for `task.row_losses`.

        Args:
            rows: as of `predict`, with the task's targets.
            columns: the task's column -> the rows' column.
            batch_size: most items in a batch; by default the task's own budget.
            seed: for tasks that draw at random.

        Example:
            >>> topwork.importance(  # doctest: +SKIP
            ...     work.model, work.loss_batches(rows), row_losses=work.task.row_losses
            ... )
        """
        from topwork.data.columns import canonical
        from topwork.data.loop import Settings, loss_batches
        from topwork.data.values import rows_from
        from topwork.process import Process

        rows = rows_from(rows, type(self.task), self.plugins)
        named = canonical(rows, type(self.task), columns or {}, targets=True, location="rows")
        settings = Settings(seed=seed)
        settings.items = settings.items if batch_size is None else batch_size
        return loss_batches(self.task, self.model, named, settings, Process.alone())

    def look(self) -> Any:
        """Return the introspection of the model, as `topwork.look` does."""
        return self.plugins.look(self.model)

    def save(self, folder: str | Path) -> Path:
        """Write a model folder: Hub-style, safetensors, with topwork's manifest."""
        from topwork.saving.model_folder import save_folder

        return save_folder(self, Path(folder))

    def to(self, device: Any) -> TaskModel:
        """Move the model to a device."""
        self.model.to(device)
        return self

    def __repr__(self) -> str:
        return f"TaskModel(task={self.task.name!r}, model={type(self.model).__name__}, form={self.form!r})"
