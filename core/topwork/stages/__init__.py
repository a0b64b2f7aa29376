"""The stages of the core, one file each: `train`, `evaluate`, `predict`, `save`.

Each is a plugin with a name of its own in the entry-point table, so each can be disabled alone. The plugins declare
their stage only: its options are imported when a recipe names it.
"""

from __future__ import annotations

from topwork.hookspecs import hookimpl
from topwork.plugins.declaration import Declaration


class StagePlugin:
    """Plugin that declares one stage.

    Args:
        stage: the declaration.
    """

    def __init__(self, stage: Declaration) -> None:
        self.stage = stage

    @hookimpl
    def register_stages(self) -> list[Declaration]:
        """Give the declared stage."""
        return [self.stage]


TRAIN = StagePlugin(Declaration("train", "topwork.stages.train:Train", "Train the model on the train rows."))
EVALUATE = StagePlugin(
    Declaration(
        "evaluate", "topwork.stages.evaluate:Evaluate", "Metrics over the evaluate rows (or those of another role)."
    )
)
PREDICT = StagePlugin(
    Declaration(
        "predict",
        "topwork.stages.predict:Predict",
        'predictions.jsonl: one line per row, {"row": number, "prediction": ...}.',
    )
)
SAVE = StagePlugin(Declaration("save", "topwork.stages.save:Save", "Write the model folder, and prove that it loads."))
