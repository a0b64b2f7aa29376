"""The stage `predict`: predictions as JSON lines, in the order of the rows; what is large becomes files beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from topwork.data.loop import predict_rows, share_of
from topwork.data.table import row_number
from topwork.files import plain, write_whole
from topwork.items import Json
from topwork.stage import Stage

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
        count = 0
        with share.open("w", encoding="utf-8") as out:
            predictions = predict_rows(run.task, run.model, rows, settings, run.process, limit=self.limit)
            total = share_of(rows, self.limit, run.process)
            for row_index, _, prediction in run.progress(predictions, total, "predicting"):
                files.mkdir(exist_ok=True)
                written = plain(run.task.write(prediction, files, f"{row_index:08d}"))
                line = {"row": row_number(rows, row_index), "prediction": written}
                out.write(json.dumps(line, ensure_ascii=False) + "\n")
                count += 1
        counts = run.process.gather(count)
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


def in_order(shares: list[Path]) -> Iterator[str]:
    """Yield the lines of the processes' shares, merged by row number."""
    import heapq

    def lines(path: Path) -> Iterator[tuple[int, str]]:
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)["row"], line

    for _, line in heapq.merge(*map(lines, shares)):
        yield line
