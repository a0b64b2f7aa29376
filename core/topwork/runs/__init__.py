"""Runs: `run` holds the run folder and its records, `execute` runs stages, `process` knows the ranks."""

from topwork.runs.run import Run

__all__ = ["Run"]
