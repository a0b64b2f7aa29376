"""The training itself: a Trainer whose loss, batches, evaluation and checkpoints are topwork's.

Trainer's defaults for evaluation (it concatenates ragged targets by zipping them), for the order of predictions under
length grouping, and for the scale of the loss under accumulation are wrong for some task or other, silently. None of
them is used here.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from topwork.batching import Budget, TrainBatches
from topwork.errors import TopworkError, UsageError
from topwork.freezing import Freezing
from topwork.items import Json
from topwork.model_folder import WEIGHTS, load_weights, save_weights
from topwork.rows import row_count
from topwork.training_rows import StreamedBatches, TrainingItems

if TYPE_CHECKING:
    from topwork.run import Run
    from topwork.stages.train import Train

WHOLE = "whole"  # marks a checkpoint that was written to its end


def train(stage: Train, run: Run) -> dict[str, Json]:
    """Train `run.model` as the stage says; goes on from the last whole checkpoint in the stage's folder, if any."""
    streaming = row_count(run.rows("train")) is None
    if streaming and stage.steps is None:
        raise UsageError("streaming rows have no end", mend="say `steps` in the stage")
    freezing = Freezing(run.model, stage.freeze, stage.unfreeze)
    freezing.prepare()
    trainer = TaskTrainer(stage, run, freezing, streaming)
    checkpoint = last_checkpoint(run.folder / "checkpoints")
    if checkpoint is not None:
        run.say(f"going on from {checkpoint.name}")
    start = time.perf_counter()
    try:
        outcome = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        run.model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
        freezing.restore()
        run.model.zero_grad(set_to_none=True)
        trainer.accelerator.free_memory()
    seconds = time.perf_counter() - start
    if run.process.main:
        _remove(run.folder / "checkpoints")
    return _result(stage, trainer, outcome, seconds)


def _result(stage: Train, trainer: TaskTrainer, outcome: Any, seconds: float) -> dict[str, Json]:
    history = [
        {key: value for key, value in entry.items() if key != "total_flos"} for entry in trainer.state.log_history
    ]
    return {
        "loss": outcome.training_loss,
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "items": len(trainer.items) if trainer.items is not None else None,
        "items_per_second": round(sum(trainer.run.process.gather(trainer.seen)) / seconds, 2),
        "precision": trainer.precision,
        "best": trainer.state.best_metric,
        "skipped": len(trainer.settings.skipped),
        "skipped_rows": trainer.settings.skipped[:20],
        "history": [entry for entry in history if "train_runtime" not in entry],
    }


class TaskTrainer(Trainer):
    """Trainer, told by a task what a batch, a loss and an evaluation are."""

    def __init__(self, stage: Train, run: Run, freezing: Freezing, streaming: bool) -> None:
        self.stage, self.run, self.task, self.freezing = stage, run, run.task, freezing
        self.settings = run.settings()
        self.seen = 0
        self.items = None if streaming else TrainingItems(run)
        if self.items is not None:
            self.settings = self.items.settings
        self.precision = precision(stage.precision, run.device)
        callbacks: list[TrainerCallback] = [_Watch(run, freezing)]
        if stage.patience:
            callbacks.append(EarlyStoppingCallback(early_stopping_patience=stage.patience))
        super().__init__(
            model=run.model,
            args=arguments(stage, run, self.precision),
            train_dataset=self.items,
            eval_dataset=run.rows("calibrate") if stage.evaluate_every != "never" else None,
            data_collator=_collator(run.task),
            callbacks=callbacks,
        )
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)
        # every loss here is the mean of its batch, never normalised over the accumulated batches
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = False

    # ------------------------------------------------------------------ batches

    def get_train_dataloader(self) -> DataLoader:
        from accelerate.data_loader import prepare_data_loader

        budget = Budget(self.stage.batch_size, None)
        if self.stage.batch_cost is not None:
            budget = Budget(2**31, self.stage.batch_cost)
        process = self.run.process
        if self.items is None:
            rows = self.run.rows("train")
            dataset = StreamedBatches(self.task, rows, budget, self.settings, process, self.run.seed)
            loader = DataLoader(dataset, batch_size=None, num_workers=min(1, self.stage.workers))
        else:
            sampler = TrainBatches(self.items.costs, budget, self.run.seed, process.index, process.count)
            loader = DataLoader(
                self.items,
                batch_sampler=sampler,
                collate_fn=self.data_collator,
                num_workers=self.stage.workers,
                persistent_workers=self.stage.workers > 0,
            )
        # the sampler has given each process its own batches already: nothing is left to share out
        return prepare_data_loader(
            loader, self.args.device, num_processes=1, process_index=0, put_on_device=True, dispatch_batches=False
        )

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list, None]:
        batches = []
        for _ in range(num_batches):
            try:
                batches.append(next(epoch_iterator))
            except StopIteration:
                break
        return batches, None

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        self.freezing.quiet_norms()
        self.seen += len(inputs)
        return self.task.loss(model, inputs)

    def floating_point_ops(self, inputs: Any) -> int:
        return 0

    # ------------------------------------------------------------------ evaluation

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The task's metric over the calibrate rows, through the one loop."""
        metrics = self.run.evaluate("calibrate", items=self.stage.batch_size)
        found = {f"eval_{key}": float(metrics[key]) for key in self.task.metric().keys}
        self.log(found)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    # ------------------------------------------------------------------ checkpoints: safetensors, strict

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir or ".")
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            save_weights(self.run.model, folder / WEIGHTS, state_dict)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            (folder / WHOLE).touch()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        file = Path(resume_from_checkpoint) / WEIGHTS
        if file.is_file():
            load_weights(self.run.model, file, shared(self.run.model))
        else:  # sharded over processes: accelerate wrote it, accelerate reads it
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        if best is None or not (Path(best) / WEIGHTS).is_file():
            super()._load_best_model()
        else:
            load_weights(self.run.model, Path(best) / WEIGHTS, shared(self.run.model))


