"""Attention between words against syntax and coreference: what single heads and their combinations know.

After Clark et al. 2019, sections 4 and 5.

- `sentences`: sentences with dependencies, documents with coreference clusters, and how rows and files give them.
- `word_attention`: attention between words from attention between tokens.
- `dependencies`: the best attention head and the best fixed offset of each relation, chosen and confirmed apart.
- `coreference`: antecedents by attention, beside the nearest mention and the same word.
- `attention_probe`: heads of words by a weighted sum of all attention heads.
- `stage`: the stage `word_relations`.
"""
