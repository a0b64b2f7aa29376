"""Similarity of the layers of two models (CKA), and what a training or a pruning has moved."""
