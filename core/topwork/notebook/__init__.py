"""Notebooks: what a cell shows.

- `views`: a run or attention as a page in a frame.
- `bar`: progress bars.
"""
