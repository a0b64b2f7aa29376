"""Pruning of the blocks of a freshly built model to the shape that a manifest describes.

Entry point: `rebuild_blocks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from topwork import Block, CheckpointError, Json
from topwork_lens.blocks.description import describe_block, of_note
from topwork_lens.blocks.discovery import taught_block
from topwork_lens.gates import keep_gates
from topwork_lens.layers.state import is_taught, noted, write
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
    for path, factors in manifest.get("neuron_gates", {}).items():
        keep_gates(model, _gated_block(model, path, len(factors)), factors)


def _gated_block(model: nn.Module, path: str, width: int) -> Block:
    """Describe the block whose neurons a projection reads, as far as a gate needs it.

    Raises:
        CheckpointError: there is no such projection, or it reads other numbers of neurons.
    """
    inside, _, name = path.rpartition(".")
    try:
        note = noted(model, "blocks", path)
        block = describe_block(model, inside, name, ()) if note is None else of_note(model, path, note)
    except AttributeError as error:
        raise CheckpointError(f"the model has no such block: {error}", place=path) from error
    if block.width != width:
        raise CheckpointError(f"the manifest has gates for {width} neurons, the block has {block.width}", place=path)
    return block
