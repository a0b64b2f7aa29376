"""Processes of a run: the one that writes files, the exchange of objects, the device of each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from topwork.engines import check_engine, requested_sharding


class Process:
    """One process of a run; alone unless started by `accelerate launch` or `torchrun`.

    Attributes:
        index, count: this process and how many there are.
        main: True for the process that writes files and prints.
        device: the torch device that accelerate gives this process.
        sharding: how trainings divide their model among the processes (FSDP2); None for DDP, and for one process.
    """

    def __init__(self) -> None:
        from accelerate import PartialState

        cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
        state = PartialState(cpu=True) if cpu else PartialState()
        self.sharding = requested_sharding(os.environ, state.distributed_type.value)
        check_engine(os.environ, state.distributed_type.value)
        self.index, self.count = state.process_index, state.num_processes
        self.device = state.device

    @classmethod
    def alone(cls) -> Self:
        """Return this process as one without peers, on the device that it has among them."""
        process = cls()
        process.index, process.count = 0, 1
        return process

    @property
    def main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.index == 0

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.count > 1:
            self.gather(None)

    def gather(self, value: Any) -> list[Any]:
        """Return every process's value, in the order of the processes, on every process."""
        if self.count == 1:
            return [value]
        import torch.distributed

        values: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return values

    def sum(self, tensor: Any) -> Any:
        """Return the sum of every process's tensor, on every process."""
        if self.count > 1:
            import torch.distributed

            tensor = tensor.clone()
            torch.distributed.all_reduce(tensor)
        return tensor

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the block on the main process first, so that it can fill caches that the others then read."""
        if not self.main:
            self.barrier()
        yield
        if self.main:
            self.barrier()


def is_sharded(model: Any) -> bool:
    """Return whether parameters of a model are divided among processes (FSDP2, tensor parallelism)."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())
