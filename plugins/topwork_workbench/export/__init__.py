"""Exported models, ONNX and torch.export: traced (`calls`, `parts`), written (`formats`, `writing`), run (`running`).

`stage` and `command` are the ways in.
"""
