"""Workbench around runs: trackers that observe trainings, sweeps, LoRA, exported models, a service, model cards.

- `plugin`: the hooks.
- `trackers`: libraries that keep the numbers of a run; `sweep`: searches over options of a recipe.
- `lora`: small trainable parts by peft; `thresholds`: thresholds chosen on calibrate rows.
- `export`: ONNX and torch.export; `serving`: a model behind HTTP; `hub`: uploads.
"""
