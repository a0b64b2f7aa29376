"""Tasks: one module or package for each task, shared code in `_text`, `_vision`, `_audio` and `_classification`."""
