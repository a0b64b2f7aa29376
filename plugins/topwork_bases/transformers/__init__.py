"""Bases that transformers loads.

- `base`: the base, and the hook that opens it.
- `sources`: where a base lies, and what its files say.
- `written`: which configs surely fit, by the text of transformers' classes.
- `modules`: from a config to a module, with every weight accounted for.
- `backbones`: networks without a task head.
- `quantized`: weights of few bits, and why a base cannot have them.
"""
