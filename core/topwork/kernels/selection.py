"""`accelerated`: the context in which a model runs with the fastest kernels of this machine.

The choice comes, in this order, from the environment variable TOPWORK_KERNELS, from the record of the run that is
resumed (`following`), or from a measurement (see `measurement`). It is the same for all runs on a machine, because
kernels differ in the last digits.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Any

from topwork.errors import UsageError, unknown
from topwork.items import Json

VARIABLE = "TOPWORK_KERNELS"
WORDS = ("auto", "off", "onednn", "bf16")
#: a kernel must be faster by this factor to be chosen: less is within the noise of a measurement
LEAST_GAIN = 1.1

_followed: ContextVar[Choice | None] = ContextVar("followed", default=None)
_warned: set[str] = set()


@dataclass(frozen=True)
class Choice:
    """Kernels in use on the CPU.

    Args:
        onednn: float32 products by oneDNN.
        bf16: the mode for frozen models under autocast to bf16, which casts weights once.
        unfused: in that mode attention is computed unfused where a gradient flows.
        bf16_speed: speed of bf16 products relative to float32, as measured; None when not measured.
        source: "measured", "environment" or "run".
    """

    onednn: bool
    bf16: bool
    unfused: bool
    bf16_speed: float | None = None
    source: str = "measured"

    def to_dict(self) -> dict[str, Json]:
        """Return the choice as JSON, for the record of a run."""
        return asdict(self)

    def __str__(self) -> str:
        names = [name for name in ("onednn", "bf16", "unfused") if getattr(self, name)]
        speed = f"; bf16 products {self.bf16_speed:.2f} times as fast as float32" if self.bf16_speed else ""
        return f"{', '.join(names) or 'those of torch'} ({self.source}){speed}"


def accelerated(device: Any, precision: str = "float32", *, frozen: bool = False) -> AbstractContextManager:
    """Return a context in which a model runs with the fastest kernels of this CPU; it does nothing elsewhere.

    Numbers stay right, in training and without, and memory is no larger. Warns once when `precision` is "bf16" and
    bf16 is slower than float32 on this CPU.

    Args:
        device: the torch device of the model.
        precision: "float32", "bf16" or "fp16", as in a stage.
        frozen: no parameter needs a gradient, but something else does; then there is a mode for "bf16" too, which keeps
            the weights in bf16 until it is left.

    Example:
        >>> import topwork, torch
        >>> with topwork.accelerated(torch.device("cpu")):
        ...     torch.nn.functional.linear(torch.ones(1, 2), torch.ones(3, 2)).shape
        torch.Size([1, 3])
    """
    if device.type != "cpu" or precision not in ("float32", "bf16"):
        return nullcontext()
    kernels = choice()
    if precision == "bf16":
        _warn_if_slower(kernels)
        if not (frozen and kernels.bf16):
            return nullcontext()
        from topwork.kernels.bf16 import FrozenBf16Mode

        return FrozenBf16Mode(unfused=kernels.unfused)
    if not kernels.onednn:
        return nullcontext()
    from topwork.kernels.onednn import OneDnnMode

    return OneDnnMode()


def choice() -> Choice:
    """Return the kernels in use.

    Raises:
        UsageError: TOPWORK_KERNELS holds an unknown word, or asks for a kernel that this machine lacks.
    """
    words = [word.strip().lower() for word in os.environ.get(VARIABLE, "auto").split(",") if word.strip()]
    for word in words:
        if word not in WORDS:
            raise unknown(f"word in {VARIABLE}", word, WORDS)
    if words and words != ["auto"]:
        return _from_words(words)
    if (followed := _followed.get()) is not None:
        return followed
    from topwork.kernels.measurement import measured

    speeds = measured()
    return Choice(
        onednn=speeds["onednn"] >= LEAST_GAIN,
        bf16=True,
        unfused=speeds["frozen_bf16_attention"] >= LEAST_GAIN,
        bf16_speed=speeds["bf16"],
    )


def _from_words(words: list[str]) -> Choice:
    if "off" in words or "auto" in words:
        if len(words) > 1:
            raise UsageError(f"`{'`, `'.join(words)}` exclude each other", place=VARIABLE, hint="give one of them")
        return Choice(False, False, False, source="environment")
    if "onednn" in words:
        from topwork.kernels.onednn import is_available

        if not is_available():
            raise UsageError("torch has no oneDNN on this machine", place=VARIABLE, hint="set it to auto or off")
    return Choice("onednn" in words, "bf16" in words, "bf16" in words, source="environment")


@contextmanager
def following(record: Mapping[str, Json] | None) -> Iterator[None]:
    """Take, inside the block, the kernels that the record of a run names; without a record, those of this machine."""
    kernels = None
    if record is not None:
        from topwork.kernels.onednn import is_available

        known = {name: record[name] for name in ("onednn", "bf16", "unfused", "bf16_speed") if name in record}
        kernels = Choice(**{"onednn": False, "bf16": True, "unfused": False, **known, "source": "run"})
        if kernels.onednn and not is_available():
            warnings.warn(
                "the run was started with oneDNN, which torch lacks here; its numbers will differ in the last digits",
                RuntimeWarning,
                stacklevel=2,
            )
            kernels = None
    token = _followed.set(kernels)
    try:
        yield
    finally:
        _followed.reset(token)


def _warn_if_slower(kernels: Choice) -> None:
    if kernels.bf16_speed is not None and kernels.bf16_speed < 1 and "bf16" not in _warned:
        _warned.add("bf16")
        warnings.warn(
            "`precision: bf16` is slower than float32 on this CPU: its products take"
            f" {1 / kernels.bf16_speed:.1f} times as long",
            RuntimeWarning,
            stacklevel=3,
        )
