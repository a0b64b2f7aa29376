"""A run: one model, its rows, and the folder in which its stages leave their results."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork.data.loop import evaluate_rows, loss_batches
from topwork.data.loop_settings import Settings
from topwork.errors import CheckpointError, UsageError
from topwork.files import plain, write_json
from topwork.items import Batch, Json

if TYPE_CHECKING:
    from torch import nn

    from topwork.console import Console
    from topwork.data.roles import Roles
    from topwork.runs.process import Process
    from topwork.stage import Stage
    from topwork.task import Task
    from topwork.task_model import TaskModel


#: a folder of this name in a stage's own is dropped as soon as the stage's result is on disk
CHECKPOINTS = "checkpoints"
_DAMAGED = "put it back from a copy, or start the run again"


class Run:
    """What a stage is given.

    Attributes:
        work: the TaskModel; `task` and `model` are its parts, and a stage may assign another `model`.
        root: the run folder; `folder` is the running stage's own inside it.
        process: this process among its peers; only `process.main` writes files.
        seed: the running stage's own seed, from the recipe's seed and the stage's position.
        results: records of the stages that are done: {"stage", "index", "folder", "seconds", "result"}.
        model_folder: what the last `save` stage wrote, or None.
        keep_models: store the model after each stage that changes it, for `resume`.
    """

    def __init__(
        self,
        work: TaskModel,
        roles: Roles,
        root: Path,
        process: Process,
        console: Console,
        *,
        seed: int = 0,
        on_error: Any = "raise",
        name: str = "",
        keep_models: bool = True,
    ) -> None:
        self.work, self.roles, self.root, self.process, self.console = work, roles, root, process, console
        self.base_seed, self.on_error, self.name = seed, on_error, name
        self.keep_models = keep_models
        self.plugins = work.plugins
        self.results: list[dict[str, Json]] = []
        self.seed = seed
        self.folder = root
        self.model_folder: Path | None = None
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
        """The rows of a role ("train", "calibrate", "evaluate", "predict") with the task's column names."""
        rows = self.roles(role)
        for note in self.roles.notes:
            self.say(note)
        self.roles.notes.clear()
        return rows

    def settings(self, **changes: Any) -> Settings:
        """Settings of the loop with the recipe's `on_error` and this stage's seed."""
        return Settings(**{"on_error": self.on_error, "seed": self.seed, **changes})

    def evaluate(self, role: str = "evaluate", limit: int | None = None, **settings: Any) -> dict[str, Json]:
        """The task's metric over the rows of a role, with the model as it is now (masked, pruned ...)."""
        chosen = self.settings(**settings)
        metric = evaluate_rows(self.task, self.model, self.rows(role), chosen, self.process, limit=limit)
        return metric.result()

    def loss_batches(self, role: str, *, limit: int | None = None, batch_size: int | None = None) -> Iterator[Batch]:
        """Whole rows in mode "loss" on the model's device: this process's share. See `topwork.loop.loss_batches`."""
        settings = self.settings(**({"items": batch_size} if batch_size else {}))
        return loss_batches(self.task, self.model, self.rows(role), settings, self.process, limit=limit)

    def say(self, text: str) -> None:
        """A line for the terminal and the log."""
        self.console.say(text)

    def progress(self, values: Iterable[Any], total: int | None = None, label: str = "") -> Iterator[Any]:
        """The values, with a progress bar."""
        return self.console.progress(values, total, label)

    def stage_folder(self, stage: Stage, index: int) -> Path:
        """`stages/01-train` and so on."""
        return self.root / "stages" / f"{index + 1:02d}-{stage.name}"

    def do(self, stage: Stage, index: int) -> dict[str, Json]:
        """Run one stage: its own seed and folder; its result goes to disk and into `results`."""
        from transformers import set_seed

        self.seed = stage_seed(self.base_seed, index)
        self.folder = self.stage_folder(stage, index)
        if self.process.main:
            self.folder.mkdir(parents=True, exist_ok=True)
        self.process.barrier()
        set_seed(self.seed)
        self.model.eval()
        self.plugins.hook.stage_started(run=self, stage=stage, index=index)
        start = time.perf_counter()
        result = plain(stage(self))
        self.model.eval()
        seconds = round(time.perf_counter() - start, 3)
        self._record(stage, index, result, seconds)
        self.plugins.hook.stage_done(run=self, stage=stage, index=index, result=result)
        return result

    def _record(self, stage: Stage, index: int, result: dict[str, Json], seconds: float) -> None:
        folder = self.folder.relative_to(self.root).as_posix()
        record = {"stage": stage.name, "index": index, "folder": folder, "seconds": seconds, "result": result}
        if self.process.main:
            stores = stage.changes_model and self.keep_models
            if stores:
                self._store_model()
            write_json(self.folder / "result.json", {**record, "options": stage.model_dump(mode="json")})
            self._tidy(stores)
        self.process.barrier()
        self.results.append(record)

    def _store_model(self) -> None:
        """Keep the model as it is now for `resume`."""
        from topwork.saving.model_folder import save_folder

        save_folder(self.work, self.folder / "model")

    def _tidy(self, stored: bool) -> None:
        """The stage's result is on disk: its checkpoints are not needed any more, nor, if it stored the model, the
        copies of earlier stages. Not before: a run that is killed here must find one or the other."""
        import shutil

        shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)
        for earlier in self.results if stored else ():
            shutil.rmtree(self.root / earlier["folder"] / "model", ignore_errors=True)

    def recall(self, stage: Stage, index: int) -> bool:
        """Take over the record of a stage that an earlier process finished; False when it did not."""
        file = self.stage_folder(stage, index) / "result.json"
        if not file.is_file():
            return False
        record = read_record(file, "stage", "index", "folder", "seconds", "result")
        record.pop("options", None)
        self.results.append(record)
        if saved := record["result"].get("model_folder"):
            self.model_folder = self.root / saved
        return True


def read_record(file: Path, *needed: str) -> dict[str, Json]:
    """What a run has written about itself or a stage.

    Raises:
        CheckpointError: it is not as topwork writes it.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        missing = [key for key in needed if key not in found]
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"the file is damaged ({error})", place=str(file), hint=_DAMAGED) from error
    if missing:
        raise CheckpointError(f"the file is damaged (it lacks `{missing[0]}`)", place=str(file), hint=_DAMAGED)
    return found


def stage_seed(seed: int, index: int) -> int:
    """The seed of a stage: the same whether the run was interrupted before it or not.

    Raises:
        UsageError: the seed is negative.
    """
    import numpy as np

    if seed < 0:
        raise UsageError(f"a seed is 0 or more, not {seed}", place="seed")

    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0] % (2**31))
