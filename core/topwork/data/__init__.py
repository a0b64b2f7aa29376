"""Rows of data: where they come from, what their cells are, and how they become batches.

In the order in which rows meet them:

- `options`: what a recipe says about data
- `roles`: rows of each role, read, limited and cut
- `columns`: from the columns of a source to those of the task
- `values`: rows from a text, a list of texts or paths, a DataFrame
- `table`: rows with random access, which know where each was written
- `names`: names that a source declares for integers
- `streams`: rows that come one by one
- `cells`: from text as it was written to values, by the kind of a column
- `splits`: a split of a source, by name or slices
- `cuts`: which rows a cut takes: in proportion to labels, or whole groups
- `checks`: all rows before the first stage
- `profile`: counts, distributions and doubts before training
- `batching`: how items become batches
- `loop`: encode, predict, merge: the loop behind evaluation, prediction and importance
"""
