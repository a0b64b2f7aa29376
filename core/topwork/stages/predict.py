"""The stage `predict`: predictions as JSON lines, in the order of the rows; what is large becomes files beside them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt

from topwork.data.loop import predict_rows, share_of
from topwork.data.table import row_number
from topwork.errors import CheckpointError
from topwork.files import plain, write_whole
from topwork.items import Json
from topwork.stage import Stage
from topwork.stages.standing import Standing, standing

if TYPE_CHECKING:
    from topwork.runs.run import Run


class Predict(Stage):
    """predictions.jsonl: one line per row, {"row": number, "prediction": ...}."""

    name: ClassVar[str] = "predict"

    role: Literal["predict", "evaluate", "calibrate", "train"] = Field("predict", description="whose rows")
    limit: PositiveInt | None = Field(None, description="use the first rows only")
    batch_size: PositiveInt = Field(32, description="most items in a batch")
    batch_cost: NonNegativeInt | None = Field(
        None, description="budget of tokens, pixels or samples in a batch; by default the task's own, 0 for none"
    )
    precision: Literal["float32", "bf16", "fp16"] = Field("float32", description="autocast while predicting")

    def reads(self) -> tuple[str, ...]:
        """Return the role whose rows are predicted."""
        return (self.role,)

    def __call__(self, run: Run) -> dict[str, Json]:
        """Predict the rows, each process its share, and merge the shares into one file."""
        settings = run.settings(items=self.batch_size, cost=self.batch_cost, precision=self.precision)
        rows = run.rows(self.role)
        files = Path(run.folder) / "files"
        share = Path(run.folder) / f".part-{run.process.index}.jsonl"
        resumed = standing(run, rows)
        with _Lines(share, settings.skipped, resumed) as lines:
            predictions = predict_rows(
                run.task, run.model, rows, settings, run.process, limit=self.limit, standing=resumed
            )
            total = share_of(rows, self.limit, run.process)
            for row_index, _, prediction in run.progress(predictions, total, "predicting"):
                files.mkdir(exist_ok=True)
                written = plain(run.task.write(prediction, files, f"{row_index:08d}"))
                lines.write({"row": row_number(rows, row_index), "prediction": written})
        counts = run.process.gather(lines.count)
        target = Path(run.folder) / "predictions.jsonl"
        if run.process.main:
            shares = [Path(run.folder) / f".part-{index}.jsonl" for index in range(run.process.count)]
            with write_whole(target) as temporary, temporary.open("w", encoding="utf-8") as out:
                out.writelines(in_order(shares))
            for part in shares:
                part.unlink()
            if files.is_dir() and not any(files.iterdir()):
                files.rmdir()
        skipped = [note for notes in run.process.gather(settings.skipped) for note in notes]
        return {
            "rows": sum(counts),
            "file": target.relative_to(run.root).as_posix(),
            "skipped": len(skipped),
            "skipped_rows": skipped[:20],
        }


class _Lines:
    """Lines of a process's share of the predictions; a context manager.

    Args:
        file: they are written to it.
        skipped: notes of the rows that were left out.
        resumed: where the process stands in a stream, and what it knew of this file then.

    Attributes:
        count: lines in the file.

    Raises:
        CheckpointError: the file lacks lines that were written.
    """

    def __init__(self, file: Path, skipped: list[dict[str, Json]], resumed: Standing | None) -> None:
        kept: Any = None if resumed is None else resumed.kept
        self.count, self._skipped = 0, skipped
        if kept is None:
            self._out: IO[bytes] = file.open("wb")
        else:
            if not file.is_file() or file.stat().st_size < kept["bytes"]:
                hint = f"remove {resumed.file} as well: the stage begins anew" if resumed is not None else None
                raise CheckpointError("it lacks predictions that were written", place=str(file), hint=hint)
            self._out = file.open("r+b")
            self._out.truncate(kept["bytes"])
            self._out.seek(0, os.SEEK_END)
            self.count = kept["count"]
            skipped.extend(kept["skipped"])
        if resumed is not None:
            resumed.keep = self._state

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._out.close()

    def write(self, line: Json) -> None:
        """Write a line."""
        self._out.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self.count += 1

    def _state(self) -> Json:
        """Return what the file has, once that is on the disk."""
        self._out.flush()
        os.fsync(self._out.fileno())
        return {"bytes": self._out.tell(), "count": self.count, "skipped": self._skipped}


def in_order(shares: list[Path]) -> Iterator[str]:
    """Yield the lines of the processes' shares, merged by row number."""
    import heapq

    def lines(path: Path) -> Iterator[tuple[int, str]]:
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)["row"], line

    for _, line in heapq.merge(*map(lines, shares)):
        yield line
