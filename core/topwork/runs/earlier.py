"""Models as they were before a stage: kept in a run folder for later stages that ask for one (`Stage.model_before`).

Entry point: `provide_earlier`. Such a model lies in the folder of the stage that changes it and stays there, so that
the later stage may be interrupted, or done again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from topwork.errors import UsageError
from topwork.saving.model_folder import save_folder

if TYPE_CHECKING:
    from topwork.runs.run import Run
    from topwork.stage import Stage

#: in the folder of a stage: the model as it was before it
BEFORE = "before"


def provide_earlier(run: Run, stages: Sequence[Stage], index: int) -> None:
    """Keep the model if a later stage needs it as it is now, and find the earlier one that this stage needs.

    Args:
        run: before the stage.
        stages: all stages of the recipe.
        index: of the stage that comes now.

    Raises:
        UsageError: the model that the stage needs was not kept.
    """
    later = (stage.model_before(stages[:number]) for number, stage in enumerate(stages) if number > index)
    if index in later:
        if run.process.main:
            save_folder(run.work, run.stage_folder(stages[index], index) / BEFORE, rows=run.loaded_rows())
        run.process.barrier()
    needed = stages[index].model_before(stages[:index])
    run.earlier_model = None
    if needed is not None:
        run.earlier_model = run.stage_folder(stages[needed], needed) / BEFORE
        if not run.earlier_model.is_dir():
            cause = f"the model before stage {needed + 1}, {stages[needed].name}, was not kept"
            hint = "run again from that stage on: it is kept when the recipe asks for it beforehand"
            raise UsageError(cause, place=str(run.earlier_model), hint=hint)
