"""Runs of recipes, in the order in which a recipe meets them.

- `execute`: from a recipe to a finished run, and how an interrupted run goes on.
- `build`: the task and its model, from bases and training rows.
- `task_model`: `TaskModel`, what `topwork.build` and `topwork.load` give, for notebooks and scripts.
- `run`: `Run`, what a stage is given.
- `records`: what a run writes about itself in its folder, and what `resume` compares with the recipe.
- `fingerprints`: of the files that rows come from.
- `outputs`: files that finished stages left, compared before they are used again.
- `card`: what a run knows for the card of its model.
- `reuse`: finished stages that are kept, done again, or taken over from another run.
- `lock`: one process at a time in a folder.

Stages lie in `topwork.stages`, the training in `topwork.training`, model folders in `topwork.saving`.
"""

from topwork.runs.run import Run

__all__ = ["Run"]
