"""Patches: activations of any part of a model, replaced for the time of a block.

- `patch`: `patched`, the entry point (behind `Look.patch`), and the choice of what is patched.
- `values`: what an activation is replaced with: numbers, tensors, means, values of other rows, captured values.
"""
