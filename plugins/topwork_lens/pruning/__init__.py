"""Removal of attention heads, proved equal to masking them.

- `prune`: `prune`, the entry point, and its result.
- `job`: the layers one by one, each in the best form that passes its check.
- `strategies`: the forms of one layer, the best first.
- `layout_search`: variants of a layer's description, where its pattern leaves something out.
- `slicing`, `soft`: the two forms: sliced parameters, and compact ones scattered at run time.
- `reshapes`, `arguments`: what sliced layers need at run time.
- `equivalence`, `references`: comparison of masked and pruned; `probes`, `probe_call`: on which batches.
- `replaced`: modules that a model replaces when it runs.
- `preconditions`: layers that are never pruned.
- `rebuild`: the shape of a saved model; `transformers4`: checkpoints that transformers 4 pruned.
"""
