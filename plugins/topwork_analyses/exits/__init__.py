"""Early exits: the trained task head on the hidden states of every layer (logit lens), on any task.

- `stage`: the stage `early_exit`; `study`: metrics by layer.
- `early_exit`: the way of a model past its last layers.
"""
