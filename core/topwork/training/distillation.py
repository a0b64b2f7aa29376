"""Training with a teacher: a term of the loss that draws the outputs of a model towards those of another one.

Entry point: `Distillation`. The teacher sees the batch that the student sees, in evaluation mode and without gradients.
Logits are compared by T^2 KL(teacher || student) of distributions at a temperature T (Hinton et al. 2015, section 2.1),
all other outputs by the mean of squared differences; `Task.output_kinds` says which is which. The term is 0 where the
outputs are equal. `compare` has the formulas.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from topwork.errors import CheckpointError, UsageError
from topwork.files import write_json
from topwork.items import Batch, Json
from topwork.saving.loading import load_folder
from topwork.saving.manifest import read_manifest
from topwork.training.model_outputs import compare, mean_by_item, positions_that_count

if TYPE_CHECKING:
    from topwork.runs.run import Run
    from topwork.task import Task
    from topwork.training.options import TrainOptions

#: in the stage's folder: which model the training has as its teacher
_RECORD = "teacher.json"


class Distillation:
    """The teacher of a training, and its term of the loss.

    Args:
        stage: the options.
        run: whose model learns.
        student: the model that is trained, where it is not the run's own.

    Raises:
        UsageError: the run kept no such model, or it is one of another task or other labels.
        CheckpointError: the folder is damaged, or the training went on with another teacher before.
    """

    def __init__(self, stage: TrainOptions, run: Run, student: nn.Module | None = None) -> None:
        self.stage, self.task, self.student = stage, run.task, run.model if student is None else student
        self.folder = _folder(stage, run)
        trusted = any(base.options.trust_remote_code for base in run.task.bases.values())
        parts = load_folder(self.folder, run.plugins, trust_remote_code=trusted)
        require_same_outputs(parts.task, run.task, self.folder)
        self.hashes = _remember(run, self.folder)
        self.teacher = parts.model.to(run.device).eval().requires_grad_(False)
        self._look = run.plugins.look
        self._layers: list[tuple[nn.Module, nn.Module]] | None = None if stage.teacher_hidden else []
        self._sum, self._count = 0.0, 0

    def loss(self, model: nn.Module, batch: Batch, weights: torch.Tensor | None) -> torch.Tensor:
        """Return the loss of a batch: the task's and the teacher's terms, each with its share.

        Args:
            model: the student, which may be wrapped.
            batch: on its device.
            weights: of the task's terms and, last, of the teacher's; None for a batch that is the whole step.
        """
        share = self.stage.teacher_weight
        with self._recorded(self.student, batch, 0) as student:
            if weights is None:
                task_loss = self.task.loss(model, batch)
            else:
                task_loss = sum(
                    (
                        term * weight
                        for term, weight in zip(self.task.loss_terms(model, batch), weights[:-1], strict=True)
                    ),
                    start=torch.zeros((), device=weights.device),
                )
        distance = self._distance(student, batch)
        self._sum += float(distance.detach())
        self._count += 1
        return (1 - share) * task_loss + share * distance * (1.0 if weights is None else weights[-1])

    def distance(self, batch: Batch) -> torch.Tensor:
        """Return the teacher's term for a batch, with the student as it is now."""
        with self._recorded(self.student, batch, 0) as student:
            self.task.loss(self.student, batch)
        return self._distance(student, batch)

    def mean_since_last(self) -> float:
        """Return the mean of the teacher's term since the last call, on this process."""
        mean = self._sum / max(1, self._count)
        self._sum, self._count = 0.0, 0
        return mean

    def json(self, history: Sequence[Mapping[str, Any]]) -> dict[str, Json]:
        """Return which model the teacher was, and its term in the first and the last log of a training."""
        values = [entry["teacher_loss"] for entry in history if "teacher_loss" in entry]
        means: dict[str, Json] = {"first_loss": values[0], "last_loss": values[-1]} if values else {}
        return {"model": self.stage.teacher, "sha256": self.hashes, **means}

    # ------------------------------------------------------------------ outputs

    def _distance(self, student: Recorded, batch: Batch) -> torch.Tensor:
        with torch.no_grad(), self._recorded(self.teacher, batch, 1) as teacher:
            self.task.loss(self.teacher, batch)
        if len(student.outputs) != len(teacher.outputs) or not student.outputs:
            cause = f"the loss runs the model {len(student.outputs)} times, and its teacher {len(teacher.outputs)}"
            raise UsageError(cause, place="teacher")
        kinds, options = self.task.output_kinds(), {"temperature": self.stage.temperature}
        parts = [
            compare(mine, theirs, kinds, batch, **options)
            for mine, theirs in zip(student.outputs, teacher.outputs, strict=True)
        ]
        total = torch.cat(parts).mean()
        for mine, theirs in zip(student.hidden, teacher.hidden, strict=True):
            total = total + self.stage.teacher_hidden / len(student.hidden) * _relative_error(mine, theirs, batch)
        return total

    @contextmanager
    def _recorded(self, model: nn.Module, batch: Batch, side: int) -> Iterator[Recorded]:
        """Record the outputs of a model, and those of its layers, while the block runs."""
        if self._layers is None:
            self._layers = self._pairs(batch)
        with ExitStack() as stack:
            record = Recorded()
            for pair in self._layers:
                stack.callback(pair[side].register_forward_hook(record.add_hidden).remove)
            stack.callback(model.register_forward_hook(record.add_output).remove)
            yield record

    def _pairs(self, batch: Batch) -> list[tuple[nn.Module, nn.Module]]:
        """Return the layers that student and teacher have in common, by their paths before any was left out."""
        sides = []
        for model in (self.student, self.teacher):
            layers = self._look(model).find_layers_whole(_Call(self.task, model, batch))
            by_path = {layer.path: f"{layer.list_path}.{layer.position}" for layer in layers}
            sides.append({path: model.get_submodule(now) for path, now in by_path.items()})
        pairs = [(module, sides[1][path]) for path, module in sides[0].items() if path in sides[1]]
        if not pairs:
            raise UsageError(
                "student and teacher have no layers in common", place="teacher_hidden", hint="leave it out"
            )
        return pairs


