"""The stage `save`: a model folder that plain transformers loads when it can, and topwork always."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from os.path import normpath
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, field_validator
from typing_extensions import override

from topwork.errors import UsageError
from topwork.files import write_json
from topwork.items import Json
from topwork.runs.lock import locking
from topwork.runs.records import RECIPE, RUN, STAGES, read_record
from topwork.saving.model_folder import is_plain, save_folder
from topwork.stage import Stage

if TYPE_CHECKING:
    from topwork.runs.run import Run

#: ISO 639, with script or region behind a hyphen, or `multilingual`
LanguageCode = Annotated[str, Field(pattern=r"^(multilingual|[a-z]{2,3}(-[A-Za-z0-9]{2,8})*)$")]
#: in the stage's folder: the folder outside the run folder that this run writes to
_CLAIM = "claim.json"


class Save(Stage):
    """Write the model folder, and prove that it loads."""

    name: ClassVar[str] = "save"

    folder: str | None = Field(None, description="where in the run folder; by default `model`")
    license: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][\w.+-]*$",
        description="of the model, on its card: such as apache-2.0",
    )
    language: list[LanguageCode] = Field(
        default_factory=list, description="of the texts that it is for, on its card: en, or [en, zh]"
    )

    @field_validator("language", mode="before")
    @classmethod
    def _one_language(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @override
    def precheck(self, before: Sequence[Stage]) -> str | None:
        parts = PurePosixPath(normpath(self.folder or "model")).parts
        if parts[:1] == (STAGES,):
            return f"`folder: {self.folder}`: `{STAGES}` holds the results of the run; name another folder"
        if parts in ((RUN,), (RECIPE,)):
            return f"`folder: {self.folder}` is a file of the run; name another folder"
        return None

    def __call__(self, run: Run) -> dict[str, Json]:
        """Write the model folder, and compare the model that it loads with the one in memory."""
        target, inside = run.output_folder(self.folder or "model")
        if run.process.main:
            with _claimed(run, target, inside):
                facts = replace(run.card(), license=self.license, languages=self.language)
                save_folder(run.work, target, facts, rows=run.loaded_rows())
        run.process.barrier()
        run.model_folder = target
        file = "model.safetensors" if is_plain(run.work) else "topwork.safetensors"
        size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
        # relative to the run folder, which may be moved; what was asked for elsewhere stays there
        location = target.relative_to(run.root).as_posix() if inside else str(target.absolute())
        return {"model_folder": location, "weights": file, "megabytes": round(size / 1e6, 3)}


@contextmanager
def _claimed(run: Run, target: Path, inside: bool) -> Iterator[None]:
    """Keep a folder outside the run folder for this run: two runs never write to the same one.

    Raises:
        UsageError: another run wrote to it, or writes to it now.
    """
    if inside:
        yield
        return
    target.mkdir(parents=True, exist_ok=True)
    try:
        with locking(target):
            claims = [read_record(file, "folder")["folder"] for file in run.root.glob(f"stages/*/{_CLAIM}")]
            if str(target.absolute()) not in claims and any(target.iterdir()):
                raise UsageError(
                    "the folder holds something that this run did not write",
                    place=str(target),
                    hint="name another folder, or delete this one",
                )
            write_json(run.folder / _CLAIM, {"folder": str(target.absolute())})
            yield
    finally:
        if target.is_dir() and not any(target.iterdir()):
            target.rmdir()
