"""The stage `train`: transformers' Trainer on accelerate, with topwork's batches, evaluation and checkpoints inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from topwork.errors import unknown
from topwork.items import Json
from topwork.stage import Stage

if TYPE_CHECKING:
    from topwork.runs.run import Run


#: names that need no look at the list of transformers, which takes a second to import
USUAL_OPTIMIZERS = ("adamw_torch_fused", "adamw_torch", "adafactor", "sgd", "adagrad", "rmsprop")


class Train(Stage):
    """Train the model on the train rows."""

    name: ClassVar[str] = "train"
    changes_model: ClassVar[bool] = True
    columns_shown: ClassVar[tuple[str, ...]] = ("loss", "steps", "epochs", "items_per_second")

    epochs: PositiveFloat = Field(3.0, le=1e6, description="passes over the rows")
    steps: PositiveInt | None = Field(
        None, le=10**9, description="stop after this many steps instead (needed for streaming rows)"
    )
    batch_size: PositiveInt = Field(32, le=2**20, description="items in a batch of one process")
    batch_cost: PositiveInt | None = Field(
        None, description="tokens, pixels or samples in a batch, padding counted, instead of a number of items"
    )
    group: bool | None = Field(
        None,
        description="items of like cost in one batch, which saves padding; by default only within small parts of an "
        "epoch, which keeps the order random; false: not at all",
    )
    accumulate: PositiveInt = Field(1, le=2**20, description="batches whose gradients make one step")
    learning_rate: PositiveFloat = Field(5e-5, description="at its highest")
    schedule: Literal["linear", "cosine", "constant", "polynomial", "inverse_sqrt", "cosine_with_min_lr"] = Field(
        "linear", description="how the rate falls after the warmup"
    )
    warmup: NonNegativeFloat = Field(0.0, description="steps until the full rate; below 1 a share of all steps")
    weight_decay: NonNegativeFloat = Field(0.0, description="of AdamW: share of weights lost at each step, times rate")
    optimizer: str = Field("adamw_torch_fused", description="a name of transformers' OptimizerNames")
    clip: NonNegativeFloat = Field(1.0, description="largest norm of the gradient; 0 for no bound")
    precision: Literal["auto", "float32", "bf16", "fp16"] = Field(
        "auto", description="auto: bf16 on a GPU that has it, else float32"
    )
    gradient_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass: less memory, a third more time"
    )
    freeze: list[str] = Field(
        default_factory=list, description="`backbone`, or patterns of parameter names (`*.embeddings.*`)"
    )
    unfreeze: dict[NonNegativeInt, list[str]] = Field(
        default_factory=dict, description="epoch -> patterns (or `all`) that are trained from then on"
    )
    evaluate_every: PositiveInt | Literal["epoch", "never"] = Field(
        "never", description="steps, or `epoch`: the metric on the calibrate rows"
    )
    keep: Literal["last", "best"] = Field(
        "last", description="best: the checkpoint with the best metric on calibrate rows"
    )
    patience: PositiveInt | None = Field(None, description="stop after this many evaluations without a better metric")
    checkpoint_every: PositiveInt | Literal["epoch", "never"] = Field(
        "epoch", description="steps, or `epoch`: from where `resume` goes on"
    )
    workers: NonNegativeInt = Field(0, le=256, description="processes that prepare rows")

    @model_validator(mode="after")
    def _consistent(self) -> Train:
        if (self.keep == "best" or self.patience) and self.evaluate_every == "never":
            self.evaluate_every = "epoch"
        if self.keep == "best" and self.checkpoint_every != self.evaluate_every:
            self.checkpoint_every = self.evaluate_every
        if self.group is False and self.batch_cost is not None:
            raise ValueError("`batch_cost` groups items of like cost: `group: false` does not go with it")
        if self.unfreeze and not self.freeze:
            raise ValueError("`unfreeze` without `freeze`: everything is trained already")
        return self

    def reads(self) -> tuple[str, ...]:
        return ("train",) if self.evaluate_every == "never" else ("train", "calibrate")

    def precheck(self, before: Sequence[Stage]) -> str | None:
        """Return a problem with the optimizer's name or the precision; None if there is none."""
        if self.optimizer not in USUAL_OPTIMIZERS:
            from transformers.training_args import OptimizerNames

            if self.optimizer not in (known := [name.value for name in OptimizerNames]):
                return str(unknown("optimizer", self.optimizer, known))
        if self.precision == "fp16":
            from accelerate import PartialState

            if PartialState().device.type == "cpu":
                return "`precision: fp16` needs a GPU; say bf16 or float32"
        return None

    def __call__(self, run: Run) -> dict[str, Json]:
        from topwork.training.trainer import train

        return train(self, run)
