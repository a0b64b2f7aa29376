"""Sweeps over the options of a recipe by optuna: what is searched (`space`), the trials (`study`), the command."""
