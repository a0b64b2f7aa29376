"""Callback of a training: `Watch` freezes by epoch, shows progress, logs, and stops on a bad loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from topwork.console import Bar
from topwork.errors import TopworkError
from topwork.system.signals import requests

if TYPE_CHECKING:
    from topwork.runs.run import Run
    from topwork.training.freezing import Freezing
    from topwork.training.options import TrainOptions


class Watch(TrainerCallback):
    """Freezing by epoch, the progress bar, and a stop when the loss is no number any more.

    Attributes:
        stopped: all processes know that a signal ends the run after this step.
    """

    def __init__(self, stage: TrainOptions, run: Run, freezing: Freezing) -> None:
        self.stage, self.run, self.freezing = stage, run, freezing
        self.bar: Bar | None = None
        self.stopped = False
        self._late_save = False

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Thaw what is trained from this epoch on."""
        self.freezing.at(int(state.epoch or 0))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for the checkpoint that waited for the epoch's evaluation."""
        control.should_save = control.should_save or self._late_save
        self._late_save = False
        self._log_with(control)

    def _log_with(self, control: Any) -> None:
        # a checkpoint then holds the whole history of the loss, and no loss goes unseen at the end
        control.should_log = control.should_log or control.should_save or control.should_training_stop

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show progress, and ask for a checkpoint where a signal ends the run."""
        self.stopped = self.is_stopped()
        if self.stopped:
            control.should_save = True  # `_save_checkpoint` ends the run
        if control.should_save and args.eval_strategy == "epoch" and float(state.epoch).is_integer():
            # the epoch's evaluation comes first: who goes on from this checkpoint would otherwise miss it
            control.should_save, self._late_save = False, True
        self._log_with(control)
        if self.bar is None:
            self.bar = self.run.console.bar(state.max_steps, "step")
        loss = next((entry["loss"] for entry in reversed(state.log_history) if "loss" in entry), None)
        self.bar.at(state.global_step, f"loss {loss:.4g}" if loss is not None else "")

    def is_stopped(self) -> bool:
        """Return whether a signal asked this process, or one of its peers, to end; all processes ask together."""
        if self.run.process.count > 1:
            signalled = torch.tensor(float(requests.pending is not None), device=self.run.device)
            if float(self.run.process.sum(signalled)) and requests.pending is None:
                requests.pending = "a signal to another process"
        return requests.pending is not None

    def close(self) -> None:
        """Take the progress bar away."""
        if self.bar is not None:
            self.bar.close()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Hand the numbers on to observers; a loss that is no number ends the training."""
        loss = (logs or {}).get("loss")
        if self.run.process.main:
            numbers = {name: float(value) for name, value in (logs or {}).items() if isinstance(value, int | float)}
            self.run.plugins.hook.step_logged(run=self.run, stage=self.stage, step=state.global_step, numbers=numbers)
        if loss is not None and not math.isfinite(float(loss)):
            raise TopworkError(
                f"the training loss is {loss} at step {state.global_step}",
                hint="lower `learning_rate`, or train with `precision: float32`",
            )
