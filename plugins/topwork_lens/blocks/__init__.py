"""Feed-forward neurons, and whole layers: how they are found in a model, described, masked and left out.

- `access`: what `topwork.look(model)` can do with neurons.
- `discovery`: all blocks of a model; blocks and neurons by the keys that callers use.
- `trace`: which projections run, in which order and inside of which modules.
- `locality`: the test by which neurons are found.
- `partial_runs`: runs of a module of which only the part is computed that the test is about.
- `experts`: neurons of experts whose weights are 3-D parameters.
- `description`: from projections, or from what is noted on a pruned one, to a `Block`.
- `rebuild`: the shape of a saved model.
- `plain_widths`: widths that a config says, so that plain transformers builds the smaller model.
- `whole`: whole layers, which a model may do without.
"""
