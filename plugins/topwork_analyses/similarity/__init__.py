"""Similarity of the layers of two models (CKA), and drift by a training or a pruning.

- `stage`: the stage `drift`; `drift`: its comparison.
- `cka`: linear CKA with a permutation null.
"""
