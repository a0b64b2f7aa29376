"""Search spaces, written as `key.path=values` like an override. Entry point: `parse`.

`stages.train.batch_size=8,16,32` are choices, `stages.train.epochs=1..5` whole numbers, `task.dropout=0.0..0.3` any
numbers between, `stages.train.learning_rate=log:1e-5..1e-3` the same with even logarithms.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from topwork import UsageError

if TYPE_CHECKING:
    import optuna

_RANGE = re.compile(r"(log:)?([^.\s]*(?:\.\d[^.\s]*)?|\d+\.)\.\.(\S+)")
HINT = "write key.path=1,2,3 or key.path=0.1..0.5 or key.path=log:1e-5..1e-3"


@dataclass(frozen=True)
class Choices:
    """Values to choose from, as they stand after an override's equals sign."""

    key: str
    values: tuple[str, ...]

    def ends(self) -> list[str]:
        """Return overrides that show whether the recipe can have the values: all of them."""
        return [f"{self.key}={value}" for value in self.values]

    def suggest(self, trial: optuna.Trial) -> str:
        """Return the value of a trial, as an override."""
        return f"{self.key}={trial.suggest_categorical(self.key, self.values)}"


@dataclass(frozen=True)
class Between:
    """Numbers of an interval, ends included.

    Args:
        key: path of the option.
        low: the least number.
        high: the largest.
        whole: whole numbers only.
        log: their logarithms are spread evenly.
    """

    key: str
    low: float
    high: float
    whole: bool
    log: bool

    def ends(self) -> list[str]:
        """Return overrides that show whether the recipe can have the numbers: the ends of the interval."""
        return [f"{self.key}={int(end) if self.whole else repr(end)}" for end in (self.low, self.high)]

    def suggest(self, trial: optuna.Trial) -> str:
        """Return the number of a trial, as an override."""
        if self.whole:
            return f"{self.key}={trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log)}"
        return f"{self.key}={trial.suggest_float(self.key, self.low, self.high, log=self.log)!r}"


Dimension = Choices | Between


def parse(texts: Sequence[str]) -> list[Dimension]:
    """Return the dimensions of a search space.

    Args:
        texts: one `key.path=values` each.

    Raises:
        UsageError: none, one that cannot be read, or one key twice.
    """
    if not texts:
        raise UsageError("nothing to search", place="--search", hint=HINT)
    dimensions = [_dimension(text) for text in texts]
    keys = [dimension.key for dimension in dimensions]
    for key in keys:
        if keys.count(key) > 1:
            raise UsageError(f"`{key}` is searched twice", place="--search", hint="give each option once")
    return dimensions


def _dimension(text: str) -> Dimension:
    key, equals, values = (part.strip() for part in text.partition("="))
    if not (key and equals and values):
        raise UsageError(f"`{text}` is no search", place="--search", hint=HINT)
    if match := _RANGE.fullmatch(values):
        return _between(text, key, *match.groups())
    choices = tuple(value.strip() for value in values.split(","))
    if len(choices) < 2 or "" in choices or len(set(choices)) < len(choices):
        raise UsageError(f"`{text}` needs several different values", place="--search", hint=HINT)
    return Choices(key, choices)


def _between(text: str, key: str, log: str | None, first: str, last: str) -> Between:
    try:
        low, high = float(first), float(last)
        whole = all(re.fullmatch(r"[+-]?\d+", end) for end in (first, last))
    except ValueError as error:
        raise UsageError(f"`{text}` is no interval of numbers", place="--search", hint=HINT) from error
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(f"`{text}` goes from {first} to {last}", place="--search", hint="write the lower end first")
    if log and low <= 0:
        raise UsageError(f"`{text}` has no logarithm at {first}", place="--search", hint="begin above 0")
    return Between(key, low, high, whole, bool(log))


def grid(space: Sequence[Dimension]) -> dict[str, tuple[str, ...]]:
    """Return the values of each key for a grid.

    Raises:
        UsageError: an interval, which has no end of values.
    """
    values: dict[str, tuple[str, ...]] = {}
    for dimension in space:
        if isinstance(dimension, Between):
            raise UsageError(
                f"a grid needs single values of `{dimension.key}`", place="--search", hint=f"{dimension.key}=1,2,3"
            )
        values[dimension.key] = dimension.values
    return values
