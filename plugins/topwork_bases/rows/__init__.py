"""Rows from files, folders and the Hub.

- `plugin`: the hook; `splits`: the split of what was loaded.
- `files`: which files a path means, and their format.
- `tables`: csv and tsv; `records`: JSON; `audio_files`: folders of clips.
- `described`: folders of images or clips that a table describes.
- `walking`: files below a folder, links followed; what is left out.
- `parquet_files`: what grows beyond reason; `text_files`: decoding; `stored`: the cache of what was read.
"""
