"""Attention against syntax (CAT-probing, Chen et al. 2022): agreement of large attention with small tree distance.

- `stage`: the stage `cat_probing`; `study`: a model over rows.
- `trees`: syntax trees; `python_trees`, `grammars`, `dependencies`: made of Python, other languages, sentences.
- `token_types`: types of tokens that get much attention.
- `cat_score`: the score and its permutation null.
"""
