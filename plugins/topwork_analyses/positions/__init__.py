"""Positions of a model's states that a word, a region of an image or a stretch of time covers.

- `readers`: from a row to the input of a frozen model, and what its positions are.
- `spans`: spans of rows, and the positions that they cover; `tokens`: tokens and their characters.
- `heads`: heads of words, checked; `weights`: attention weights between all positions.
"""
