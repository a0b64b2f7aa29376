"""Recipe stages of the lens."""
