"""Hidden states of a frozen model, computed once and written to a file as they come: memory does not grow with rows.

Entry point: `write_states`. Items of one shape run together, so that nothing is padded and a state is that of its
item alone.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from topwork import Item, Refused, UsageError
from topwork_analyses.positions.readers import Reader
from topwork_lens.look import Look

#: items that are encoded before the first of them runs
BUCKET = 256
#: most items in a batch
BATCH = 16
#: bytes that are read before the pages of the file are given back: they count as memory of the process
RELEASE = 2**23


class StateFile:
    """States in a file, read in parts: [positions, layers, width] of float32.

    Args:
        file: where they stand.
        shape: of all.
    """

    def __init__(self, file: Path, shape: tuple[int, int, int]) -> None:
        self.file, self.shape = file, shape
        with file.open("rb") as opened:
            self.mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        self.array = np.frombuffer(self.mapped, dtype=np.float32).reshape(shape)
        self.unreleased = 0

    def __getitem__(self, key: Any) -> np.ndarray:
        """Return a copy of some states; the pages that were read are given back now and then."""
        values = np.array(self.array[key])
        self.unreleased += values.nbytes
        if self.unreleased > RELEASE and hasattr(mmap, "MADV_DONTNEED"):
            self.mapped.madvise(mmap.MADV_DONTNEED)
            self.unreleased = 0
        return values


def write_states(
    reader: Reader,
    items: Iterable[Item],
    file: Path,
    *,
    plugins: Any = None,
    stack: str | None = None,
    written: Callable[[Item, int, int], None],
) -> StateFile:
    """Run a model on items, and write the states of all layers of one of its stacks.

    Args:
        reader: that made the items, and runs the model.
        items: in any number.
        file: where the states are written.
        plugins: that describe attention layers.
        stack: path of the stack of layers; None for the first whose states have one shape [positions, width].
        written: called for each item with the index of its first position in the file and how many it has.

    Raises:
        UsageError: there is no such stack, or no item.
        Refused: no stack has states that can be mixed.
    """
    look = Look(reader.module, plugins)
    total, layers, width = 0, 0, 0
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as output:
        for bucket in _buckets(items):
            for batch in _alike(bucket):
                states = batch_states(reader, look, batch, stack)
                if layers and states.shape[2:] != (layers, width):
                    cause = f"states of {tuple(states.shape[2:])} layers and width, before of {(layers, width)}"
                    raise Refused(cause, reason="unknown_layout")
                layers, width = states.shape[2:]
                for item, values in zip(batch, states):
                    output.write(np.ascontiguousarray(values, dtype=np.float32).tobytes())
                    written(item, total, len(values))
                    total += len(values)
    if not total:
        raise UsageError("there is no row to take states of", hint="give rows, or raise `limit`")
    return StateFile(file, (total, layers, width))


@torch.no_grad()
def batch_states(reader: Reader, look: Look, items: Sequence[Item], stack: str | None = None) -> np.ndarray:
    """Return the states of items of one shape [items, positions, layers, width].

    Of several forward passes (generation) those of the first are returned.

    Raises:
        UsageError: there is no such stack.
        Refused: no stack has states that can be mixed, or they are not apart by items.
    """
    with look.capture("hidden_states") as seen:
        reader.run(items)
    stacks = seen.hidden_states(run=0)
    if stack is not None and stack not in stacks:
        raise UsageError(f"no stack of layers `{stack}` ran", hint=f"there are {', '.join(stacks)}")
    reasons = {}
    for path, states in stacks.items() if stack is None else [(stack, stacks[stack])]:
        reasons[path] = _unfit(states, len(items))
        if reasons[path] is None:
            return torch.stack(states, 2).float().numpy()
    listed = "; ".join(f"{path}: {reason}" for path, reason in reasons.items())
    raise Refused(f"no stack of layers has states that can be mixed ({listed})", reason="unknown_layout")


def _unfit(states: Sequence[torch.Tensor], items: int) -> str | None:
    """Return why the states of a stack cannot be mixed; None when they can."""
    shapes = {tuple(state.shape) for state in states}
    if len(shapes) > 1:
        return "its layers have different positions or widths"
    shape = shapes.pop()
    if len(shape) != 3:
        return f"its states have {len(shape)} dimensions"
    return None if shape[0] == items else f"its states are not apart by items ({shape[0]} for {items})"


def _buckets(items: Iterable[Item]) -> Iterator[list[Item]]:
    bucket: list[Item] = []
    for item in items:
        bucket.append(item)
        if len(bucket) == BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


def _alike(items: Sequence[Item]) -> Iterator[list[Item]]:
    """Batches of items whose inputs have the same shapes, in the order of their first items."""
    groups: dict[Any, list[Item]] = {}
    for item in items:
        groups.setdefault(_shape(item.inputs), []).append(item)
    for group in groups.values():
        for start in range(0, len(group), BATCH):
            yield group[start : start + BATCH]


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple((name, _shape(entry)) for name, entry in value.items())
    if hasattr(value, "shape"):
        return tuple(value.shape)
    return len(value) if isinstance(value, list | tuple) else None
