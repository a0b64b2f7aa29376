"""Patterns of attention: where attention heads look, how broadly, how alike they are (Clark et al. 2019).

- `key_sets`: named sets of keys for each kind of position: tokens, patches of an image, frames of time.
- `statistics_of_heads`: means over rows with intervals, for each attention head.
- `distances`: Jensen-Shannon divergences between attention heads, their map and clusters.
- `rows_of_weights`: attention weights of rows, one at a time.
- `stage`: the stage `attention_patterns`; `report`: its result.
"""
