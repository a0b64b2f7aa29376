"""Options of a training, `TrainOptions`: those of the stage `train`; `LoraOptions` is its part on adapters."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)


class LoraOptions(BaseModel):
    """Low-rank adapters (Hu et al. 2021): the weights stay, and a product of two thin matrices is trained beside each.

    The task head is trained in full. Afterwards the products are added to the weights, so that the model is a plain one
    again.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    r: PositiveInt = Field(8, le=2**14, description="rank of the products")
    alpha: PositiveFloat = Field(16.0, description="products are multiplied by alpha / r")
    dropout: NonNegativeFloat = Field(0.0, lt=1, description="of the inputs of the products")
    targets: Literal["attention", "neurons", "all"] | list[str] = Field(
        "attention",
        description="projections of attention, of feed-forward neurons, of both, or patterns of module names",
    )
    save: Literal["merged", "adapter"] = Field(
        "merged", description="adapter: keep the products and the task head in the stage's folder too, as peft does"
    )

    @field_validator("targets", mode="before")
    @classmethod
    def _one_name(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) and value not in ("attention", "neurons", "all") else value

    @field_validator("targets")
    @classmethod
    def _not_empty(cls, value: Any) -> Any:
        if not value:
            raise ValueError("name at least one target")
        return value


class TrainOptions(BaseModel):
    """Options of a training."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)

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
    balance: bool = Field(
        False,
        description="rows of all labels equally often: those of rare labels come several times an epoch, of frequent "
        "ones others in each epoch; a row with several labels, or with tags, counts for its rarest",
    )
    accumulate: PositiveInt = Field(1, le=2**20, description="batches whose gradients make one step")
    learning_rate: PositiveFloat = Field(5e-5, description="at its highest")
    layer_decay: float | None = Field(
        None,
        gt=0,
        le=1,
        description="factor on the learning rate from each layer to the one below it; the task head has the full rate",
    )
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
    compile: bool | Literal["inductor", "aot_eager", "eager", "cudagraphs"] = Field(
        False, description="run the model by torch.compile while it trains; true, or the name of a backend"
    )
    freeze: list[str] = Field(
        default_factory=list, description="`backbone`, or patterns of parameter names (`*.embeddings.*`)"
    )
    unfreeze: dict[NonNegativeInt, list[str]] = Field(
        default_factory=dict, description="epoch -> patterns (or `all`) that are trained from then on"
    )
    lora: LoraOptions | None = Field(
        None, description="train low-rank adapters and the task head only: `{r: 8, targets: all}` (extra `lora`)"
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
    teacher: str | None = Field(
        None,
        min_length=1,
        description="another model whose outputs are learned beside the targets: `before`, the run's model before "
        "anything was taken away from it, or a saved model folder",
    )
    teacher_weight: float = Field(0.5, gt=0, le=1, description="share of the teacher's term in the loss")
    temperature: PositiveFloat = Field(2.0, le=100, description="of teacher and student, where outputs are logits")
    teacher_hidden: NonNegativeFloat = Field(
        0.0, description="weight of what the layers give, relative to the teacher's outputs; 0: outputs alone"
    )
    workers: NonNegativeInt = Field(0, le=256, description="processes that prepare rows")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.keep == "best" or self.patience) and self.evaluate_every == "never":
            self.evaluate_every = "epoch"
        if self.keep == "best" and self.checkpoint_every != self.evaluate_every:
            self.checkpoint_every = self.evaluate_every
        if self.group is False and self.batch_cost is not None:
            raise ValueError("`batch_cost` groups items of like cost: `group: false` does not go with it")
        if self.balance and self.batch_cost is not None:
            raise ValueError("`balance` draws as many items as there are: it does not go with `batch_cost`")
        if self.lora is not None and self.layer_decay is not None:
            raise ValueError("`lora` trains products beside the weights: `layer_decay` does not go with it")
        if self.lora is not None and (self.freeze or self.unfreeze):
            raise ValueError("`lora` trains its products and the task head: `freeze` and `unfreeze` do not go with it")
        if self.unfreeze and not self.freeze:
            raise ValueError("`unfreeze` without `freeze`: everything is trained already")
        for name in ("teacher_weight", "temperature", "teacher_hidden"):
            if self.teacher is None and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"`{name}` without `teacher`")
        return self
