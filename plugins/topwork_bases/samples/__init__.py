"""Sample rows that come with installed packages.

- `plugin`: the hooks and the table of all samples; `generated`: the cache of samples that a generator makes.
- Images: `digits`, `digit_scenes`, `depth_scenes`. Sound: `spoken_digits`.
- Texts: `rated_words`, `facts`, `match_reports`, `number_words`, `python_docs`, `parsed_docs`, `python_tokens`,
  `python_functions`.
"""
