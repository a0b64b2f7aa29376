"""A plugin for the tests of recipes and of the command line: two tasks and a few stages that do nothing."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from topwork import Column, Stage, Task, TaskOptions, hookimpl


class Schedule(BaseModel):
    """Options two levels deep."""

    model_config = ConfigDict(extra="forbid")

    warmup: float = Field(0.1, description="share of the steps")
    kind: Literal["linear", "cosine"] = "linear"


class Learn(Stage):
    """Learns nothing."""

    name: ClassVar[str] = "learn"

    epochs: PositiveInt = 1
    rate: float = 1e-3
    schedule: Schedule = Field(default_factory=Schedule)
    stop: Schedule | PositiveInt | None = None

    def reads(self) -> tuple[str, ...]:
        return ("train",)

    def __call__(self, run):
        return {}


class Measure(Stage):
    """Measures nothing."""

    name: ClassVar[str] = "measure"

    role: Literal["evaluate", "train"] = "evaluate"

    def reads(self) -> tuple[str, ...]:
        return (self.role,)

    def __call__(self, run):
        return {}


class Score(Stage):
    """Reads rows to calibrate on."""

    name: ClassVar[str] = "score"

    def reads(self) -> tuple[str, ...]:
        return ("calibrate",)

    def __call__(self, run):
        return {}


class ToyOptions(TaskOptions):
    length: int = Field(8, description="of an item")
    words: list[str] = []


class Toy(Task):
    """A task of nothing."""

    name = "toy-task"
    Options = ToyOptions
    columns = {
        "text": Column("some text"),
        "label": Column("its label", target=True),
        "note": Column("", required=False),
    }

    @classmethod
    def learn(cls, rows, bases, options):
        raise AssertionError("not in these tests")

    @classmethod
    def example_rows(cls):
        return []

    def build(self, weights=True):
        raise AssertionError("not in these tests")

    def encode(self, rows, mode, seed):
        return []

    def collate(self, items, mode):
        raise AssertionError("not in these tests")

    def predict(self, model, batch):
        return []

    def metric(self):
        raise AssertionError("not in these tests")


class Pair(Toy):
    """The same with two bases."""

    name = "toy-pair"
    roles = ("reader", "writer")


def shout(text: str) -> None:
    """Print a text in capitals."""
    print(text.upper())


@hookimpl
def register_tasks():
    return [Toy, Pair]


@hookimpl
def register_stages():
    return [Learn, Measure, Score]


@hookimpl
def register_samples():
    return {"words": "some words"}


@hookimpl
def register_commands():
    return [shout]
