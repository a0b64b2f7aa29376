"""The stage `export`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt

from topwork import Json, Stage
from topwork_workbench.export.formats import FORMATS, Format

if TYPE_CHECKING:
    from topwork import Run


def _distinct(names: list[Format]) -> list[Format]:
    if len(set(names)) < len(names):
        raise ValueError("a format stands twice")
    return names


class Export(Stage):
    """Write the model as a program (ONNX, torch.export), and compare it with the model on rows of the run."""

    name: ClassVar[str] = "export"
    columns_shown: ClassVar[tuple[str, ...]] = ("largest_difference", "megabytes")

    formats: Annotated[list[Format], Field(min_length=1), AfterValidator(_distinct)] = Field(
        default=["onnx"], description=f"formats of the programs: {', '.join(FORMATS)}"
    )
    folder: str = Field(
        "exported", description="where in the run folder; of several formats each has a folder of its own in it"
    )
    role: Literal["evaluate", "calibrate", "train", "predict"] = Field(
        "evaluate", description="whose rows the programs are compared on"
    )
    rows: PositiveInt = Field(8, description="how many rows, in batches of all, of two and of one")
    tolerance: PositiveFloat | None = Field(
        None, description="largest difference of outputs relative to the largest; by default that of the dtype"
    )
    opset: PositiveInt | None = Field(None, description="version of the operators of ONNX; by default the exporter's")

    def reads(self) -> tuple[str, ...]:
        """Return the role whose rows are compared."""
        return (self.role,)

    def precheck(self, before: Sequence[Stage]) -> str | None:
        """Return which packages are missing."""
        for name in self.formats:
            if missing := FORMATS[name].missing():
                return f"the format `{name}` needs {', '.join(missing)}: pip install 'topwork[export]'"
        return None

    def __call__(self, run: Run) -> dict[str, Json]:
        """Trace the model once, write and compare it in each format."""
        from topwork_workbench.export.writing import Exporter

        target, inside = run.output_folder(self.folder)
        folders = {name: target if len(self.formats) == 1 else target / name for name in self.formats}
        entries: list[dict[str, Json]] = []
        if run.process.main:
            given = _first(run.rows(self.role), self.rows)
            exporter = Exporter(run, given, self.tolerance, self.opset, run.card())
            for name, folder in folders.items():
                entries += [{"format": name, **part} for part in exporter.save(name, folder)]
        run.process.barrier()
        locations = {
            name: folder.relative_to(run.root).as_posix() if inside else str(folder.absolute())
            for name, folder in folders.items()
        }
        return {
            "exported": locations,
            "rows": self.rows,
            "role": self.role,
            "largest_difference": max((entry["largest difference"] for entry in entries), default=None),
            "megabytes": round(sum(entry["megabytes"] for entry in entries), 3),
            "tables": {"Exported programs": entries},
        }


def _first(rows: Json, count: int) -> list[Json]:
    """Return the first rows."""
    if hasattr(rows, "take") and not hasattr(rows, "__len__"):
        return list(rows.take(count))
    return [rows[index] for index in range(min(count, len(rows)))]
