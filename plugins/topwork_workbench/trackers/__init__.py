"""Trackers: what a run tells (`tracker`), and the libraries that keep it (`sinks`)."""
