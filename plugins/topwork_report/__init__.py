"""Report plugin: the page of a run."""
