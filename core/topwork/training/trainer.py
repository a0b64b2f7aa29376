"""The training itself: a Trainer whose loss, batches, evaluation and checkpoints are topwork's.

Trainer's defaults for evaluation (it concatenates ragged targets by zipping them), for the order of predictions under
length grouping, and for the scale of the loss under accumulation are wrong for some task or other, silently. None of
them is used here.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerState

from topwork.data.batching import GROUPED, Budget, TrainBatches
from topwork.data.columns import row_count
from topwork.data.loop import cast_to_model_dtype
from topwork.errors import UsageError
from topwork.files import write_failure
from topwork.items import Batch, Json
from topwork.kernels.selection import accelerated
from topwork.runs.outputs import CHECKPOINTS
from topwork.saving.manifest import WEIGHTS
from topwork.saving.weights import distinct, load_weights, save_weights
from topwork.system.signals import requests
from topwork.training.adapters import adapted, trained_tensors
from topwork.training.arguments import arguments, check, precision, restoring_model_state
from topwork.training.checkpoints import last_checkpoint, rotate, seal, verify
from topwork.training.dataset import TrainingDataset
from topwork.training.distillation import Distillation
from topwork.training.freezing import Freezing
from topwork.training.history import equal_windows, mean_loss
from topwork.training.layer_rates import divide_rates
from topwork.training.sharding import Sharding, check_sharding
from topwork.training.stream import streamed_batches, write_stream_state
from topwork.training.watch import Watch

if TYPE_CHECKING:
    from topwork.runs.run import Run
    from topwork.training.options import TrainOptions


def train(stage: TrainOptions, run: Run) -> dict[str, Json]:
    """Train `run.model` as the stage says, from the last complete checkpoint in the stage's folder, if any.

    Raises:
        CheckpointError: that checkpoint is damaged.
        UsageError: an option that this model, device or data cannot have.
        TopworkError: the loss is no number any more.
    """
    streaming = row_count(run.rows("train")) is None
    check(stage, run, streaming)
    checkpoint = last_checkpoint(run.folder / CHECKPOINTS)
    ended = False
    if checkpoint is not None:
        ended = verify(checkpoint, run)
        run.say(f"going on from {checkpoint.name}")
    start = time.perf_counter()
    with adapted(stage, run) as adaptation, restoring_model_state(run.model):
        if run.process.sharding is not None:
            check_sharding(stage, run)
        freezing = Freezing(run.model, stage.freeze, stage.unfreeze, partial=adaptation.adapter is not None)
        try:
            freezing.prepare()
            counts = {"trained_parameters": freezing.trained_count()}
            trainer = TaskTrainer(stage, run, freezing, streaming, checkpoint, divided=not ended)
            if checkpoint is not None and ended:
                trainer.take_over(checkpoint)
            else:
                with closing(trainer.watch), requests.deferred():
                    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
                    trainer.watch.is_stopped()  # a signal after the last step ends all processes
                if trainer.sharding is not None:
                    trainer.sharding.close()
            trainer.accelerator.free_memory()
        finally:
            freezing.restore()
            run.model.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - start
    return {**_result(stage, trainer, seconds), **counts, **adaptation.result}


def _result(stage: TrainOptions, trainer: TaskTrainer, seconds: float) -> dict[str, Json]:
    history = [
        {key: value for key, value in entry.items() if key != "total_flos"} for entry in trainer.state.log_history
    ]
    return {
        "change": "training",
        "loss": mean_loss(history),
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "items": len(trainer.items) if trainer.items is not None else None,
        "items_per_second": round(sum(trainer.run.process.gather(trainer.seen)) / seconds, 2),
        "precision": trainer.precision,
        "best": trainer.state.best_metric,
        **({} if trainer.distillation is None else {"teacher": trainer.distillation.json(history)}),
        "skipped": len(trainer.settings.skipped),
        "skipped_rows": trainer.settings.skipped[:20],
        "history": equal_windows([log for log in history if "train_runtime" not in log], trainer.window),
    }


class TaskTrainer(Trainer):
    """Trainer of transformers with the task's batches, loss and evaluation, and topwork's checkpoints."""

    def __init__(
        self,
        stage: TrainOptions,
        run: Run,
        freezing: Freezing,
        streaming: bool,
        checkpoint: Path | None = None,
        divided: bool = True,
    ) -> None:
        self.checkpoint = checkpoint
        self.sharding = Sharding(run, run.process.sharding) if run.process.sharding and divided else None
        self.stream_state: dict[str, Json] | None = None
        model = run.model if self.sharding is None else self.sharding.model
        self.stage, self.run, self.task, self.freezing = stage, run, run.task, freezing.of(model)
        self.settings = run.settings()
        self.seen = 0
        self.items = None if streaming else TrainingDataset(run)
        if self.items is not None:
            self.settings = self.items.settings
        self.budget = Budget(stage.batch_size, None)
        if stage.batch_cost is not None:
            self.budget = Budget(2**31, stage.batch_cost)
        self.sampler = self._sampler()
        batches = len(self.sampler) if self.sampler is not None else 0
        planned = stage.steps or stage.epochs * math.ceil(batches / stage.accumulate)
        self.window = max(1, round(planned) // 50)  # steps between two logs
        self.precision = precision(stage.precision, run.device)
        self.distillation = Distillation(stage, run, model) if stage.teacher is not None else None
        self.watch = Watch(stage, run, self.freezing)
        callbacks: list[TrainerCallback] = [self.watch]
        if stage.patience:
            callbacks.append(EarlyStoppingCallback(early_stopping_patience=stage.patience))
        super().__init__(
            model=model,
            args=arguments(stage, run, self.precision),
            train_dataset=self.items,
            eval_dataset=run.rows("calibrate") if stage.evaluate_every != "never" else None,
            data_collator=_collator(run.task),
            callbacks=callbacks,
        )
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)
        # the terms of each loss are weighted in `compute_loss`: Trainer must divide by nothing
        self.model_accepts_loss_kwargs = False
        self.loss_is_scaled_for_ga = True
        self._weights: deque[torch.Tensor | None] = deque()
        self._program: Any = None
        if self.sharding is not None:  # it averages gradients itself: nothing is to be wrapped for DDP
            run.say(f"FSDP2: parameters, gradients and optimizer divided among {run.process.count} processes")
            accelerator: Any = self.accelerator
            accelerator.prepare_model = partial(accelerator.prepare_model, evaluation_mode=True)

    # ------------------------------------------------------------------ batches

    def _sampler(self) -> TrainBatches | None:
        """Return who chooses the items of each batch; None for streaming rows."""
        if self.items is None:
            return None
        process, window = self.run.process, {None: None, True: GROUPED, False: 1}[self.stage.group]
        strata = self.items.strata(self.run) if self.stage.balance else None
        return TrainBatches(self.items.costs, self.budget, self.run.seed, process.index, process.count, window, strata)

    def get_train_dataloader(self) -> DataLoader:
        """Return the batches of the training: planned by cost, or of a stream."""
        from accelerate.data_loader import prepare_data_loader

        # logs of a checkpoint that was written with other steps between them would not fit together
        self.args.logging_steps = self.window
        if self.items is None or self.sampler is None:
            dataset = streamed_batches(self.stage, self.run, self.budget, self.settings, self.checkpoint)
            loader = DataLoader(dataset, batch_size=None, num_workers=min(1, self.stage.workers))
        else:
            loader = DataLoader(
                self.items,
                batch_sampler=self.sampler,
                collate_fn=self.data_collator,
                num_workers=self.stage.workers,
            )
        # the sampler has given each process its own batches already: nothing is left to share out
        return prepare_data_loader(
            loader, self.args.device, num_processes=1, process_index=0, put_on_device=True, dispatch_batches=False
        )

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list, None]:
        """Return the batches of one step, and note the weight of each, which makes them the step of one large batch."""
        batches = []
        for _ in range(num_batches):
            try:
                batches.append(next(epoch_iterator))
            except StopIteration:
                break
        if batches:
            self.stream_state = batches[-1].stream_state
        self._weights = deque(self._term_weights(batches))
        return batches, None

    def _term_weights(self, batches: list[Batch]) -> list[torch.Tensor | None]:
        """Return the weights of the loss terms of each batch of a step; None for a batch that is the whole step.

        With them the batches of all processes together have the loss of one large batch: its sums divided by its
        numbers of targets.
        """
        processes = self.run.process.count
        if not batches or (len(batches) == 1 and processes == 1):
            return [None] * len(batches)
        counts = torch.stack([_counts(self._target_counts(batch), self.args.device) for batch in batches])
        totals = counts.sum(0)
        if processes > 1:  # gradients of processes are averaged afterwards, hence the factor
            totals = self.accelerator.reduce(totals, reduction="sum")
        return list(_divisors(counts) / _divisors(totals) * processes)

    def _target_counts(self, batch: Batch) -> list[float | torch.Tensor]:
        counts = list(self.task.target_counts(batch))
        return counts if self.distillation is None else [*counts, len(batch)]  # the teacher's term is a mean over items

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of a batch, with its terms weighted as in the one large batch of the step."""
        self.freezing.quiet_norms()
        weights = self._weights.popleft()
        self.seen += len(inputs)
        # what is computed again in the backward pass would be computed outside of this mode
        plain = not self.stage.gradient_checkpointing and not self.stage.compile
        precision = self.precision if plain and self.precision == "float32" else "other"
        model = self._compiled(model)
        with accelerated(self.run.device, precision):
            batch = cast_to_model_dtype(inputs, self.run.model)
            if self.sharding is not None:
                return self.sharding.loss(partial(self._weighted_loss, model, batch, weights))
            return self._weighted_loss(model, batch, weights)

    def _weighted_loss(self, model: Any, batch: Batch, weights: torch.Tensor | None) -> Any:
        if self.distillation is not None:
            return self.distillation.loss(model, batch, weights)
        if weights is None:
            return self.task.loss(model, batch)
        terms = self.task.loss_terms(model, batch)
        return sum(term * weight for term, weight in zip(terms, weights, strict=True))

    def _compiled(self, model: Any) -> Any:
        """Return the model, perhaps wrapped for several processes, as the option `compile` says: compiled once.

        The argument of transformers is not used: it sets variables of the process, which compile later trainings too.
        """
        if not self.stage.compile:
            return model
        if self._program is None:
            backend = "inductor" if self.stage.compile is True else self.stage.compile
            # a CUDA graph replays one shape: each shape gets a graph of its own
            self._program = torch.compile(model, backend=backend, dynamic=False if backend == "cudagraphs" else None)
        return self._program

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Make the optimizer; a package or device that it lacks is an error of the option."""
        made = self.optimizer is not None
        try:
            optimizer = super().create_optimizer(*args, **kwargs)
        except (ImportError, ValueError) as error:  # a package that the optimizer needs is missing, or a device
            raise UsageError(f"`{self.stage.optimizer}` cannot be made: {error}", place="optimizer") from error
        if self.stage.layer_decay is not None and not made and self.model is not None:
            divide_rates(optimizer, self.model, self.stage.layer_decay)
        if self.sharding is not None:
            self.sharding.attach(optimizer)
        return optimizer

    def floating_point_ops(self, inputs: Any) -> int:
        """Return 0: the count of transformers knows neither pruning nor task heads."""
        return 0

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the mean of the teacher's term since the last log beside the loss."""
        if self.distillation is not None and "loss" in logs:
            logs = {**logs, "teacher_loss": self.distillation.mean_since_last()}
        super().log(logs, *args, **kwargs)

    # ------------------------------------------------------------------ evaluation

    def _whole(self, changed: bool = False) -> AbstractContextManager[None]:
        """Let the run's model have its numbers for a block, which changes them or does not."""
        return nullcontext() if self.sharding is None else self.sharding.whole(changed)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Return the task's metric over the calibrate rows, measured through the one loop."""
        with self._whole(), torch.random.fork_rng():  # a prediction that draws at random must not change the training
            metrics = self.run.evaluate("calibrate", items=self.stage.batch_size)
        logged = {f"eval_{key}": float(metrics[key]) for key in self.task.metric().keys}
        self.log(logged)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, logged)
        return logged

    # ------------------------------------------------------------------ checkpoints: safetensors, strict

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir or ".")
        with self._whole():
            if not self.args.should_save:
                return
            folder.mkdir(parents=True, exist_ok=True)
            state: Any = self.run.model.state_dict() if state_dict is None else state_dict
            if (names := self._kept_names()) is not None:
                state = {name: tensor for name, tensor in state.items() if name in names}
            save_weights(self.run.model, folder / WEIGHTS, state)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.sharding is not None and self.optimizer is not None and not self.args.should_save:
            self.optimizer.state_dict()  # the process that writes it gathers it from all
        super()._save_optimizer_and_scheduler(output_dir)

    def _kept_names(self) -> set[str] | None:
        """Return the tensors that a checkpoint holds; None for all."""
        return None if self.stage.lora is None else trained_tensors(self.run.model)

    def _load(self, folder: Path) -> None:
        names = self._kept_names()
        with self._whole(changed=True):
            load_weights(self.run.model, folder / WEIGHTS, shared(self.run.model, names), names)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        try:
            super()._save_checkpoint(model, trial)
        except RuntimeError as error:  # torch.save does not say why the system refused to write
            if (failure := write_failure(self.run.folder)) is None:
                raise
            raise failure from error
        folder = Path(self._get_output_dir(trial=trial))
        newest = folder / f"checkpoint-{self.state.global_step}"
        steps = self.state.global_step * self.stage.accumulate
        write_stream_state(newest, self.run.process, self.stream_state, steps, self.settings.skipped)
        self.run.process.barrier()  # every process writes its random state
        if self.args.should_save:
            seal(newest, self.run, self.control.should_training_stop)
            rotate(folder, newest, self.state.best_model_checkpoint)
        self.run.process.barrier()
        if self.watch.stopped:  # all processes know it: a signal that came later ends the next step
            requests.answer()

    def take_over(self, checkpoint: Path) -> None:
        """Take the result of a training that ended with this checkpoint but was not recorded.

        Trainer would train on.
        """
        self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        self._load_from_checkpoint(str(checkpoint))
        best = checkpoint.parent / f"checkpoint-{self.state.best_global_step}"
        if self.stage.keep == "best" and best.is_dir():
            self.state.best_model_checkpoint = str(best)
            self._load_best_model()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if (Path(resume_from_checkpoint) / WEIGHTS).is_file():
            self._load(Path(resume_from_checkpoint))
        else:  # sharded over processes: accelerate wrote it, accelerate reads it
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        if best is None or not (Path(best) / WEIGHTS).is_file():
            super()._load_best_model()
        else:
            self._load(Path(best))


def _counts(counts: Sequence[float | torch.Tensor], device: Any) -> torch.Tensor:
    return torch.stack([torch.as_tensor(count, dtype=torch.float32).to(device) for count in counts])


def _divisors(counts: torch.Tensor) -> torch.Tensor:
    """Return the divisors of means over so many targets: a mean over none is divided by 1."""
    return torch.where(counts == 0, torch.ones_like(counts), counts)


def shared(model: Any, names: set[str] | None = None) -> dict[str, str]:
    """Return names of tensors that share memory -> the name under which `save_weights` stores them.

    Args:
        model: the model.
        names: the tensors that are stored; None for all.
    """
    state = model.state_dict()
    return distinct({name: tensor for name, tensor in state.items() if names is None or name in names})[1]


def _collator(task: Any) -> Any:
    return lambda items: task.collate(items, "train")
