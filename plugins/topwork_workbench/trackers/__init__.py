"""Trackers: libraries that keep the numbers of a run.

- `tracker`: hears the news of a run.
- `sinks`: one thin class for each library.
"""
