"""Pruning of the blocks of a freshly built model to the shape that a manifest describes.

Entry point: `rebuild_blocks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from topwork import CheckpointError, Json
from topwork_lens.blocks.description import of_note
from topwork_lens.blocks.discovery import taught_block
from topwork_lens.layers.state import is_taught, write
from topwork_lens.pruning.slicing import cut


def rebuild_blocks(model: nn.Module, manifest: Mapping[str, Json], plugins: Any = None) -> None:
    """Prune the blocks that the lens's section of a manifest names.

    Raises:
        CheckpointError: a block of the manifest is not in this model, or has another number of neurons.
    """
    for path, note in manifest.get("blocks", {}).items():
        block = taught_block(model, path, plugins) or of_note(model, path, note, whole=True)
        if block.removed:
            raise CheckpointError("the model is pruned already", place=path)
        if is_taught(block) != (path in manifest.get("taught", {})):
            cause = "the block was described by a plugin that is not loaded"
            raise CheckpointError(cause, place=path, hint="load it with the plugins that it was saved with")
        cut(model, block, note["kept"], ())
        write(model, "blocks", block, dict(note))
