"""Attention heads of transformers 4 checkpoints: public import path of `topwork_lens.pruning.transformers4`."""

from topwork_lens.pruning.transformers4 import load, shape
from topwork_lens.pruning.transformers4 import recorded_heads as noted

__all__ = ["load", "noted", "shape"]
