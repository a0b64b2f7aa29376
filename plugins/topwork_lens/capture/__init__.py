"""Capture: observe attention weights, statistics and contexts while a model runs."""
