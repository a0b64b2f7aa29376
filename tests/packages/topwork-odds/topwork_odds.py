"""A base that transformers does not know, a task head for it under an existing task, its attention, and a stage."""

import json
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from topwork import AttentionLayer, BaseOptions, Size, Slices, Stage, hookimpl


class OddBase:
    """`odd:<width>` names it; a folder that was saved with it is recognised by its config."""

    def __init__(self, options: BaseOptions, config):
        self.options, self.config, self.scratch = options, config, True
        self.origin = {"kind": "odd", "config": config.to_dict()}

    def native(self, *auto, weights=True, **changes):
        return None

    def backbone(self, *, weights=True, maps=(), **changes):
        from topwork_odds_network import OddBackbone

        for key, value in changes.items():
            setattr(self.config, key, value)
        return OddBackbone(self.config)

    def trained_labels(self, *auto):
        return None

    def processor(self, kind, **changes):
        folder = Path(self.options.model)
        if kind != "tokenizer" or not (folder / "tokenizer.json").is_file():
            return None
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(folder, **changes)


@hookimpl
def load_base(name, options):
    file = Path(name) / "config.json"
    if name.startswith("odd:"):
        from topwork_odds_network import OddConfig

        return OddBase(options, OddConfig(width=int(name[4:])))
    if file.is_file() and json.loads(file.read_text()).get("model_type") == "odd":
        from topwork_odds_network import OddConfig

        return OddBase(options, OddConfig.from_pretrained(name))
    return None


@hookimpl
def build_head(task, bases, weights):
    if task.name != "text-classification" or not isinstance(task.base, OddBase):
        return None
    from topwork_odds_network import OddClassifier

    size = len(task.state.processors["tokenizer"])
    return OddClassifier(task.base.backbone(vocab_size=size), len(task.state.values["label_names"]))


@hookimpl
def attention_layer(path, module):
    if type(module).__name__ != "OddAttention":
        return None
    heads, width = module.number, module.each
    rows = [list(range(head * width, (head + 1) * width)) for head in range(heads)]
    fused = [[part * heads * width + place for part in range(3) for place in row] for row in rows]
    slices = (
        Slices("triple.weight", 0, fused),
        Slices("triple.bias", 0, fused),
        Slices("out.weight", 1, rows),
    )
    return AttentionLayer(path, "out", heads, width, slices=slices, sizes=(Size("number"),))


class CountParameters(Stage):
    """How many parameters the model has, and how many of them are trained."""

    name: ClassVar[str] = "count_parameters"
    millions: bool = Field(False, description="count in millions")

    def __call__(self, run):
        count = sum(parameter.numel() for parameter in run.model.parameters())
        return {"parameters": count / 1e6 if self.millions else count}


@hookimpl
def register_stages():
    return [CountParameters]
