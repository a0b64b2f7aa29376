"""Pruning: remove attention heads from a model and prove that the result equals the masked model."""
