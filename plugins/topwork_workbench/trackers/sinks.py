"""Sinks: one thin class a tracking library, imported when it is made. Entry point: `SINKS`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from topwork import Run


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

    @abstractmethod
    def image(self, name: str, file: Path) -> None:
        """Write an image file."""

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

    def image(self, name: str, file: Path) -> None:
        """Write an image file."""
        import numpy
        from PIL import Image

        with Image.open(file) as image:
            self.writer.add_image(name, numpy.asarray(image.convert("RGB")), dataformats="HWC")

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

    def image(self, name: str, file: Path) -> None:
        """Write an image file."""
        self.module.log({name: self.module.Image(str(file))})

    def _text(self, text: str) -> Any:
        return text


class WandbSink(_RunSink):
    """Weights & Biases; files lie in the run folder, WANDB_MODE and WANDB_PROJECT count."""

    def __init__(self, run: Run) -> None:
        import wandb

        self.module = wandb
        wandb.init(name=run.root.name, dir=str(run.root), group=run.name)

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
        trackio.init(project=run.name or "topwork", name=run.root.name)

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
        mlflow.start_run(run_name=run.root.name)

    def scalar(self, name: str, number: float, step: int) -> None:
        """Write one number of a curve."""
        self.mlflow.log_metric(name, number, step=step)

    def text(self, name: str, text: str) -> None:
        """Write a text in Markdown."""
        self.mlflow.log_text(text, f"{name}.md")

    def image(self, name: str, file: Path) -> None:
        """Write an image file."""
        self.mlflow.log_artifact(str(file), artifact_path=name.rpartition("/")[0])

    def close(self, failed: bool) -> None:
        """Write what is buffered, and end."""
        self.mlflow.end_run(status="FAILED" if failed else "FINISHED")


#: name of a tracker -> its sink
SINKS: dict[str, type[Sink]] = {
    "tensorboard": TensorBoardSink,
    "trackio": TrackioSink,
    "wandb": WandbSink,
    "mlflow": MlflowSink,
}
