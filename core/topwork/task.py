"""The contract of a task: all that topwork knows about the purpose of a model stands behind the methods of `Task`.

A task is one class. Runs, the lens, the command line and the page use nothing else of it, so a short class gets all of
them. Only `learn`, `build`, `encode`, `collate`, `predict`, `metric` and `example_rows` must be written; the others
have a default that is right, if not always the fastest. `topwork.testing.check_task` tests an implementation.
"""

from __future__ import annotations

import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from topwork.base import Base, BaseOptions
from topwork.deprecation import warn_renamed
from topwork.errors import CheckpointError, TopworkError
from topwork.items import Batch, Column, Item, Json, Mode, Part, Picture, Prediction, Row, RowsView, Units, brief
from topwork.metric import Metric

if TYPE_CHECKING:
    import torch
    from torch import nn


class TaskOptions(BaseModel):
    """Options of a task in a recipe; subclass it as `Task.Options`. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass
class State:
    """Values that a task learned from its rows and its base, once; saved with the model.

    Args:
        values: JSON: label names, statistics, weights of classes ...
        processors: by kind ("tokenizer", "image_processor", ...; with several bases "role/kind"): saved in the model
            folder by their own `save_pretrained`, and handed back on loading.
        notes: lines for the log about how the rows were read; not saved.
    """

    values: dict[str, Json] = field(default_factory=dict)
    processors: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def _distinct(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("a name stands there twice")
    return names


#: type of label names in a state, for `Task.state_types`: one or more texts, none of them twice
OutputNames = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1), AfterValidator(_distinct)]

#: how a field of a model's output is read: as logits of a distribution over the last dimension ("classes", or tokens:
#: "positions") or over dimension 1 ("maps"), as logits that each stand for themselves ("labels"), as numbers ("values")
OutputKind = Literal["classes", "positions", "maps", "labels", "values"]

#: deprecated names of methods that plugins override -> today's names
_RENAMED_METHODS = {"doubtful": "precheck", "one_by_one": "single_row_losses"}


class Task(ABC):
    """Contract of a task on a base.

    A task object owns its preprocessing: after loading it predicts without anything but its model folder.

    Class attributes:
        name: as in a recipe; for the Hub's tasks the pipeline tag.
        Options: pydantic model of the options.
        columns: what is read from the rows, by canonical name.
        roles: names of the bases that the task needs: ("base",) or, say, ("encoder", "decoder").
        alternatives: other sets of roles that do instead of `roles`: a recipe chooses by the names that it gives.
        cost_unit: what `Item.cost` counts ("tokens", "pixels", "samples"), for messages.
        state_types: types of the entries of `State.values`, by name. The values of a model folder are checked against
            them before a task is made of it; an entry without a type is taken as it is.
        rows_view: what `topwork data` shows of rows before any model exists.
        group_rows: rows that are encoded together in mode "train" (packing); 1 for everything else.
        repeatable: False when the items of mode "train" depend on the seed (augmentation), so that they must not be
            kept across epochs.
    """

    name: ClassVar[str]
    Options: ClassVar[type[TaskOptions]] = TaskOptions
    columns: ClassVar[Mapping[str, Column]]
    roles: ClassVar[tuple[str, ...]] = ("base",)
    alternatives: ClassVar[tuple[tuple[str, ...], ...]] = ()
    cost_unit: ClassVar[str] = "items"
    state_types: ClassVar[Mapping[str, Any]] = {}
    rows_view: ClassVar[RowsView] = RowsView()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for old, new in _RENAMED_METHODS.items():
            if old in vars(cls) and new not in vars(cls):
                warn_renamed(f"{cls.__name__}.{old}", new)
                setattr(cls, new, vars(cls)[old])
        if "collate" in vars(cls):
            setattr(cls, "collate", _noting_mode(vars(cls)["collate"]))  # noqa: B010  # a method is no plain attribute

    def __init__(self, bases: Mapping[str, Base], options: Any, state: State) -> None:
        self.bases, self.options, self.state = dict(bases), options, state

    @property
    def base(self) -> Base:
        """The base of a task that has only one; of several, the first role's."""
        return self.bases[self.nearest_roles(self.bases)[0]]

    @classmethod
    def fits(cls, names: Collection[str]) -> bool:
        """Return whether bases by these names are those of the task: its `roles`, or one of its `alternatives`."""
        return any(set(names) == set(roles) for roles in (cls.roles, *cls.alternatives))

    @classmethod
    def nearest_roles(cls, names: Collection[str]) -> tuple[str, ...]:
        """Return the set of `roles` and `alternatives` that shares the most names with these; else `roles`."""
        return max((cls.roles, *cls.alternatives), key=lambda roles: len(set(roles) & set(names)))

    @classmethod
    def recipe_problems(
        cls, options: Any, bases: Mapping[str, BaseOptions], columns: Collection[str], stages: Sequence[str]
    ) -> Sequence[tuple[str, str]]:
        """Return what cannot work together in a recipe, while nothing is loaded yet. Default: nothing.

        Args:
            options: the task's options.
            bases: options of the bases, by role.
            columns: the task's columns that the recipe maps.
            stages: names of the recipe's stages.

        Returns:
            (path of the key, message) of each problem, such as ("stages.prune_heads", "...").
        """
        return ()

    @classmethod
    def check_state(cls, values: Mapping[str, Json]) -> None:
        """Compare the values of a saved state with `state_types`.

        Raises:
            CheckpointError: names the entry that the task cannot have learned.
        """
        for name, kind in cls.state_types.items():
            try:
                if name in values:
                    TypeAdapter(kind).validate_python(values[name], strict=True)
            except ValidationError as error:
                first = error.errors()[0]
                path = ".".join(["state", name, *map(str, first["loc"])])
                cause = f"the manifest is damaged (`{path}` is {reprlib.repr(values[name])}: {first['msg']})"
                raise CheckpointError(cause, hint="copy the folder again, or save the model again") from error

    # ------------------------------------------------------------------ once, before the run

    @classmethod
    @abstractmethod
    def learn(cls, rows: Any, bases: Mapping[str, Base], options: Any) -> State:
        """Learn label names, vocabulary, tokenizer, statistics from the training rows and the base.

        Args:
            rows: the training rows (canonical column names): a `datasets.Dataset` or an iterable of dicts. None when
                there are none (prediction with a base that already carries everything): then what the base knows
                must do, or a TopworkError says what is missing.
            bases: by role.
            options: the task's options.

        Example:
            @classmethod
            def learn(cls, rows, bases, options):
                return State({"labels": sorted({row["label"] for row in rows})})
        """

    @abstractmethod
    def build(self, weights: bool = True) -> nn.Module:
        """Return the base with the right task head. Plugins' `build_head` is asked before.

        Args:
            weights: False only shapes the module; weights are loaded later.
        """

    # ------------------------------------------------------------------ rows -> tensors

    @abstractmethod
    def encode(self, rows: Sequence[Row], mode: Mode, seed: int) -> list[Item]:
        """Make items of rows: none, one or several a row (windows, chunks, packing).

        In mode "train" items go into batches one by one, whatever their row; in mode "loss" all items of a row stand in
        one batch. So what must always stay together (the two sides of a pair, say) is one item.

        Args:
            rows: dicts with the canonical columns. With `group_rows` > 1, in mode "train", that many rows that stand
                together in the data set; the items then belong to whichever row they started in.
            mode: "train" (augmentation, targets), "loss" (targets, nothing random), "predict" (no targets needed).
            seed: the only source of randomness: the same rows, mode and seed give the same items. The *number* and
                the costs of the items must not depend on it.

        Raises:
            DataError: with the position of the row in `rows`, its column and the hint.
        """

    @abstractmethod
    def collate(self, items: Sequence[Item], mode: Mode) -> Batch:
        """Pad and stack items: the tensors of `Batch.inputs` go to the model's device, the items stay beside them.

        The model's own batch best has one entry an item, in their order. Where it has not (both sides of a pair in one
        run), the lens cannot tell the rows apart and asks to score them one at a time.

        Args:
            items: of one mode.
            mode: as of `encode`; without targets in mode "predict".
        """

    def precheck(self, row: Row, mode: Mode) -> bool:
        """Return True if `encode` might reject this row; judge from file headers only, decode nothing. Default: False.

        Runs over all rows before the first stage. Rows that return True are encoded to decide.

        Args:
            row: with canonical columns.
            mode: in which the row would be encoded.

        Raises:
            DataError: the one that `encode` would raise.
        """
        return False

    #: rows that are encoded together in mode "train" (packing); 1 for everything else
    group_rows: int = 1

    #: False when the items of mode "train" depend on the seed (augmentation), so they must not be kept across epochs
    repeatable: bool = True

    def costs(self, rows: Sequence[Row]) -> list[list[int]] | None:
        """Return the costs of the items of each row in mode "train", where they are known without encoding.

        Default: None, they are not known.
        """
        return None

    def cost_budget(self, device: str) -> int | None:
        """Return the largest count * cost of a batch of predictions; None (the default) for no such bound.

        A good value keeps padding and cache misses small.

        Args:
            device: the kind of device, "cpu" or "cuda".
        """
        return None

    # ------------------------------------------------------------------ tensors -> numbers

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the training loss of a batch, a scalar. Default: the model's own.

        What changes the loss in training only (label smoothing, mixing ...) is in force where `batch.mode` is "train":
        the loss of an evaluation and those that score attention heads are unchanged, whatever mode the model is in.

        Args:
            model: may be wrapped (several processes): call it, do not reach inside.
            batch: on the model's device.
        """
        loss = model(**batch.inputs).loss
        if loss is None:
            raise TopworkError(
                f"{type(model).__name__} gave no loss",
                place=f"task {self.name}",
                hint="give the task a `loss` of its own",
            )
        return loss

    def loss_terms(self, model: nn.Module, batch: Batch) -> Sequence[torch.Tensor]:
        """Return the summands of `loss` that are means over different numbers of targets. Default: `loss` alone."""
        return (self.loss(model, batch),)

    def target_counts(self, batch: Batch) -> Sequence[float | torch.Tensor]:
        """Return for each of `loss_terms` the number that it is divided by. Default: the number of items.

        It is a number of targets of which a row has a varying number (tokens, boxes, pixels), or a sum of weights.
        Batches whose gradients are accumulated, on one process or several, are weighted by it, so that they make the
        step of one large batch. 0 means that the term is a sum and no mean; where a batch has no targets, and the term
        is divided by 1, the number is 0 as well.

        Example:
            return ((batch.inputs["labels"] != -100).sum(),)
        """
        return (len(batch),)

    def output_kinds(self) -> Mapping[str, OutputKind]:
        """Return how fields of the model's output are read; a training with a teacher compares them with the teacher's.

        Default: `logits`, a distribution over the last dimension.
        """
        return {"logits": "classes"}

    def row_losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the loss of each row as if it were alone, [rows]. Default: one row at a time, which is always right.

        A loss that compares rows with each other (contrastive) has no value for one row: let `collate` note the mode,
        and in mode "loss" return a loss that one row has, such as the distance of its two sides.

        Override it where one forward gives the same numbers; `topwork.testing` compares the two. Where only some
        models allow that, override `single_row_losses` too.
        """
        import torch

        by_row: list[list[Item]] = [[] for _ in range(batch.row_count)]
        for item, row in zip(batch.items, batch.rows):
            by_row[row].append(item)
        device = batch.device or next(model.parameters()).device
        losses = [self.loss(model, self.collate(items, "loss").to(device)) for items in by_row]
        return torch.stack([loss.reshape(()) for loss in losses])

    @property
    def single_row_losses(self) -> bool:
        """Whether `row_losses` runs the model more than once for a batch of several rows.

        Loss batches then hold one row: a gate has a factor for each row of its batch, and must meet all of them in one
        run.
        """
        return type(self).row_losses is Task.row_losses

    @abstractmethod
    def predict(self, model: nn.Module, batch: Batch) -> list[Part]:
        """Return one part per item, small and on the CPU: by a forward or by `generate`. Called without gradients."""

    def merge(self, row: Row, parts: Sequence[Part]) -> Prediction:
        """Return the prediction of a row from the parts of its items, in their order. Default: the only part."""
        if len(parts) != 1:
            raise TopworkError(
                f"a row has {len(parts)} parts and the task does not merge them",
                place=f"task {self.name}",
                hint="write `Task.merge`",
            )
        return parts[0]

    # ------------------------------------------------------------------ predictions -> readers

    @abstractmethod
    def metric(self) -> Metric:
        """Return a fresh metric. Its keys are known before the run."""

    def choose_thresholds(self, metric: Metric) -> dict[str, Json] | None:
        """Return options that decide best on the rows of a `metric`. Default: None, the task has no thresholds."""
        return None

    def write(self, prediction: Prediction, folder: Path, name: str) -> Json:
        """Return the prediction as JSON. Default: the prediction is JSON already.

        Args:
            prediction: of one row.
            folder: where parts that are too large become files, which the JSON names.
            name: with which the names of those files begin.
        """
        return prediction

    def units(self, item: Item) -> Units:
        """Return the description of the positions of an item. Default: tokens without names."""
        return Units("token")

    def draw(self, row: Row, prediction: Prediction) -> Picture:
        """Return a rendering of a prediction beside the truth. Default: both as text."""
        truth = {name: row.get(name) for name, column in self.columns.items() if column.target}
        facts = {**({"truth": brief(truth)} if truth else {}), "prediction": brief(prediction)}
        caption = f"predicted {brief(prediction)}" + (f", truth {brief(truth)}" if truth else "")
        return Picture(caption, facts=facts)

    @classmethod
    @abstractmethod
    def example_rows(cls) -> list[Row]:
        """Return eight or more small rows with at least three distinct targets: documentation, test data, dry run."""

    # ------------------------------------------------------------------ what the model folder says

    def describe(self) -> dict[str, Json]:
        """Return the facts of the model card. Default: the state's plain values."""
        return {key: value for key, value in self.state.values.items() if isinstance(value, str | int | float | list)}


def _noting_mode(collate: Callable[..., Batch]) -> Callable[..., Batch]:
    """Wrap a task's `collate` so that the batch knows its mode."""

    @wraps(collate)
    def collate_in_mode(self: Task, items: Sequence[Item], mode: Mode) -> Batch:
        batch = collate(self, items, mode)
        if isinstance(batch, Batch):
            batch.mode = mode
        return batch

    return collate_in_mode
