"""The stage `save`: a model folder that plain transformers loads when it can, and topwork always."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from topwork.items import Json
from topwork.saving.model_folder import is_plain, save_folder
from topwork.stage import Stage

if TYPE_CHECKING:
    from topwork.runs.run import Run


class Save(Stage):
    """Write the model folder."""

    name: ClassVar[str] = "save"

    folder: str | None = Field(None, description="where; by default `model` in the run folder")

    def __call__(self, run: Run) -> dict[str, Json]:
        target = Path(self.folder) if self.folder is not None else run.root / "model"
        if run.process.main:
            save_folder(run.work, target, last_metrics(run))
        run.process.barrier()
        run.model_folder = target
        file = "model.safetensors" if is_plain(run.work) else "topwork.safetensors"
        size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
        # relative to the run folder, which may be moved; what was asked for elsewhere stays there
        said = "model" if self.folder is None else str(target.absolute())
        return {"model_folder": said, "weights": file, "megabytes": round(size / 1e6, 3)}


def last_metrics(run: Run) -> dict[str, float]:
    """The metrics of the last evaluation of the run, for the model card."""
    for record in reversed(run.results):
        metrics = record["result"].get("metrics")
        if metrics:
            return {key: value for key, value in metrics.items() if isinstance(value, int | float)}
    return {}
