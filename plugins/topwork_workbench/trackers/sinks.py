"""Sinks: one thin class a tracking library, imported when it is made. Entry point: `SINKS`."""

from __future__ import annotations

import json
import secrets
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topwork import write_json
from topwork_workbench.trackers.content import markdown

if TYPE_CHECKING:
    from topwork import Json, Run


#: file in the run folder: name of a tracker -> the name of this run there, for a run that is resumed
_IDS = "trackers.json"


class Sink(ABC):
    """Receiver of numbers, texts and images.

    Args:
        run: whose name and folder the library is told.

    Raises:
        ImportError: the library is not installed.
    """

    @abstractmethod
    def __init__(self, run: Run) -> None: ...

    @abstractmethod
    def scalar(self, name: str, number: float, step: int) -> None:
        """Write one number of a curve.

        Args:
            name: of the curve, `<stage>/<number>`.
            number: its value.
            step: optimizer steps of a training, or the position of a stage.
        """

    @abstractmethod
    def text(self, name: str, text: str) -> None:
        """Write a text in Markdown."""

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Json]]) -> None:
        """Write a table; in Markdown where the library has no tables of its own."""
        self.text(name, markdown(columns, rows))

    @abstractmethod
    def image(self, name: str, file: Path, caption: str) -> None:
        """Write an image file with a line about it."""

    @abstractmethod
    def close(self, failed: bool) -> None:
        """Write what is buffered; say whether the run has failed."""


class TensorBoardSink(Sink):
    """Event files in `tensorboard` inside the run folder; a resumed run appends a file."""

    def __init__(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(log_dir=str(run.root / "tensorboard"))

    def scalar(self, name: str, number: float, step: int) -> None:
        """Write one number of a curve."""
        self.writer.add_scalar(name, number, step)

    def text(self, name: str, text: str) -> None:
        """Write a text in Markdown."""
        self.writer.add_text(name, text)

    def image(self, name: str, file: Path, caption: str) -> None:
        """Write an image file, and its line as a text of the same name."""
        import numpy
        from PIL import Image

        with Image.open(file) as image:
            self.writer.add_image(name, numpy.asarray(image.convert("RGB")), dataformats="HWC")
        if caption:
            self.writer.add_text(name, caption)

    def close(self, failed: bool) -> None:
        """Write what is buffered, and end."""
        self.writer.close()


class _RunSink(Sink):
    """Libraries with `init`, `log`, `finish` in the form of Weights & Biases.

    Their steps must rise over a whole run; the steps of trainings start anew. So the step is one of the numbers.
    """

    module: Any

    def scalar(self, name: str, number: float, step: int) -> None:
        """Write one number of a curve."""
        self.module.log({name: number, f"{name.partition('/')[0]}/step": step})

    def text(self, name: str, text: str) -> None:
        """Write a text in Markdown."""
        self.module.log({name: self._text(text)})

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Json]]) -> None:
        """Write a table of texts and numbers."""
        self.module.log({name: self._table([str(column) for column in columns], [_plain(row) for row in rows])})

    @abstractmethod
    def _table(self, columns: list[str], rows: list[list[Json]]) -> Any: ...

    def image(self, name: str, file: Path, caption: str) -> None:
        """Write an image file with its line."""
        self.module.log({name: self.module.Image(str(file), caption=caption or None)})

    def _text(self, text: str) -> Any:
        return text


class WandbSink(_RunSink):
    """Weights & Biases; files lie in the run folder, WANDB_MODE and WANDB_PROJECT count."""

    def __init__(self, run: Run) -> None:
        import wandb

        self.module = wandb
        kept = _kept_id(run, "wandb")  # a resumed run goes on in the same curves
        wandb.init(id=kept, resume="allow", name=run.root.name, dir=str(run.root), group=run.name)

    def _table(self, columns: list[str], rows: list[list[Json]]) -> Any:
        return self.module.Table(columns=columns, data=rows, allow_mixed_types=True)

    def _text(self, text: str) -> Any:
        import html

        return self.module.Html(f"<pre>{html.escape(text)}</pre>")

    def close(self, failed: bool) -> None:
        """Write what is buffered, and end."""
        self.module.finish(exit_code=int(failed))


class TrackioSink(_RunSink):
    """Trackio: a local database in its own cache folder (TRACKIO_DIR); `trackio show` opens the dashboard."""

    def __init__(self, run: Run) -> None:
        import trackio

        self.module = trackio
        trackio.init(project=run.name or "topwork", name=_kept_id(run, "trackio"), resume="allow")

    def _table(self, columns: list[str], rows: list[list[Json]]) -> Any:
        import pandas

        return self.module.Table(dataframe=pandas.DataFrame(rows, columns=columns).astype(str))

    def _text(self, text: str) -> Any:
        return self.module.Markdown(text)

    def close(self, failed: bool) -> None:
        """Write what is buffered, and end."""
        self.module.finish()


class MlflowSink(Sink):
    """MLflow, by MLFLOW_TRACKING_URI; the experiment is the recipe's name, or MLFLOW_EXPERIMENT_NAME."""

    def __init__(self, run: Run) -> None:
        import os

        import mlflow

        self.mlflow: Any = mlflow
        if "MLFLOW_EXPERIMENT_NAME" not in os.environ:
            mlflow.set_experiment(run.name or "topwork")
        file = run.root / _IDS
        known = _ids(file).get("mlflow")
        started = mlflow.start_run(run_id=known, run_name=run.root.name)
        write_json(file, {**_ids(file), "mlflow": started.info.run_id})

    def scalar(self, name: str, number: float, step: int) -> None:
        """Write one number of a curve."""
        self.mlflow.log_metric(name, number, step=step)

    def text(self, name: str, text: str) -> None:
        """Write a text in Markdown."""
        self.mlflow.log_text(text, f"{name}.md")

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Json]]) -> None:
        """Write a table of texts and numbers."""
        plain = [_plain(row) for row in rows]
        data = {str(column): [row[index] for row in plain] for index, column in enumerate(columns)}
        self.mlflow.log_table(data, f"{name}.json")

    def image(self, name: str, file: Path, caption: str) -> None:
        """Write an image file."""
        self.mlflow.log_artifact(str(file), artifact_path=name.rpartition("/")[0])

    def close(self, failed: bool) -> None:
        """Write what is buffered, and end."""
        self.mlflow.end_run(status="FAILED" if failed else "FINISHED")


def _ids(file: Path) -> dict[str, str]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _kept_id(run: Run, tracker: str) -> str:
    """Return the name of a run in a library: that of before when the run is resumed, else a new one."""
    file = run.root / _IDS
    known = _ids(file)
    if tracker not in known:
        known[tracker] = f"{run.root.name}-{secrets.token_hex(4)}"
        write_json(file, known)
    return known[tracker]


def _plain(row: Sequence[Json]) -> list[Json]:
    return [value if isinstance(value, str | int | float) else "" if value is None else str(value) for value in row]


#: name of a tracker -> its sink
SINKS: dict[str, type[Sink]] = {
    "tensorboard": TensorBoardSink,
    "trackio": TrackioSink,
    "wandb": WandbSink,
    "mlflow": MlflowSink,
}
