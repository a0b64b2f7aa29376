"""Faster kernels for CPUs. `topwork.accelerated` enters them where a measurement has shown that they are faster.

- `selection`: `accelerated`, and the choice of kernels, by environment variable, run record or measurement
- `measurement`: the measurement of one CPU and torch version, kept in the user's cache
- `onednn`: float32 products by oneDNN in place of MKL
- `bf16`: autocast to bf16 for frozen models
"""