class Recorded:
    """Outputs of a model in the order of its calls, and hidden states that its layers gave."""

    def __init__(self) -> None:
        self.outputs: list[Any] = []
        self.hidden: list[torch.Tensor] = []

    def add_output(self, module: nn.Module, args: Any, output: Any) -> None:
        """Take the output of the model, as its forward hook."""
        self.outputs.append(output)

    def add_hidden(self, module: nn.Module, args: Any, output: Any) -> None:
        """Take the output of a layer, as its forward hook."""
        self.hidden.append(output if isinstance(output, torch.Tensor) else output[0])


class _Call:
    """Runs the task's loss, as the function that the lens observes."""

    def __init__(self, task: Task, model: nn.Module, batch: Batch) -> None:
        self.task, self.model, self.batch = task, model, batch

    def __call__(self) -> Any:
        """Return the loss of the batch."""
        return self.task.loss(self.model, self.batch)


def _relative_error(mine: torch.Tensor, theirs: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the mean squared difference, as a share of the mean square of the teacher's values."""
    if mine.shape != theirs.shape:
        cause = f"a layer gives {tuple(mine.shape)}, and its teacher's {tuple(theirs.shape)}"
        raise UsageError(cause, place="teacher_hidden", hint="leave it out")
    mask = positions_that_count(mine, batch)
    error = mean_by_item((mine.float() - theirs.float()).square(), mask)
    size = mean_by_item(theirs.float().square(), mask)
    return error.mean() / size.mean().clamp(min=torch.finfo(torch.float32).tiny)


# ---------------------------------------------------------------- which model


def _folder(stage: TrainOptions, run: Run) -> Path:
    if stage.teacher != "before":
        return Path(str(stage.teacher))
    if run.earlier_model is None:
        cause = "`teacher: before` needs a stage before it in the same recipe that takes something away from the model"
        raise UsageError(cause, place="teacher", hint="give the folder of a saved model")
    return run.earlier_model


def _remember(run: Run, folder: Path) -> dict[str, Json]:
    """Return the hashes of a teacher's weights; note them, or compare them with those that were noted.

    Raises:
        CheckpointError: the training began with another teacher.
    """
    hashes: dict[str, Json] = {name: known["sha256"] for name, known in read_manifest(folder)["files"].items()}
    file = run.folder / _RECORD
    if file.is_file():
        if json.loads(file.read_text(encoding="utf-8")).get("sha256") != hashes:
            hint = "put the folder back as it was, or start the run again"
            raise CheckpointError("the training began with another teacher", place=str(folder), hint=hint)
    elif run.process.main:
        write_json(file, {"sha256": hashes})
    run.process.barrier()
    return hashes


def require_same_outputs(teacher: Task, student: Task, folder: Path) -> None:
    """Check that the outputs of two tasks mean the same.

    Raises:
        UsageError: one is of another task, other labels, or another vocabulary.
    """
    if teacher.name != student.name:
        cause = f"the teacher is a model of {teacher.name}, and the task is {student.name}"
        raise UsageError(cause, place=str(folder), hint="give a model of the same task")
    for name, value in student.state.values.items():
        known = teacher.state.values.get(name)
        if isinstance(value, list) and isinstance(known, list) and known != value:
            cause = f"the teacher's `{name}` are others: {known[:3]}, and not {value[:3]}"
            raise UsageError(cause, place=str(folder), hint="give a model that was trained on the same labels")
    for kind, processor in student.state.processors.items():
        words: Callable[[], Any] | None = getattr(processor, "get_vocab", None)
        known_words = getattr(teacher.state.processors.get(kind), "get_vocab", None)
        if words is not None and known_words is not None and words() != known_words():
            cause = f"the teacher has another vocabulary ({kind})"
            raise UsageError(cause, place=str(folder), hint="give a model with the same tokenizer")
