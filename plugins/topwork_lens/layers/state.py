"""State of altered attention layers and blocks, noted on their modules: what remains, form, gates.

Entry points: `noted`, `write`, `gather`. A note lies on the attention module itself, so that it is found from whatever
part of a model, or wrapper around it, is looked at: original indices stay original. The model's alterations, which are
saved, are made of these notes. transformers' own `save_pretrained` knows nothing of them: that of an altered model
writes what `topwork` reads.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import nn

from topwork import AttentionLayer, Block, UsageError, alterations, save_pretrained

#: "layers", "blocks", "left_out": what was cut of attention, of neurons, of whole layers; "soft": what is scattered at
#: run time; "gates" and "neuron_gates": factors that stay, of
#: attention heads and of neurons; "taught": true when the layer was described by a plugin of somebody else, which
#: must be there when it is put back
Kind = Literal["layers", "soft", "gates", "neuron_gates", "taught", "blocks", "left_out"]

_ATTRIBUTE = "_topwork_lens_notes"


def noted(model: nn.Module, kind: Kind, path: str) -> Any | None:
    """Return what is noted about the attention layer at a path, or None."""
    return model.get_submodule(path).__dict__.get(_ATTRIBUTE, {}).get(kind)


def write(model: nn.Module, kind: Kind, layer: AttentionLayer | Block, value: Any | None) -> None:
    """Note something about an attention layer, in place of what was noted; None removes the note."""
    notes = model.get_submodule(layer.path).__dict__.setdefault(_ATTRIBUTE, {})
    notes.pop("taught", None)
    notes.pop(kind, None)
    if value is not None:
        notes[kind] = value
    if notes and is_taught(layer):
        notes["taught"] = True
    gather(model)


def note_module(model: nn.Module, kind: Kind, path: str, value: Any | None) -> None:
    """Note something about a module that is neither an attention layer nor a block; None removes the note."""
    notes = model.get_submodule(path).__dict__.setdefault(_ATTRIBUTE, {})
    notes.pop(kind, None)
    if value is not None:
        notes[kind] = value
    gather(model)


def hand_over(module: nn.Module, other: nn.Module) -> None:
    """Give what is noted on a module to the one that takes its place."""
    if _ATTRIBUTE in module.__dict__:
        other.__dict__[_ATTRIBUTE] = module.__dict__[_ATTRIBUTE]


def is_taught(layer: AttentionLayer | Block) -> bool:
    """Return whether a plugin described the layer, not a pattern of the lens."""
    return not layer.pattern


def gather(model: nn.Module) -> None:
    """Make the lens's section of the model's alterations say what is noted on its attention modules."""
    section: dict[str, dict[str, Any]] = {}
    modules = list(model.named_modules())
    for path, module in modules:
        notes: Mapping[str, Any] = module.__dict__.get(_ATTRIBUTE, {})
        for kind, entry in notes.items():
            section.setdefault(kind, {})[path] = entry
    if section:
        alterations(model)["lens"] = section
    else:
        alterations(model).pop("lens", None)
    _guard(modules, {path for paths in section.values() for path in paths})


class Saving:
    """Replacement for `save_pretrained` of an altered model of transformers.

    The original would write files without the notes: plain transformers would load some of those with random weights or
    without gates.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, save_directory: Any, *, state_dict: Mapping[str, Any] | None = None, **options: Any) -> None:
        """Write a folder for `topwork.from_pretrained`; transformers finds no weights in it, and says so.

        Raises:
            UsageError: weights that are not the model's own, or an option that plain files alone have.
        """
        if not options.pop("is_main_process", True):
            return
        wrong = [name for name in ("push_to_hub", "variant") if options.get(name)]
        if state_dict is not None and _shapes(state_dict) != _shapes(self.model.state_dict()):
            wrong.append("state_dict")
        if wrong:
            cause = f"parts of this model are pruned or gated: `{wrong[0]}` cannot be had for it"
            raise UsageError(cause, place="save_pretrained", hint="topwork.save_pretrained(model, folder)")
        save_pretrained(self.model, save_directory)


def _shapes(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: getattr(tensor, "shape", None) for name, tensor in state.items()}


def _guard(modules: Sequence[tuple[str, nn.Module]], altered: set[str]) -> None:
    """Give every model of transformers in which something is altered its own `save_pretrained`, and only those."""
    transformers: Any = sys.modules.get("transformers.modeling_utils")
    if transformers is None:
        return
    for path, module in modules:
        if not isinstance(module, transformers.PreTrainedModel):
            continue
        if any(not path or f"{below}.".startswith(f"{path}.") for below in altered):
            module.__dict__["save_pretrained"] = Saving(module)
        else:
            module.__dict__.pop("save_pretrained", None)
