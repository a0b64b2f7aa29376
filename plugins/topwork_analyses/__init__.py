"""Analyses of attention heads and layers, with controls and intervals, for any task; built on `topwork.look`.

- `plugin`: the hooks.
- `attention_patterns`, `head_roles`, `word_relations`, `syntax`: attention beside positions, words and trees.
- `head_effects`: the metric without attention heads; `patching`: which of them make a number of the outputs.
- `probing`: layers read by small probes; `exits`: by the trained task head; `similarity`: compared with other layers.
- `relevance`: input positions that a prediction rests on.
- `statistics`, `positions`, `scalars`: intervals, positions of words, numbers of the outputs; used by all of them.
"""
