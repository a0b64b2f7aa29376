"""Bases that timm loads.

- `base`: the base, and the hook that opens it.
- `modules`: networks as backbones, and new classifiers.
"""
