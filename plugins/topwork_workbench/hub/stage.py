"""The stage `push`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from topwork import Json, Stage, UsageError

if TYPE_CHECKING:
    from topwork import Run


class Push(Stage):
    """Say what an upload of the saved model to the Hub does; with `yes: true`, do it."""

    name: ClassVar[str] = "push"

    repo: str = Field(description="id of the repository, owner/name")
    yes: bool = Field(False, description="upload; without it the stage only says what it would do")
    folder: str | None = Field(None, description="folder in the run folder; by default what the last `save` wrote")
    private: bool = Field(True, description="a repository that does not exist yet is made private")
    revision: str | None = Field(None, description="branch; by default the main one")
    message: str | None = Field(None, description="of the commit")
    license: str | None = Field(None, description="licence in the card, an identifier of the Hub such as apache-2.0")
    languages: list[str] = Field(default=[], description="languages in the card, such as [en, de]")

    def precheck(self, before: Sequence[Stage]) -> str | None:
        """Return that nothing is saved before."""
        if self.folder is None and not any(stage.name == "save" for stage in before):
            return "nothing is saved before: put the stage `save` before it, or name a `folder`"
        return None

    def __call__(self, run: Run) -> dict[str, Json]:
        """Print the plan, and upload when the recipe says so."""
        from topwork_workbench.hub.upload import Plan

        folder = run.root / self.folder if self.folder is not None else run.model_folder
        if folder is None:
            raise UsageError("nothing is saved", place="push", hint="put the stage `save` before it")
        plan = Plan.of(
            folder,
            self.repo,
            private=self.private,
            revision=self.revision,
            message=self.message,
            license_id=self.license,
            languages=self.languages,
        )
        result: dict[str, Json] = {"repo": self.repo, "files": len(plan.files), "pushed": self.yes, "commit": None}
        if run.process.main:
            for line in plan.lines():
                run.say(line)
            if self.yes:
                result["commit"] = plan.upload()
            else:
                run.say("nothing was sent: `yes: true` does it")
        run.process.barrier()
        sizes = [{"file": name, "bytes": size} for name, size in plan.files.items()]
        return {**result, "tables": {"Files for the Hub": sizes}}
