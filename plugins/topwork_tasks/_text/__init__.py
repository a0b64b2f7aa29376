"""Shared code of the text tasks: tokenizers, words and windows, generation, metrics.

- `text_task`: `TextTask` and `TokenTargetTask`, the base classes.
- `inputs`: the text front end (`TextInputs`): tokenizer, lengths, padding, units, costs.
- `tokenizers`: tokenizers learned from rows.
- `words`: words and signs of any script, spans of characters.
- `windows`: texts longer than a model; which characters and words tokens cover.
- `generation`: options of `generate`, generating, texts of new tokens.
- `metrics`: texts against texts: ROUGE, BLEU, chrF, exact match.
"""
