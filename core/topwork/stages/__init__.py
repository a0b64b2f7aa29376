"""The stages of the core, one file each: `train`, `evaluate`, `predict`, `save`.

Each is a plugin with a name of its own in the entry-point table, so each can be disabled alone. The declarations below
are all that is imported of a stage until a recipe names it.
"""

from __future__ import annotations

from topwork.plugins.declaration import Declaration

TRAIN = Declaration("train", "topwork.stages.train:Train", "Train the model on the train rows.", "stage")
EVALUATE = Declaration(
    "evaluate",
    "topwork.stages.evaluate:Evaluate",
    "Metrics over the evaluate rows (or those of another role).",
    "stage",
)
PREDICT = Declaration(
    "predict",
    "topwork.stages.predict:Predict",
    'predictions.jsonl: one line per row, {"row": number, "prediction": ...}.',
    "stage",
)
SAVE = Declaration("save", "topwork.stages.save:Save", "Write the model folder, and prove that it loads.", "stage")
