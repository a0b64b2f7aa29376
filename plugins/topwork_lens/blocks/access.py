"""`BlockAccess`: what `topwork.look(model)` can do with feed-forward neurons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from topwork import Block
from topwork_lens.blocks.discovery import find_blocks, neurons_by_block
from topwork_lens.gates import factors_of, gated, keep_gates, kept_gates
from topwork_lens.pruning.probes import call_on


class BlockAccess:
    """Neurons of a model: found and masked; `prune` of the same object removes them.

    A block is named by its index, in the order in which blocks run (-1 is the last), or by the path of the projection
    that reads its neurons. Neurons keep the indices that they had before pruning.
    """

    model: nn.Module
    plugins: Any

    @property
    def blocks(self) -> list[Block]:
        """The feed-forward neurons as they stand now, in the order in which they run on a random batch."""
        return self.find_blocks()

    def find_blocks(self, check: Any = None) -> list[Block]:
        """Find the feed-forward neurons of the model by a run.

        Args:
            check: the batch that is run, as for `prune`: what does not run is not seen.
        """
        with torch.inference_mode(False):
            return find_blocks(self.model, call_on(self.model, check), self.plugins)

    @contextmanager
    def mask_neurons(self, neurons: Mapping[Any, Sequence[int]], *, check: Any = None) -> Iterator[None]:
        """Switch neurons off for a block of code: the features that the next projection reads are multiplied by 0.

        Args:
            neurons: original indices by index or path of a block.
            check: as of `find_blocks`.
        """
        chosen = neurons_by_block(self.find_blocks(check), neurons)
        gates = {path: (block, factors_of(block, masked)) for path, (block, masked) in chosen.items()}
        with gated(self.model, gates):
            yield

    def keep_masked_neurons(
        self, neurons: Mapping[Any, Sequence[int]], factor: float = 0.0, *, check: Any = None
    ) -> dict[str, list[int]]:
        """Switch neurons off for good, without cutting: the gates stay on the model and are saved with it.

        This is the form for blocks whose parameters cannot be cut; it saves no time and no parameters. Gates that are
        there already stay.

        Args:
            neurons: original indices by index or path of a block.
            factor: what they are multiplied by.
            check: as of `find_blocks`.

        Returns:
            Original indices of those switched off now, by path.

        Raises:
            Refused: these are experts whose weights are 3-D parameters.
        """
        chosen = neurons_by_block(self.find_blocks(check), neurons)
        for block, masked in chosen.values():
            factors = list(kept_gates(self.model, block) or [1.0] * block.width)
            for index in masked:
                factors[index] = factor
            keep_gates(self.model, block, factors)
        return {path: masked for path, (_, masked) in chosen.items()}
