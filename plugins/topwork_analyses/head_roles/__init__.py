"""Roles of attention heads, found on one half of the rows and confirmed on the other (Voita et al. 2019).

- `roles`: shares of queries whose most attended key belongs to a set of keys, and what they make of a head.
- `stage`: the stage `head_roles`.
"""
