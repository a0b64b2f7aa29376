"""The stage `train`: transformers' Trainer on accelerate, with topwork's batches, evaluation and checkpoints inside."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from topwork.errors import UsageError, unknown
from topwork.items import Json
from topwork.saving.manifest import MANIFEST
from topwork.stage import Stage
from topwork.training.options import TrainOptions

if TYPE_CHECKING:
    from topwork.runs.run import Run


#: names that need no look at the list of transformers, which takes a second to import
USUAL_OPTIMIZERS = ("adamw_torch_fused", "adamw_torch", "adafactor", "sgd", "adagrad", "rmsprop")


class Train(TrainOptions, Stage):
    """Train the model on the train rows."""

    name: ClassVar[str] = "train"
    changes_model: ClassVar[bool] = True
    columns_shown: ClassVar[tuple[str, ...]] = ("loss", "steps", "epochs", "items_per_second")

    def reads(self) -> tuple[str, ...]:
        """Return the train rows, and the calibrate rows where the training is evaluated."""
        return ("train",) if self.evaluate_every == "never" else ("train", "calibrate")

    def precheck(self, before: Sequence[Stage]) -> str | None:
        """Return a problem with the optimizer's name, the precision or the teacher; None if there is none."""
        if self.optimizer not in USUAL_OPTIMIZERS:
            from transformers.training_args import OptimizerNames

            if self.optimizer not in (known := [name.value for name in OptimizerNames]):
                return str(unknown("optimizer", self.optimizer, known))
        if self.lora is not None and find_spec("peft") is None:
            return "`lora` needs a package that is not installed: pip install 'topwork[lora]'"
        if self.precision == "fp16":
            from accelerate import PartialState

            if PartialState().device.type == "cpu":
                return "`precision: fp16` needs a GPU; say bf16 or float32"
        if self.teacher == "before" and self.model_before(before) is None:
            return "`teacher: before` needs a stage before it that takes something away from the model, as `compress`"
        if self.teacher not in (None, "before") and not (Path(self.teacher) / MANIFEST).is_file():
            return f"`teacher`: there is no model folder `{self.teacher}`"
        return None

    @override
    def model_before(self, before: Sequence[Stage]) -> int | None:
        if self.teacher != "before":
            return None
        changing = (index for index, stage in enumerate(before) if stage.changes_model and not isinstance(stage, Train))
        return next(changing, None)

    @override
    def precheck_model(self, run: Run) -> str | None:
        quantised = [base for base in run.task.bases.values() if base.options.quantize is not None]
        if quantised and self.lora is None:
            return f"the base {quantised[0].options.model} is quantised, and is trained by `lora: {{r: 8}}` alone"
        if self.lora is None:  # which adds parameters that patterns may name
            from topwork.training.freezing import Freezing

            try:
                Freezing(run.model, self.freeze, self.unfreeze)
            except UsageError as error:
                return str(error)
        return None

    def __call__(self, run: Run) -> dict[str, Json]:
        """Train, by `topwork.training`."""
        from topwork.training.trainer import train

        return train(self, run)
