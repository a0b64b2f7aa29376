"""Shared code of text tasks: tokenizers, windows, generation, metrics."""
