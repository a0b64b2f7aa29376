"""Lens plugin: finding (`layers`), observing (`capture`), scoring and pruning attention heads of any model."""