def shared(model: Any) -> dict[str, str]:
    """Names of tensors that share memory -> the name under which `save_weights` stores them."""
    from topwork.model_folder import distinct

    return distinct(model.state_dict())[1]


class _Watch(TrainerCallback):
    """Freezing by epoch, a progress line, and a stop when the loss is no number any more."""

    def __init__(self, run: Run, freezing: Freezing) -> None:
        self.run, self.freezing = run, freezing
        self._last = time.monotonic()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.freezing.at(int(state.epoch or 0))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if time.monotonic() - self._last > 10:
            self._last = time.monotonic()
            loss = next((entry["loss"] for entry in reversed(state.log_history) if "loss" in entry), None)
            shown = f", loss {loss:.4g}" if loss is not None else ""
            self.run.say(f"  step {state.global_step}/{state.max_steps}{shown}")

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(float(loss)):
            raise TopworkError(
                f"the training loss is {loss} at step {state.global_step}",
                mend="lower `learning_rate`, or train with `precision: float32`",
            )


def precision(asked: str, device: Any) -> str:
    """ "auto" becomes bf16 on a GPU that has it, float32 elsewhere."""
    if asked != "auto":
        return asked
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


def arguments(stage: Train, run: Run, precision: str) -> TrainingArguments:
    """TrainingArguments for a stage."""
    metric = run.task.metric()
    checkpoints, evaluations = _strategy(stage.checkpoint_every), _strategy(stage.evaluate_every)
    return TrainingArguments(
        output_dir=str(run.folder / "checkpoints"),
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
        save_total_limit=2,
        load_best_model_at_end=stage.keep == "best",
        metric_for_best_model=f"eval_{metric.primary}" if stage.evaluate_every != "never" else None,
        greater_is_better=metric.higher_is_better,
        logging_strategy="steps",
        logging_steps=_logging_steps(stage),
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        log_level="error",
        use_cpu=run.device.type == "cpu",
        dataloader_num_workers=stage.workers,
    )


def _checkpointing(wanted: bool) -> dict[str, Any]:
    """transformers renamed the argument within version 5."""
    names = TrainingArguments.__dataclass_fields__
    return {"activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing": wanted}


def _logging_steps(stage: Train) -> int:
    return max(1, (stage.steps or 500) // 50)


def _strategy(every: int | str) -> tuple[str, int | None]:
    if isinstance(every, int):
        return "steps", every
    return ("epoch" if every == "epoch" else "no"), None


def _collator(task: Any) -> Any:
    return lambda items: task.collate(items, "train")


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end."""
    found = [path.parent for path in folder.glob(f"checkpoint-*/{WHOLE}")]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
