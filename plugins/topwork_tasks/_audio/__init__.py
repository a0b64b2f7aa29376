"""Shared code of audio tasks.

- `audio_task`: `AudioTask`, the base class.
- `clips`: clips from whatever a column holds, as samples at the model's rate; drawings of clips.
- `frontend`: `Frontend`, clips as a network takes them: feature extractor, windows, padding, masks.
- `augmentation`: speed, loudness and noise in training; `spec_augment`: masks in training.
- `preview`: rows before any model exists.
"""
