"""LoRA by peft.

- `targets`: the modules that get it.
- `layers`: on a model and off again; `folder`: an adapter in a folder; `quantised`: weights of few bits as plain ones.
- `stage`: the stage `load_adapter`.
"""
