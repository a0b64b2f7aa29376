"""Hooks of the workbench. Everything heavy is imported when a hook is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from topwork import Declaration, hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

    from topwork import Json, Run

TRACKERS = {
    "tensorboard": "Curves, metrics, tables and images in the run folder's `tensorboard` (extra `tensorboard`).",
    "trackio": "The same in a local trackio dashboard (extra `trackio`).",
    "wandb": "The same in Weights & Biases; WANDB_MODE=offline keeps it local (extra `wandb`).",
    "mlflow": "The same in MLflow, by MLFLOW_TRACKING_URI (extra `mlflow`).",
}


@hookimpl
def register_commands() -> list[Declaration]:
    """Declare the commands `sweep`, `export`, `serve` and `push`."""
    return [
        Declaration("sweep", "topwork_workbench.sweep.command:sweep"),
        Declaration("export", "topwork_workbench.export.command:export"),
        Declaration("serve", "topwork_workbench.serving.command:serve"),
        Declaration("push", "topwork_workbench.hub.command:push"),
    ]


@hookimpl
def load_program(folder: Path, program: Mapping[str, Json], model: nn.Module, trusted: bool) -> nn.Module | None:
    """Run the programs that the stage `export` writes."""
    from topwork_workbench.export.running import open_program, opens

    return open_program(folder, program, model, trusted=trusted) if opens(program) else None


@hookimpl
def register_stages() -> list[Declaration]:
    """Declare the stages `load_adapter`, `export`, `push` and `choose_thresholds`."""
    loads = (
        "Put an adapter that `train: {lora: {save: adapter}}` kept on the model that it was trained on, and merge it."
    )
    pushes = "Say what an upload of the saved model to the Hub does; with `yes: true`, do it."
    exports = "Write the model as a program (ONNX, torch.export), and compare it with the model on rows of the run."
    chooses = (
        "Choose the scores from which on something counts as predicted, on calibrate rows; the model folder keeps them."
    )
    return [
        Declaration("load_adapter", "topwork_workbench.lora.stage:LoadAdapter", loads),
        Declaration("export", "topwork_workbench.export.stage:Export", exports),
        Declaration("push", "topwork_workbench.hub.stage:Push", pushes),
        Declaration("choose_thresholds", "topwork_workbench.thresholds:ChooseThresholds", chooses),
    ]


@hookimpl
def adapt_model(run: Run, options: Any, head: set[str], batch: Any) -> Any:
    """Put LoRA on the model of a training."""
    from topwork_workbench.lora.layers import Lora

    return Lora(run, options, head, batch)


@hookimpl
def register_trackers() -> Mapping[str, str]:
    """Declare the trackers of well-kept libraries."""
    return TRACKERS


@hookimpl
def make_tracker(name: str, run: Run) -> Any | None:
    """Make a tracker of this plugin."""
    if name not in TRACKERS:
        return None
    from topwork_workbench.trackers.tracker import make

    return make(name, run)
