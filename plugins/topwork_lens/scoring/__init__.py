"""Scores of attention heads, and choices made by them.

- `access`: what `topwork.look(model)` scores.
- `plain_models`: losses of plain models, row by row from one run.
- `importance`: `score`, the entry point of all methods; sums over rows and processes.
- `gradients`: Michel's and Taylor's scores, from gradients of gates.
- `entropy`: sharpness of attention.
- `shapley`: Shapley values.
- `ablation`: the two ablation tables of Michel et al. (2019).
- `row_independence`: conditions under which a batch may be scored in one pass.
- `memory`: splitting of batches that would keep too much for the backward pass.
- `selection`: `Importance`, normalisation, and choosing attention heads by it.
- `export`: an `Importance` as files.
"""
