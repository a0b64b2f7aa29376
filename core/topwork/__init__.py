"""topwork: graft a task head onto a base, train it from a recipe, look inside its attention heads, prune them.

The public names stand in `__init__.pyi`. Each is imported when it is first used, so `import topwork` costs nothing.

What a plugin author reads, in this order: `hookspecs` (every hook), `task`, `items`, `metric`, `stage`, `base`,
`attention_layer`, `errors`, `task_heads`, `testing` (checks that a contract is kept). Folders:

- `cli`: the command line, one file for each family of commands
- `recipe`: YAML to a checked `Recipe`, or to every problem with its location
- `plugins`: finding, loading and checking plugins
- `data`: rows by role, batches, the loop over rows
- `runs`: a recipe's stages in their order, run folders, resuming
- `stages`: train, evaluate, predict, save
- `training`: transformers' Trainer with the batches of `data`
- `saving`: model folders
- `kernels`: faster products on CPUs, chosen by measurement
"""

from topwork.lazy import attach

__version__ = "0.1.0"
__getattr__, __dir__ = attach(__name__, renamed={"Unfinished": "DeferredModule", "fast_products": "accelerated"})
