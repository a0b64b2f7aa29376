"""`Run`: what a stage is given, namely one model, its rows, and the folder in which stages leave their results."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork.data.loop import Settings, evaluate_rows, loss_batches, predict_rows
from topwork.deprecation import warn_renamed
from topwork.errors import CheckpointError, PluginError, UsageError
from topwork.files import plain, remove_folder
from topwork.items import Batch, Json, Prediction, Row
from topwork.plugins.culprits import brought_by
from topwork.plugins.loading import ChangedFolder, keeping_folder, safe_text
from topwork.process import is_sharded
from topwork.runs.outputs import CHECKPOINTS, describe_outputs
from topwork.runs.records import OUTPUTS, RESULT, RUN, note_inputs, read_record, stage_folder, stage_seed, write_record
from topwork.saving.parts import with_options

if TYPE_CHECKING:
    from torch import nn

    from topwork.console import Console
    from topwork.data.options import RowsOptions
    from topwork.data.roles import Roles
    from topwork.metric import Metric
    from topwork.notebook.views import Shown
    from topwork.process import Process
    from topwork.saving.model_card import CardFacts
    from topwork.saving.parts import TaskParts
    from topwork.stage import Stage, StageResult
    from topwork.task import Task


class Run:
    """State of a run, as a stage receives it.

    Attributes:
        work: the TaskModel; `task` and `model` are its parts, and a stage may assign another `model`.
        root: the run folder; `folder` is the running stage's own inside it.
        process: this process among its peers; only `process.main` writes files.
        seed: the running stage's own seed, from the recipe's seed and the stage's position.
        results: records of the stages that are done: {"stage", "index", "folder", "seconds", "result"}.
        model_folder: what the last `save` stage wrote, or None.
        earlier_model: folder of the model that the running stage asks for by `Stage.model_before`, or None.
        keep_models: store the model after each stage that changes it, for `resume`.
        save_outside: `save` may write to a folder outside the run folder.
    """

    def __init__(
        self,
        work: TaskParts,
        roles: Roles,
        root: Path,
        process: Process,
        console: Console,
        *,
        seed: int = 0,
        on_error: Any = "raise",
        name: str = "",
        keep_models: bool = True,
        save_outside: bool = False,
    ) -> None:
        self.work, self.roles, self.root, self.process, self.console = work, roles, root, process, console
        self.base_seed, self.on_error, self.name = seed, on_error, name
        self.keep_models, self.save_outside = keep_models, save_outside
        self._has_records = (root / RUN).is_file()
        self.plugins = work.plugins
        self.results: list[dict[str, Json]] = []
        self.seed = seed
        self.folder = root
        self.model_folder: Path | None = None
        self.earlier_model: Path | None = None
        work.model.to(process.device)

    @property
    def task(self) -> Task:
        """The task, with its options and what it has learned."""
        return self.work.task

    @property
    def model(self) -> nn.Module:
        """The model, on `device`; a stage that makes another one assigns it here."""
        return self.work.model

    @model.setter
    def model(self, model: nn.Module) -> None:
        self.work.model = model

    @property
    def device(self) -> Any:
        """The torch device of this process."""
        return self.process.device

    def rows(self, role: str) -> Any:
        """Return the rows of a role ("train", "calibrate", "evaluate", "predict") with the task's column names."""
        return self._noted(self.roles(role))

    def read_rows(self, options: RowsOptions, name: str) -> Any:
        """Return rows of a stage's own, as their source has them, with columns that the task may not know.

        Args:
            options: where they come from.
            name: what they are, for the log and for errors.
        """
        return self._noted(self.roles.read(options, name))

    def _noted(self, rows: Any) -> Any:
        """Write what was noted while rows were read into the log."""
        for note in self.roles.notes:
            self.say(note)
        self.roles.notes.clear()
        return rows

    def column(self, role: str, name: str) -> list[Any]:
        """Return the cells of a column of the rows of a role; the source may have columns that the task does not."""
        return self.roles.column(role, name)

    def loaded_rows(self, most: int = 2) -> list[Row]:
        """Return a few rows with targets of a role that was read already; none when there is no such role."""
        return self.roles.loaded(("train", "calibrate", "evaluate"), most)

    def settings(self, **changes: Any) -> Settings:
        """Return settings of the loop with the recipe's `on_error` and this stage's seed."""
        return Settings(**{"on_error": self.on_error, "seed": self.seed, **changes})

    def evaluate(self, role: str = "evaluate", limit: int | None = None, **settings: Any) -> dict[str, Json]:
        """Return the task's metric over the rows of a role, with the model as it is now (masked, pruned ...).

        Args:
            role: whose rows.
            limit: use the first rows only.
            settings: as of `settings`.

        Example:
            accuracy = run.evaluate("calibrate", limit=100)["accuracy"]
        """
        return self.metric(role, limit, **settings).result()

    def metric(self, role: str = "evaluate", limit: int | None = None, **settings: Any) -> Metric:
        """Return the task's metric after the rows of a role; arguments as of `evaluate`."""
        chosen = self.settings(**settings)
        return evaluate_rows(self.task, self.model, self.rows(role), chosen, self.process, limit=limit)

    def change_options(self, **changes: Any) -> None:
        """Give the task other options, which the model folder keeps; the stage must say `changes_model`."""
        self.work.task = with_options(self.task, **changes)

    def predictions(
        self, role: str = "evaluate", limit: int | None = None, **settings: Any
    ) -> Iterator[tuple[int, Row, Prediction]]:
        """Yield (index, row, prediction) of this process's share of a role's rows, in order, by the model as it is."""
        chosen = self.settings(**settings)
        yield from predict_rows(self.task, self.model, self.rows(role), chosen, self.process, limit=limit)

    def loss_batches(self, role: str, *, limit: int | None = None, batch_size: int | None = None) -> Iterator[Batch]:
        """Yield batches of whole rows in mode "loss", on the model's device: this process's share of a role's rows.

        Args:
            role: whose rows.
            limit: use the first rows only.
            batch_size: most items in a batch; by default the task's own budget.
        """
        settings = self.settings(**({"items": batch_size} if batch_size else {}))
        return loss_batches(self.task, self.model, self.rows(role), settings, self.process, limit=limit)

    def show(self, height: int = 800) -> Shown:
        """Return the page of the run for a notebook: the stages so far.

        Args:
            height: of its frame in pixels.
        """
        from topwork.notebook.views import show

        return show("run", self.root, self.plugins, height)

    def say(self, text: str) -> None:
        """Write a line to the terminal and the log."""
        self.console.say(text)

    def progress(self, values: Iterable[Any], total: int | None = None, label: str = "") -> Iterator[Any]:
        """Yield the values, with a progress bar."""
        return self.console.progress(values, total, label)

    def stage_folder(self, stage: Stage, index: int) -> Path:
        """Return the folder of a stage: `stages/01-train` and so on."""
        return stage_folder(self.root, stage, index)

    def card(self) -> CardFacts:
        """Return what the run knows for the card of its model as it is now."""
        from topwork.runs.card import card_facts

        return card_facts(self.results, self.roles.data, self.root, self.base_seed)

    def output_folder(self, name: str) -> tuple[Path, bool]:
        """Return a folder that a stage was told to write to, and whether it lies in the run folder.

        Args:
            name: as in the recipe, relative to the run folder.

        Raises:
            UsageError: it lies outside and `save_outside` is not allowed, or where the results of stages lie.
        """
        target = self.root / Path(name).expanduser()
        root = self.root.resolve()
        resolved = target.resolve()
        if resolved != root and resolved.is_relative_to(root):
            inside = resolved.relative_to(root)
            if inside.parts[0] == "stages":
                raise UsageError("`stages` holds the results of the run", place="folder", hint="name another folder")
            return self.root / inside, True
        if not self.save_outside:
            raise UsageError(
                f"`{name}` lies outside the run folder",
                place="folder",
                hint="name a folder inside it, or allow it: `topwork run --save-outside`",
            )
        return target, False

    # ------------------------------------------------------------------ stages

    def run_stage(self, stage: Stage, index: int, inputs: Json = None) -> StageResult:
        """Run one stage with its own seed and folder; its result goes to disk and into `results`.

        Args:
            stage: the stage with its options.
            index: its position in the run, from 0.
            inputs: what its result depends on; `resume` compares it with the recipe.

        Raises:
            CheckpointError: the run folder was removed in the meantime.
        """
        from transformers import set_seed

        if is_sharded(self.model):
            raise UsageError(
                "the parameters of the model are divided among the processes, and the stage needs them whole",
                place=f"stage {stage.name}",
                hint="train with DDP: leave FSDP and DeepSpeed out of the launcher's flags and config",
            )
        self.seed = stage_seed(self.base_seed, index)
        self.folder = self.stage_folder(stage, index)
        self._check_folder()
        if self.process.main:
            self.folder.mkdir(parents=True, exist_ok=True)
            if inputs is not None:
                note_inputs(self.root, self.folder, inputs)
        self.process.barrier()
        set_seed(self.seed)
        self.model.eval()
        self.plugins.hook.stage_started(run=self, stage=stage, index=index)
        start = time.perf_counter()
        try:
            with keeping_folder():
                result = self._checked(stage, stage(self))
        except ChangedFolder as error:
            raise self._broken(stage, f"the stage {error}", "let it go back, or open files by whole paths") from None
        self.model.eval()
        seconds = round(time.perf_counter() - start, 3)
        self._check_folder()
        self._record(stage, index, result, seconds)
        self.plugins.hook.stage_done(run=self, stage=stage, index=index, result=result)
        return result

    def _checked(self, stage: Stage, result: Any) -> StageResult:
        """Return a stage's result as plain JSON values.

        Raises:
            PluginError: it is no dict, or holds what is not JSON; or the stage left no model.
        """
        if not callable(getattr(self.model, "named_parameters", None)):
            message = f"the stage left no torch module in `run.model`, but {type(self.model).__name__}"
            raise self._broken(stage, message, "assign a module, or leave the model alone")
        if not isinstance(result, Mapping):
            message = f"the stage must return a dict of JSON values, it returned {type(result).__name__}"
            raise self._broken(stage, message, "return {} when there is nothing to say")
        try:
            return plain(result)
        except (TypeError, ValueError, RecursionError) as error:
            cause = "values within each other without end" if isinstance(error, RecursionError) else safe_text(error)
            message = f"the stage must return a dict of JSON values, it returned other ones ({cause})"
            raise self._broken(stage, message, "return plain numbers, texts and lists") from error

    def _broken(self, stage: Stage, message: str, hint: str) -> PluginError:
        """Return the error for a stage that breaks its contract; it names the plugin that brought the stage."""
        owners = brought_by(self.plugins.foreign(stage=stage.name))
        return PluginError(message, place=f"stage {stage.name}", hint="; ".join([hint, *owners]))

    @contextmanager
    def nested(self, name: str) -> Iterator[Path]:
        """Run other stages inside the running one, in a folder of their own, which is removed afterwards.

        Args:
            name: of the folder, inside that of the running stage.

        Example:
            with run.nested("recover"):
                result = Train(epochs=1)(run)
        """
        outer = self.folder
        inner = outer / name
        if self.process.main:
            remove_folder(inner)
            inner.mkdir(parents=True, exist_ok=True)
        self.process.barrier()
        self.folder = inner
        try:
            yield inner
        finally:
            self.folder = outer
            self.model.eval()
            self.process.barrier()
            if self.process.main:
                remove_folder(inner)

    def _check_folder(self) -> None:
        """Refuse to go on in a run folder that somebody has removed: the results would have no recipe."""
        if self._has_records and not (self.root / RUN).is_file():
            raise CheckpointError(
                "the run folder was removed or moved while the run was going on",
                place=str(self.root),
                hint="start the run again, and leave its folder alone until it ends",
            )

    def _record(self, stage: Stage, index: int, result: StageResult, seconds: float) -> None:
        folder = self.folder.relative_to(self.root).as_posix()
        record = {"stage": stage.name, "index": index, "folder": folder, "seconds": seconds, "result": result}
        if self.process.main:
            stores = stage.changes_model and self.keep_models
            if stores:
                self._store_model()
            options, outputs = stage.model_dump(mode="json"), describe_outputs(self.folder)
            write_record(self.folder / RESULT, {**record, "options": options, OUTPUTS: outputs})
            self._tidy(stores)
        self.process.barrier()
        self.results.append(record)

    def _store_model(self) -> None:
        """Keep the model as it is now for `resume`."""
        from topwork.saving.model_folder import save_folder

        save_folder(self.work, self.folder / "model", rows=self.loaded_rows())

    def _tidy(self, stored: bool) -> None:
        """Remove what the result on disk makes superfluous: checkpoints, and the models that earlier stages stored.

        Not before: a run that is killed here must find one or the other.
        """
        remove_folder(self.folder / CHECKPOINTS)
        for earlier in self.results if stored else ():
            remove_folder(self.root / earlier["folder"] / "model")

    def drop_spare_models(self, stages: Sequence[Stage]) -> None:
        """Remove models stored for `resume` where a `save` stage wrote the same model into the run folder."""
        changed = [index for index, stage in enumerate(stages) if stage.changes_model]
        saved = [record["index"] for record in self.results if _is_inside(record["result"].get("model_folder"))]
        if self.process.main and changed and saved and max(saved) > changed[-1]:
            for record in self.results:
                remove_folder(self.root / record["folder"] / "model")

    def restore_record(self, stage: Stage, index: int) -> bool:
        """Take over the record of a stage that an earlier process finished; False when it did not."""
        file = self.stage_folder(stage, index) / RESULT
        if not file.is_file():
            return False
        record = read_record(file, "stage", "index", "folder", "seconds", "result")
        for key in ("options", OUTPUTS):
            record.pop(key, None)
        self.results.append(record)
        if self.process.main:  # a process that was killed right behind its result has not done it
            remove_folder(file.parent / CHECKPOINTS)
        if saved := record["result"].get("model_folder"):
            self.model_folder = self.root / saved
        return True

    def do(self, stage: Stage, index: int) -> StageResult:
        """Run a stage: the deprecated name of `run_stage`."""
        warn_renamed("Run.do", "Run.run_stage")
        return self.run_stage(stage, index)

    def recall(self, stage: Stage, index: int) -> bool:
        """Restore a record: the deprecated name of `restore_record`."""
        warn_renamed("Run.recall", "Run.restore_record")
        return self.restore_record(stage, index)


def _is_inside(folder: Json) -> bool:
    """Return whether a result's `model_folder` lies in the run folder: it is written relative to it then."""
    return isinstance(folder, str) and not Path(folder).is_absolute()
