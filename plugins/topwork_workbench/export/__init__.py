"""Exported models, ONNX and torch.export.

- `stage`, `command`: the ways in.
- `card`: what an exported folder says of its model.
- `calls`, `parts`: forward calls are recorded, parts of the model traced.
- `formats`, `writing`: programs are written, opened again and compared.
- `running`: a model that runs them.
"""
