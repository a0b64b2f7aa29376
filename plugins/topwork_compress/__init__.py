"""Compression under a budget: attention heads, feed-forward neurons and whole layers; built on the lens.

In the order in which a model meets them:

- `plugin`: the hooks; `stages` and `command`: the ways in.
- `procedure`: all steps from calibration rows to the proof; `compression`: the steps; `plan`: their data classes.
- `whole_layers`: layers that go first.
- `units`, `scores`, `surgeon`: attention heads and neurons with their costs and scores; `latency`: costs in seconds.
- `search`, `dynamic`, `uniform`: what a budget keeps; `rearrange`: swaps that lower the estimated loss.
- `positions`, `tuning`: what reads the units that are left is fitted, position by position.
- `eight_bits`: linear layers with weights of 8 bits, where they are faster.
- `measure`: metrics and times before and after; `curve`: the same of other budgets, on copies.
"""
