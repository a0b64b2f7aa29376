"""Activations: tensors that flow through a model, by name, and the modules at which they are read and replaced.

- `sites`: `Site`, one activation of one part of a model; all names, and the keys by which a caller chooses sites.
- `hooks`: hooks that belong to a block of code, and the order in which they run.
- `taps`: `tapped`, which passes each activation of some sites to a function and puts back what that returns.
- `runs`: whether changes were in force where their part of the model ran.
- `states`: hidden states of stacks, the norm after a stack, inputs of task heads.
- `shares`: what each attention head adds to the residual stream.
"""
