"""Lens plugin: finding, observing, scoring and pruning attention heads of any model.

In the order in which a model meets them:

- `plugin`: the hooks; `look`: `Look`, what the lens can do with one model.
- `layers`: attention layers, found and described; `blocks`: feed-forward neurons, and whole layers.
- `activations`: every tensor that is no weight; `capture`: attention weights, and the check that a slice is one head;
  `patching`: replacing activations.
- `gates`: factors on the outputs of heads.
- `scoring`: importance of heads, and choices by it.
- `pruning`: removal, proved equal to masking; `schedule`: searches for heads that can go.
- `stages`: all of this in recipes; `command`: scores by many processes.
- `show`: attention in a notebook; `head_weights`: weights of single attention heads in 8 bits, for pages.
- `coverage`: what the matrix of architectures measured.

Used by several: `model_state`, `scope`, `flops`, `tables`, `refusals`. `v4` is a public path.
"""
