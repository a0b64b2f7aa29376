"""Effects of attention heads on metric and loss: what changes without each of them, with intervals over rows.

- `row_values`: metric and loss of every row, and paired differences of two states of a model.
- `ablations`: zero, mean and resample ablation of attention heads.
- `effects`: one attention head removed, and all but one removed in a layer (Michel et al. 2019, tables 1 and 2).
- `slices`: the same by the values of a column.
- `report`: tables of a stage's result.
- `stage`: the stage `head_effects`.
- `over_training`: the stage `importance_over_training`.
"""
