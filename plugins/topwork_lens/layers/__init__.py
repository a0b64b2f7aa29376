"""Attention layers: how they are found in a model and described."""
