"""Arguments of transformers' Trainer for a training: `arguments`.

`restoring_model_state` undoes what Trainer leaves on a model, `check` refuses options that do not suit a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from topwork.errors import UsageError, unknown
from topwork.runs.outputs import CHECKPOINTS
from topwork.saving.weights import is_quantised

if TYPE_CHECKING:
    from topwork.runs.run import Run
    from topwork.training.options import TrainOptions

_NOTHING = object()


def precision(requested: str, device: Any) -> str:
    """Return the precision of a training: "auto" becomes bf16 on a GPU that has it, float32 elsewhere."""
    if requested != "auto":
        return requested
    # an older GPU emulates bf16, more slowly than it computes float32
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if fast else "float32"


def arguments(stage: TrainOptions, run: Run, precision: str) -> TrainingArguments:
    """Return TrainingArguments for a training.

    Args:
        stage: its options.
        run: whose model is trained.
        precision: "float32", "bf16" or "fp16".
    """
    metric = run.task.metric()
    checkpoints, evaluations = _strategy(stage.checkpoint_every), _strategy(stage.evaluate_every)
    made = TrainingArguments(
        output_dir=str(run.folder / CHECKPOINTS),
        num_train_epochs=stage.epochs,
        max_steps=stage.steps or -1,
        per_device_train_batch_size=stage.batch_size,
        gradient_accumulation_steps=stage.accumulate,
        learning_rate=stage.learning_rate,
        lr_scheduler_type=stage.schedule,
        warmup_steps=stage.warmup,
        weight_decay=stage.weight_decay,
        optim=stage.optimizer,
        max_grad_norm=stage.clip,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        **_checkpointing(stage.gradient_checkpointing),
        seed=run.seed,
        data_seed=run.seed,
        eval_strategy=evaluations[0],
        eval_steps=evaluations[1],
        save_strategy=checkpoints[0],
        save_steps=checkpoints[1] or 500,
        save_total_limit=None,  # `checkpoints.rotate`, which goes by steps and not by times
        restore_callback_states_from_checkpoint=True,
        load_best_model_at_end=stage.keep == "best",
        metric_for_best_model=f"eval_{metric.primary}" if stage.evaluate_every != "never" else None,
        greater_is_better=metric.higher_is_better,
        logging_strategy="steps",
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        log_level="error",
        use_cpu=run.device.type == "cpu",
        dataloader_num_workers=stage.workers,
    )
    made.n_gpu  # noqa: B018  asks for the devices, which counts them
    made._n_gpu = 1  # a process has one device: nn.DataParallel cannot divide our batches
    return made


def _checkpointing(wanted: bool) -> dict[str, Any]:
    """Return the argument for gradient checkpointing, which transformers renamed within version 5."""
    names = TrainingArguments.__dataclass_fields__
    return {"activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing": wanted}


def _strategy(every: int | str) -> tuple[str, int | None]:
    if isinstance(every, int):
        return "steps", every
    return ("epoch" if every == "epoch" else "no"), None


def quantised_weights(model: Any) -> str | None:
    """Return why a model cannot be trained in full, or None: its weights are quantised."""
    name = next((name for name, parameter in model.named_parameters() if is_quantised(parameter)), None)
    return None if name is None else f"`{name}` is quantised, and is not trained in full"


def check(stage: TrainOptions, run: Run, streaming: bool) -> None:
    """Refuse options that Trainer would stumble over, or ignore without a message.

    Args:
        stage: the options.
        run: whose model is trained.
        streaming: the rows have no length.

    Raises:
        UsageError: names the option.
    """
    if stage.lora is None and (quantised := quantised_weights(run.model)) is not None:
        raise UsageError(quantised, hint="say `lora: {r: 8}`, or load the base without `quantize`")
    if streaming and stage.steps is None:
        raise UsageError("streaming rows have no end", hint="say `steps` in the stage")
    if streaming and stage.unfreeze:
        raise UsageError("streaming rows have no epochs for `unfreeze`", hint="use two `train` stages")
    if streaming and stage.balance:
        raise UsageError("streaming rows cannot be balanced: their labels are not known before", place="balance")
    if stage.balance and run.task.group_rows > 1:
        raise UsageError("rows that are packed together cannot be balanced", place="balance")
    known = [name.value for name in OptimizerNames]
    if stage.optimizer not in known:
        raise unknown("optimizer", stage.optimizer, known)
    if stage.precision == "fp16" and run.device.type == "cpu":
        raise UsageError("fp16 needs a GPU", place="precision", hint="say bf16 or float32")
    if stage.gradient_checkpointing and not hasattr(run.model, "gradient_checkpointing_enable"):
        raise UsageError(f"{type(run.model).__name__} has no gradient checkpointing", hint="leave it out")


@contextmanager
def restoring_model_state(model: Any) -> Iterator[None]:
    """Undo, after the block, what Trainer and accelerate leave on a model.

    That is a `forward` wrapped for mixed precision, the mark that the model is prepared (a second training would then
    neither wrap nor synchronise it), `use_cache` in its config, and gradient checkpointing.
    """
    forward = model.__dict__.get("forward")
    config = getattr(model, "config", None)
    cache = config.__dict__.get("use_cache", _NOTHING) if config is not None else _NOTHING
    checkpointed = _checkpoints(model)
    try:
        yield
    finally:
        for left in ("forward", "_original_forward", "_is_accelerate_prepared"):
            model.__dict__.pop(left, None)
        if forward is not None:
            model.forward = forward
        if config is not None:
            config.__dict__.pop("use_cache", None)
            if cache is not _NOTHING:
                config.use_cache = cache
        if _checkpoints(model) and not checkpointed:
            name = "activation_checkpointing_disable"
            getattr(model, name if hasattr(model, name) else "gradient_checkpointing_disable")()


def _checkpoints(model: Any) -> bool:
    """Return whether activations are recomputed in the backward pass; transformers renamed this within version 5."""
    name = "is_activation_checkpointing"
    return bool(getattr(model, name if hasattr(model, name) else "is_gradient_checkpointing", False))
