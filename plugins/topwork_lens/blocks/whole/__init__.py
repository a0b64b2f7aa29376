"""Whole layers: which ones a model can do without, how much each changes, and how they are left out.

- `access`: what `topwork.look(model)` can do with whole layers.
- `whole_layer`: what a layer is called, is given and gives.
- `discovery`: entries of a module list that run one after another, each on what the one before gave.
- `bypass`: the masked reference, and block influence.
- `leaving_out`: the smaller list, renumbered, with its proof; the shape of a saved model.
"""
