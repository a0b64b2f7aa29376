"""Training on transformers' Trainer: `trainer`, `arguments`, `dataset` (encoded rows), `stream`, `freezing`."""
