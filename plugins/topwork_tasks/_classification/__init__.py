"""Shared code of tasks with labels: reading of labels, losses, metrics."""
