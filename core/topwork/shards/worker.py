"""The loop of a process that takes part: `Worker` takes shards until none is left, and one process joins the results.

Any number of processes run it on one folder, begin and end when they like, and may be killed at any moment: whoever is
left, or the same command given again, does the rest.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from topwork.errors import DataError
from topwork.files import name_file
from topwork.items import Json
from topwork.shards.claims import STALE_AFTER, Claims
from topwork.shards.description import Description, agree, rows_of_shard
from topwork.shards.parts import Parts
from topwork.shards.stores import Store
from topwork.system.signals import going_on_by

RESULT = "result.json"
_JOIN = "join"
#: seconds between two looks at shards that others have
_PAUSE = 0.2
#: (index of the shard, folder for its files) -> counts for its record: `rows`, `errors`
Compute = Callable[[int, Path], Mapping[str, Json]]


class Worker:
    """A process among those that share a folder.

    Args:
        folder: the folder.
        description: of the work.
        shards: into how many the rows are divided; None takes what the folder has, or a number that suits the rows.
        stale_after: seconds without a sign of life after which another process's shard is taken over.
        max_errors: rows that may be left out: a number, or below 1 a share of all rows; None for any number.

    Attributes:
        parts: the finished shards.
        output: where what is made of all shards is written; of a store it is a folder of this machine, from where it is
            uploaded, and which has result.json at the end.
        count: number of shards.
        computed: shards that this process has computed.

    Raises:
        UsageError: the folder is for other work.
    """

    def __init__(
        self,
        folder: Path | Store,
        description: Description,
        *,
        shards: int | None = None,
        stale_after: float = STALE_AFTER,
        max_errors: float | None = None,
    ) -> None:
        self.folder, self.stale_after, self.rows = folder, stale_after, description.rows
        self.count = agree(folder, description, shards)
        self.parts, self.output = _parts_of(folder)
        self.computed = 0
        self.budget = None
        if max_errors is not None:
            self.budget = int(max_errors * description.rows if max_errors < 1 else max_errors)

    def bounds(self, index: int) -> range:
        """Return the indices of the rows of a shard."""
        return rows_of_shard(self.rows, self.count, index)

    def run(self, compute: Compute, join: Callable[[Parts, int], None], say: Callable[[str], None]) -> None:
        """Take shards until all are finished, and join them unless that is done and nothing was changed since.

        Args:
            compute: the work on a shard.
            join: writes what is made of all shards; result.json, whole, is the last file that it writes.
            say: prints a line.

        Raises:
            DataError: more rows were left out than `max_errors` allows.
        """
        with (
            going_on_by("the same command goes on with the shards that are left"),
            Claims(self.folder / "claims", self.stale_after) as claims,
        ):
            pending = [index for index in range(self.count) if not self.parts.is_finished(index)]
            if pending and len(pending) < self.count:
                say(f"{self.count - len(pending)} of {self.count} shards are finished already")
            self._check_budget()
            while pending:
                left = [index for index in pending if not self._try(claims, index, compute, say)]
                if len(left) == len(pending):  # all that is left is in the hands of others
                    time.sleep(_PAUSE)
                    self._check_budget()
                pending = left
            self._join(claims, join)

    def _try(self, claims: Claims, index: int, compute: Compute, say: Callable[[str], None]) -> bool:
        """Return whether a shard is finished, after having computed it if nobody else was about to."""
        if self.parts.is_finished(index):
            return True
        with claims.holding(f"{index:05d}") as claim:
            if claim is None:
                return False
            if not self.parts.is_finished(index):  # not finished by the last holder, just now
                self._compute(index, compute)
                say(f"shard {index + 1} of {self.count}: {self._shown(index)}")
                self._check_budget()
            claim.done = True
        return True

    def _compute(self, index: int, compute: Compute) -> None:
        scratch = self.parts.scratch()
        try:
            counts = compute(index, scratch)
            self.computed += self.parts.publish(index, scratch, counts)
        except OSError as error:
            if not self.parts.is_finished(index):  # else: taken over, finished and swept while this process stood still
                name_file(error, Path(self.parts.location(index)))
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _shown(self, index: int) -> str:
        record = self.parts.record(index)
        left_out = f", {record['errors']} left out" if record["errors"] else ""
        return f"{record['rows']} rows{left_out}"

    def _join(self, claims: Claims, join: Callable[[Parts, int], None]) -> None:
        while not self.parts.is_sealed(self.output):
            with claims.holding(_JOIN) as claim:
                if claim is None:
                    time.sleep(_PAUSE)
                    continue
                if not self.parts.is_sealed(self.output):
                    join(self.parts, self.count)
                    self.parts.seal(self.output)
                    self.parts.sweep()
                    claims.sweep()
                claim.done = True

    def _check_budget(self) -> None:
        if self.budget is None:
            return
        errors = sum(int(self.parts.record(index).get("errors", 0)) for index in self.parts.finished())
        if errors > self.budget:
            raise DataError(
                f"{errors} rows cannot be used, more than the {self.budget} that `--max-errors` allows",
                place=str(self.folder),
                hint=f"errors.jsonl of the shards in {self.folder}/parts name them; mend the rows, or allow more",
            )


def _parts_of(folder: Path | Store) -> tuple[Parts, Path]:
    """Return the finished shards of a folder, and where all of them together are written."""
    if isinstance(folder, Path):
        return Parts(folder / "parts"), folder
    from topwork.shards.stored_parts import StoredParts

    parts = StoredParts(folder / "parts")
    return parts, parts.scratch()


def total(parts: Parts, count: int, key: str) -> int:
    """Return the sum of a count over the records of all shards."""
    records: list[dict[str, Any]] = [parts.record(index) for index in range(count)]
    return sum(int(record[key]) for record in records)
