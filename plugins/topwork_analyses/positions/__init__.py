"""Positions of a model's states: which of them a word, a region of an image or a stretch of time covers."""
