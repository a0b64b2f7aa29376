"""Scalars that analyses explain: the loss of a row, the logit of a class, a coordinate of a box, on any task.

- `options`: how a stage names a scalar.
- `named`: the scalar of one row, with its gradient.
"""
