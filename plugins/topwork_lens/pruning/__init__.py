"""Removal of attention heads and neurons, proved equal to masking them.

In the order in which a call meets them:

- `prune`: `prune`, the entry point, and its result.
- `preconditions`: layers that are never pruned.
- `probes`: the batches that a check runs on; `made_inputs`: inputs by the names of forward, where nobody gives any.
- `references`: what the masked model computes on them.
- `job`: the layers one by one, each in the best form that passes its check; else everything is put back.
- `strategies`: the forms of one layer, the best first; `neurons`: those of a block.
- `slicing`, `soft`: the two forms: sliced parameters, and compact ones scattered at run time.
- `equivalence`: the comparison of masked and pruned.

- `trial`: the form that each layer really takes, measured on a copy.

Needed by few models only:

- `layout_search`: variants of a layer's description, where its pattern leaves something out.
- `reshapes`, `arguments`: what sliced layers need at run time.
- `replaced`: modules that a model replaces when it runs.

Afterwards: `rebuild` gives a new model the shape of a saved one, `transformers4` that of a checkpoint that
transformers 4 pruned.
"""
