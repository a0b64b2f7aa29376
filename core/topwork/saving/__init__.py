"""Model folders, in the order in which saving meets their parts.

- `model_folder`: writes the folder of a task and its model; `loading`: loads it, and finds one on the Hub.
- `transformers_models`: the same for a model of transformers without a task.
- `programs`: the same for an exported program (ONNX, torch.export) in the place of weights.
- `manifest`: what a folder says about itself, and how it is checked before anything of it is used.
- `parts`: `TaskParts`, a task with its model, and `graft`, which makes one.
- `weights`: tensors to and from safetensors files, strictly.
- `verification`: proves that a folder that was just written loads, and gives the same model.
- `alterations`: what plugins changed in a model's structure; saved with it.
- `deferred`: modules that a plugin gives their shape before their weights come.
- `model_card`: the README.md of a folder.
"""
