"""Pages beside that of one run that has ended.

- `live`: the page of a run that goes on.
- `compare`: several runs side by side; `repetitions`: the seeds or folds of one recipe.
- `sweep`: the trials of a search.
- `notebook`: a run or captured attention in a notebook.
- `profile_page`: the rows of a recipe, before any training.
"""
