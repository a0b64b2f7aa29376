"""Where models and rows come from.

- `transformers`, `timm`: bases from these two libraries.
- `rows`: rows from files, folders and the Hub; `formats`: further layouts of files.
- `samples`: small data sets that come with the installation.
"""
