"""Model folders: `model_folder` writes and loads them, `manifest` describes them, `weights` holds tensors."""
