"""Attention layers: how they are found in a model and described.

- `discovery`: all attention layers of a model; layers and attention heads by the keys that callers use.
- `description`: from a module and a pattern to an `AttentionLayer`.
- `architectures`: the patterns, the only file that names model types.
- `name_matching`: patterns made for other modules from the names of their projections.
- `context`: the input of the output projection, head by head.
- `mixing`: layers whose heads are mixed before the output projection.
- `variant`: a description with what its pattern left out, as pruning found it.
- `projections`: what counts as a projection, and where its features lie.
- `stacks`: lists of layers that run one after another.
- `feed_forward`: feed-forward networks, by the shapes of their projections.
- `torch_mha`: `nn.MultiheadAttention` with an output projection that hooks can see.
- `position_bias`: adapters for a position bias that layers share.
- `state`: what is noted on pruned and gated modules, and saved with the model.
"""
