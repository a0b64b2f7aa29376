"""Sample rows that come with installed packages.

- `plugin`: the hooks and the table of all samples
- `generated`: the cache of samples that a generator makes
- one file for each sample, with a function from a split to its rows
"""
