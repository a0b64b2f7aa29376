"""Compression under a budget: attention heads, feed-forward neurons and whole layers; built on the lens."""
