"""Changes that plugins made to a model's structure (pruned, gated), kept on the model and saved with it.

A plugin writes its own section; on loading the hook `model_rebuilt` gets all sections back before the weights come.
A model with alterations is never saved under a file name that plain transformers would load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from topwork.items import Json

if TYPE_CHECKING:
    from torch import nn

_ATTRIBUTE = "_topwork_alterations"


def alterations(model: nn.Module) -> dict[str, Json]:
    """Return the sections of a model, by plugin: a live dict that a plugin may write its own section into (JSON only).

    Example:
        >>> topwork.alterations(model)["my_plugin"] = {"scale": 0.5}  # doctest: +SKIP
    """
    sections = model.__dict__.get(_ATTRIBUTE)
    if sections is None:
        sections = {}
        model.__dict__[_ATTRIBUTE] = sections
    return sections
