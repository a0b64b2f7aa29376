"""Trackers: what a run tells (`tracker`), what a stage left (`content`), the libraries that keep both (`sinks`)."""
