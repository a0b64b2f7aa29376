"""Sweeps over the options of a recipe by optuna.

- `command`: `topwork sweep`.
- `space`: the options and their ranges; `study`: the trials.
"""
