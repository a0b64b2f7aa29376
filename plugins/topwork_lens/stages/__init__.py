"""Recipe stages of the lens; torch is imported only when a stage runs.

- `attention`: entropy, distance and mass of every attention head, and attention of some rows to be drawn.
- `head_importance`: scores of every attention head, and the options by which other stages score.
- `head_ablation`: the metric without each attention head, and with each alone in its layer.
- `selection`: options of the stages that choose attention heads.
- `mask_heads`, `prune_heads`: switch chosen attention heads off, or remove them.
- `prune_schedule`: a search for attention heads that can be removed.
"""
