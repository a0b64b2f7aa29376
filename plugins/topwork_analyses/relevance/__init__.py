"""Relevance of input positions: rollout, flow, norms, gradients of attention; with numbers of faithfulness.

- `stage`: the stage `relevance`; `study`: all rows; `methods`: one row by every method.
- `rollout`, `norms`, `chefer`: the methods.
- `faithfulness`: the loss of a prediction without the positions that are called relevant.
"""
