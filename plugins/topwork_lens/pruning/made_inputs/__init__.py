"""Inputs for a check that nobody gave: made of what a model's forward takes and of what its config says.

- `named`: batches by the names of forward's parameters, the most likely first.
- `shapes`: the alternatives of each kind of input.
- `sizes`: sizes that configs name.
- `placeholders`: tokens of a text that stand for images, videos and sounds.
"""
