"""Pruning schedules: searches for attention heads that can be removed within limits.

- `schedule`: `Schedule`, the search on the masked model, step by step or by bisection.
- `baselines`: other choices of the same size, measured for the curves, and the curves.
- `output_cache`: metric and scores of a masked model from one pass.
"""
