"""Attention heads of transformers 4 checkpoints: public import path of `topwork_lens.pruning.transformers4`."""

from topwork_lens.pruning.transformers4 import load, noted, shape

__all__ = ["load", "noted", "shape"]
